"""Draw the sign conventions of head pose: ``docs/head_pose.png``.

python docs/draw_head_pose.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from pipnet.inference.pose import mean_face_3d, rotation
from pipnet.scheme import LandmarkScheme

TARGET = Path(__file__).parent / "head_pose.png"
TILE, OVERSAMPLING = 300, 3
"""Side of a tile in pixels, and how many times larger it is drawn for smooth lines."""
POSES = {
    "yaw +40": ((40, 0, 0), "turned to the image's right"),
    "pitch +25": ((0, 25, 0), "looks up"),
    "roll +25": ((0, 0, 25), "tilted clockwise"),
    "yaw -40": ((-40, 0, 0), "turned to the image's left"),
    "pitch -25": ((0, -25, 0), "looks down"),
    "roll -25": ((0, 0, -25), "tilted counterclockwise"),
}
EDGE, POINT, NOSE, UP, TEXT = "#9db4cc", "#4c78a8", "#e45756", "#2ca02c", "#303030"


def main() -> None:
    """Draw one tile a pose, and write the figure."""
    tiles = [draw_tile(title, np.array(degrees, float), text) for title, (degrees, text) in POSES.items()]
    figure = PIL.Image.new("RGB", (3 * TILE, 2 * TILE), "white")
    for i, tile in enumerate(tiles):
        figure.paste(tile, (i % 3 * TILE, i // 3 * TILE))
    figure.save(TARGET, optimize=True)


def draw_tile(title: str, degrees: np.ndarray, text: str) -> PIL.Image.Image:
    """Return the 3D mean face in a pose: where its nose points to in red, its upward axis in green."""
    unit = TILE * OVERSAMPLING
    canvas = PIL.Image.new("RGB", (unit, unit), "white")
    draw = PIL.ImageDraw.Draw(canvas)
    turn = rotation(degrees[None])[0]
    face = mean_face_3d().points
    pixels = project(face @ turn.T, unit)
    for chain in LandmarkScheme.load("300w").edges:
        draw.line([tuple(pixels[i]) for i in chain], EDGE, round(0.008 * unit), "curve")
    for x, y in pixels:
        draw.circle((x, y), 0.006 * unit, POINT)
    top = np.array([0, face[:, 1].min(), face[27, 2]])
    arrow(draw, project(np.array([face[30], face[30] - np.array([0, 0, 0.7])]) @ turn.T, unit), NOSE, unit)
    arrow(draw, project(np.array([top, top - np.array([0, 0.28, 0])]) @ turn.T, unit), UP, unit)
    large, small = (PIL.ImageFont.load_default(size * unit) for size in (0.07, 0.05))
    draw.text((unit / 2, 0.02 * unit), title, TEXT, large, anchor="ma")
    draw.text((unit / 2, 0.985 * unit), text, TEXT, small, anchor="md")
    return canvas.reduce(OVERSAMPLING)


def project(points: np.ndarray, unit: int) -> np.ndarray:
    """Return points of the 3D face in pixels of a tile."""
    return points[:, :2] * 0.52 * unit + [0.5 * unit, 0.55 * unit]


def arrow(draw: PIL.ImageDraw.ImageDraw, ends: np.ndarray, color: str, unit: int) -> None:
    """Draw an arrow; a dot if it points at the viewer."""
    start, end = ends
    direction = end - start
    length = float(np.linalg.norm(direction))
    if length < 0.03 * unit:
        draw.circle(tuple(start), 0.016 * unit, color)
        return
    along = direction / length * 0.045 * unit
    across = np.array([-along[1], along[0]]) * 0.5
    draw.line([tuple(start), tuple(end - along)], color, round(0.014 * unit))
    draw.polygon([tuple(end), tuple(end - along + across), tuple(end - along - across)], color)


if __name__ == "__main__":
    main()
