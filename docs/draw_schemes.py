"""Draw the figures of docs/landmarks.md: the built-in landmark schemes with the numbers of their points.

python docs/draw_schemes.py
"""

from __future__ import annotations

from pathlib import Path

from pipnet.inference.scheme_figure import draw_scheme, mean_face
from pipnet.io.image import write_image
from pipnet.scheme import BUILT_IN, LandmarkScheme

FOLDER = Path(__file__).parent / "landmarks"


def main() -> None:
    """Draw each scheme with a known mean face."""
    FOLDER.mkdir(exist_ok=True)
    for name in BUILT_IN:
        scheme = LandmarkScheme.load(name)
        points = mean_face(scheme)
        if points is not None:
            write_image(FOLDER / f"{name}.png", draw_scheme(scheme, points))


if __name__ == "__main__":
    main()
