"""Parts of photos without a face: real texture to show a model that has only ever seen faces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from pipnet.geometry import Box, Image, crop

_TRIES = 200
"""Squares drawn in each picture."""
_SIDES = (0.1, 0.5)
"""Least and largest side of a square, over the shorter side of the picture."""
_SMALLEST = 32
"""Least side in pixels: CIFAR-10's pictures, which v1 took."""
_DARK = 24
"""Gray level up to which rows and columns at a picture's border count as black padding."""
_PLAIN = 2.0
"""Standard deviation in gray levels below which a part is plain: sky, a wall, deep shadow."""

Photo = tuple[str, Image, Float32[np.ndarray, "faces 4"]]
"""Name, picture, and the boxes of all faces in it, of landmarks or of a detector."""


class Background(NamedTuple):
    """A square part of a picture without a face."""

    picture: str
    """The picture's name."""
    box: Box
    """Where it lies, in pixels of the picture."""
    texture: float
    """See `texture`."""
    crop: Image
    """The part at the size the model takes."""


def find_backgrounds(photos: Iterable[Photo], size: int, each: int, seed: int = 0) -> list[Background]:
    """The parts with the most texture, those with the most of it first.

    Args:
        photos: where to look.
        size: side of the crops in pixels.
        each: how many parts of one photo at most; they do not overlap each other.
        seed: all chance comes from it and from the photo's place.
    """
    found = []
    for number, (name, image, faces) in enumerate(photos):
        squares = _squares(image, np.random.default_rng([seed, number]))
        clear = squares[~_touching(squares, head_boxes(faces))]
        textures = np.array([texture(_part(image, box)) for box in clear])
        taken: list[int] = []
        for i in np.argsort(-textures, kind="stable").tolist():
            apart = not _touching(clear[i : i + 1], clear[taken])[0]
            if textures[i] >= _PLAIN and apart and len(taken) < each:
                taken.append(i)
        found += [Background(name, clear[i], float(textures[i]), crop(image, clear[i], size)) for i in taken]
    return sorted(found, key=lambda part: -part.texture)


def head_boxes(faces: Float32[np.ndarray, "faces 4"]) -> Float32[np.ndarray, "faces 4"]:
    """Boxes of faces -> boxes with hair, ears and neck."""
    side = np.tile(faces[:, 2:] - faces[:, :2], 2)
    return np.asarray(faces + side * np.array([-0.15, -0.4, 0.15, 0.15]), dtype=np.float32)


def texture(part: Image) -> float:
    """Standard deviation of gray levels in the plainest of 4 x 4 tiles: some contrast everywhere.

    One strong edge, such as that of a shoulder before a wall, does not make a texture.
    """
    gray = np.asarray(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY))
    return min(
        float(tile.std()) for row in np.array_split(gray, 4) for tile in np.array_split(row, 4, axis=1)
    )


def _squares(image: Image, rng: np.random.Generator) -> Float32[np.ndarray, "squares 4"]:
    """Random squares at whole pixels inside a picture, clear of black padding."""
    bright = image.max(axis=2) > _DARK
    columns, rows = (np.flatnonzero(bright.mean(axis=axis) > 0.1) for axis in (0, 1))
    if not len(columns) or not len(rows):
        return np.zeros((0, 4), np.float32)
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    shorter = min(width, height)
    if shorter < _SMALLEST:
        return np.zeros((0, 4), np.float32)
    side = (rng.uniform(*_SIDES, _TRIES) * shorter).clip(_SMALLEST, shorter).astype(int)
    left = columns[0] + (rng.random(_TRIES) * (width - side + 1)).astype(int)
    top = rows[0] + (rng.random(_TRIES) * (height - side + 1)).astype(int)
    return (np.stack([left, top, left + side, top + side], axis=1) - 0.5).astype(np.float32)


def _part(image: Image, box: Box) -> Image:
    x0, y0, x1, y1 = (box + 0.5).astype(int)
    return image[y0:y1, x0:x1]


def _touching(
    boxes: Float32[np.ndarray, "boxes 4"], others: Float32[np.ndarray, "others 4"]
) -> Bool[np.ndarray, " boxes"]:
    """Which boxes share some area with any of the others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray((low < high).all(axis=2).any(axis=1))
