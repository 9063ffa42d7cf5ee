"""Contact sheets: tiles of faces with their landmarks, side by side in one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from pipnet.geometry import CropConfig, Image, Points, affine, box_to_crop, tight_box
from pipnet.inference.draw import DrawStyle, draw_faces
from pipnet.scheme import LandmarkScheme
from pipnet.warp import crop

_CROP = CropConfig(scale=1.5)
_STYLE = DrawStyle()
_TEXT_SIZE = 12
"""Height of captions in pixels."""


def face_tile(
    image: Image,
    points: Points,
    scheme: LandmarkScheme,
    size: int,
    center_on: Points | None = None,
    style: DrawStyle = _STYLE,
) -> Image:
    """Return a square crop of a face with its landmarks drawn on it.

    Args:
        image: the image with the face.
        points: the landmarks to draw, in pixels of the image.
        scheme: the scheme of the landmarks.
        size: side of the tile in pixels.
        center_on: the landmarks that the crop is cut around, in pixels of the image; ``points`` if None.
        style: color and thickness of the landmarks.
    """
    height, width = image.shape[:2]
    box = _CROP.region(tight_box(points if center_on is None else center_on), width, height)
    drawn = affine(points, box_to_crop(box, size)).astype(np.float32)
    no_boxes = np.zeros((0, 4), np.float32)
    return np.asarray(draw_faces(crop(image, box, size), drawn[None], no_boxes, scheme, style=style))


def with_caption(tile: Image, text: str) -> Image:
    """Return a tile with a line of text below it; a text that is too long keeps its end."""
    font = PIL.ImageFont.load_default(_TEXT_SIZE)
    while font.getlength(text) > tile.shape[1] - 8:
        text = "..." + text.removeprefix("...")[1:]
    strip = PIL.Image.new("RGB", (tile.shape[1], _TEXT_SIZE + 8))
    PIL.ImageDraw.Draw(strip).text((4, 3), text, "white", font)
    return np.vstack([tile, np.asarray(strip)])


def sheet(tiles: Sequence[Image], columns: int, rows: int | None = None) -> Image:
    """Return tiles of equal size as one image, row by row; unused places are black.

    Args:
        tiles: the tiles, at least one.
        columns: the number of tiles in a row.
        rows: the minimum number of rows; as many as the tiles fill if None.
    """
    places = columns * max(rows or 0, -(-len(tiles) // columns))
    padded = [*tiles, *[np.zeros_like(tiles[0])] * (places - len(tiles))]
    return np.vstack([np.hstack(padded[i : i + columns]) for i in range(0, places, columns)])
