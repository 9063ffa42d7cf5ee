"""Draw the pictures of the README: ``docs/faces.jpg`` and the animation ``docs/faces.webp``.

python docs/draw_faces.py [../shared/data/london]

The faces are from the Face Research Lab London Set (DeBruine and Jones 2017, doi
10.6084/m9.figshare.5047666), CC BY 4.0; cut, put side by side, turned, and drawn on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import PIL.Image

from pipnet import FaceLandmarker
from pipnet.geometry import Image

FOLDER = Path(__file__).parent
PEOPLE = ("020", "008", "087", "061", "069", "025", "119", "009", "123", "126")
"""In two rows."""
TILE = 300
"""Side of a person's tile in pixels."""
FRAMES, WIDTH, HEIGHT = 100, 540, 240
"""The animation: number of frames, and their size in pixels."""
MAX_ROLL = 20.0
"""Degrees by which the view turns."""


def main() -> None:
    """Write both pictures."""
    london = Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER.parent.parent / "shared" / "data" / "london")
    people = [read(london / f"{person}.jpg") for person in PEOPLE]
    landmarker = FaceLandmarker()
    columns = len(people) // 2
    faces = landmarker(np.vstack([np.hstack(people[:columns]), np.hstack(people[columns:])]))
    assert len(faces) == len(PEOPLE), f"{len(faces)} of {len(PEOPLE)} faces were found"
    faces.plot(boxes=False).save(FOLDER / "faces.jpg", quality=88, optimize=True)
    row = PIL.Image.fromarray(np.hstack([people[-1], *people, *people[:3]]))
    first, *others = [draw_frame(landmarker, row, k / FRAMES) for k in range(FRAMES)]
    first.save(
        FOLDER / "faces.webp", save_all=True, append_images=others, duration=80, loop=0, quality=55, method=6
    )


def read(path: Path) -> Image:
    """Return a person's tile."""
    photo = PIL.Image.open(path).convert("RGB").crop((30, 20, 370, 360))
    return np.asarray(photo.resize((TILE, TILE), PIL.Image.Resampling.LANCZOS))


def draw_frame(landmarker: FaceLandmarker, row: PIL.Image.Image, time: float) -> PIL.Image.Image:
    """Return the frame at a time from 0 to 1, in which the view moves along all people, and turns twice."""
    x, y = TILE * (1.5 + time * len(PEOPLE)), TILE / 2
    roll = np.deg2rad(MAX_ROLL * np.sin(4 * np.pi * time))
    scale = TILE / HEIGHT * (1 + 0.15 * np.sin(6 * np.pi * time))
    cos, sin = scale * np.cos(roll), scale * np.sin(roll)
    matrix = (
        *(cos, -sin, x - cos * WIDTH / 2 + sin * HEIGHT / 2),
        *(sin, cos, y - sin * WIDTH / 2 - cos * HEIGHT / 2),
    )
    view = row.transform(
        (WIDTH, HEIGHT),
        PIL.Image.Transform.AFFINE,
        matrix,
        PIL.Image.Resampling.BICUBIC,
        fillcolor=row.getpixel((5, 5)),
    )
    faces = landmarker(np.asarray(view))
    return faces[faces.quality > 0.7].plot(boxes=False)


if __name__ == "__main__":
    main()
