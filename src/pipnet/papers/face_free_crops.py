"""Square parts of photos without a face: real texture to show to a model that was trained on faces only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float32

from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, ImageError
from pipnet.geometry import Box, Image, tight_box
from pipnet.inference.detectors.base import FaceDetector
from pipnet.io.discovery import find_images
from pipnet.io.image import read_image
from pipnet.metadata import ModelMetadata
from pipnet.progress import show_progress
from pipnet.warp import crop

_CANDIDATES = 200
"""Random squares tried in each image."""
_SIDE_RANGE = (0.1, 0.5)
"""Minimum and maximum side of a square, over the shorter side of the image."""
_MIN_SIDE = 32
"""Minimum side of a square in pixels: that of CIFAR-10's images, which v1 uses."""
_MAX_PADDING_LEVEL = 24
"""Gray level up to which rows and columns at an image's border count as black padding."""
_MIN_TEXTURE = 2.0
"""Texture (see `texture`) below which a square is plain: sky, a wall, deep shadow."""
_PHOTOS_PER_BACKGROUND = 3
"""Photos of the dataset that are searched for each part without a face."""

Photo = tuple[str, Image, Float32[np.ndarray, "faces 4"]]
"""Name, image, and the boxes of all faces in it, of landmarks or of a detector."""


class Background(NamedTuple):
    """A square part of an image without a face."""

    image_name: str
    box: Box
    """Its place, in pixels of the image."""
    texture: float
    """See `texture`."""
    crop: Image
    """The square, resized to the model's input."""


def dataset_crops(
    samples: Sequence[FaceSample], metadata: ModelMetadata, detector: FaceDetector, count: int, seed: int
) -> tuple[list[Image], list[Image]]:
    """Return crops of labeled faces, and of parts of their photos without a face.

    Unlabeled faces in these photos are avoided as far as the detector finds them.

    Raises:
        DataError: no photo has a part without a face that is not plain.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen = [samples[i] for i in order[: _PHOTOS_PER_BACKGROUND * count]]

    def photos() -> Iterator[tuple[Photo, list[Box]]]:
        for sample in chosen:
            image = read_image(sample.image)
            boxes = np.array([tight_box(sample.points), *detector(image).boxes], np.float32)
            yield (sample.name, image, boxes), [sample.face_box(metadata.crop)]

    return _crops(photos(), len(chosen), metadata, count, seed)


def image_crops(
    folder: Path, metadata: ModelMetadata, detector: FaceDetector, count: int, seed: int
) -> tuple[list[Image], list[Image]]:
    """Return crops of the faces that the detector finds in a folder's images, and of parts without a face.

    Raises:
        ImageError: there are no images, or one cannot be read.
        ModelError: the model was not fitted to the detector's boxes.
        DataError: no image has a part without a face that is not plain.
    """
    images = list(find_images([str(folder)]))
    error = next((item.error for item in images if item.error), None)
    if error:
        raise ImageError(error)
    adapter = metadata.box_adapter(detector.box_format)

    def photos() -> Iterator[tuple[Photo, list[Box]]]:
        for item in images:
            image = read_image(item.path)
            boxes = detector(image).boxes
            yield (str(item.path), image, boxes), list(adapter.apply(boxes))

    return _crops(photos(), len(images), metadata, count, seed)


def _crops(
    photos: Iterable[tuple[Photo, list[Box]]], total: int, metadata: ModelMetadata, count: int, seed: int
) -> tuple[list[Image], list[Image]]:
    """Return crops of faces and of backgrounds of photos, which come with the boxes of the faces to crop."""
    faces: list[Image] = []

    def searched() -> Iterator[Photo]:
        for photo, face_boxes in show_progress(photos, total, "searching backgrounds"):
            _, image, _ = photo
            height, width = image.shape[:2]
            regions = [metadata.crop.region(box, width, height) for box in face_boxes]
            faces.extend(crop(image, box, metadata.input_size) for box in regions)
            yield photo

    backgrounds = find_backgrounds(searched(), metadata.input_size, -(-count // total), seed)
    if not backgrounds:
        raise DataError(
            f"no part without a face and with texture in {total} photos: give other photos with --images"
        )
    return faces[:count], [background.crop for background in backgrounds[:count]]


def find_backgrounds(
    photos: Iterable[Photo], size: int, max_per_image: int, seed: int = 0
) -> list[Background]:
    """Return the squares without a face that have the most texture, in descending order.

    Args:
        photos: the images to search.
        size: side of the crops in pixels.
        max_per_image: maximum number of squares of one image; they do not overlap.
        seed: the result depends on it, on the images and on their order alone.
    """
    backgrounds = []
    for number, (name, image, faces) in enumerate(photos):
        squares = _random_squares(image, np.random.default_rng([seed, number]))
        squares = squares[~_overlapping(squares, head_boxes(faces))]
        textures = np.array([texture(_cut(image, box)) for box in squares])
        chosen: list[int] = []
        for i in np.argsort(-textures, kind="stable").tolist():
            if textures[i] < _MIN_TEXTURE or len(chosen) == max_per_image:
                break
            if not _overlapping(squares[i : i + 1], squares[chosen])[0]:
                chosen.append(i)
        backgrounds += [
            Background(name, squares[i], float(textures[i]), crop(image, squares[i], size)) for i in chosen
        ]
    return sorted(backgrounds, key=lambda background: -background.texture)


def head_boxes(faces: Float32[np.ndarray, "faces 4"]) -> Float32[np.ndarray, "faces 4"]:
    """Extend boxes of faces to hair, ears and neck."""
    side = np.tile(faces[:, 2:] - faces[:, :2], 2)
    return np.asarray(faces + side * np.array([-0.15, -0.4, 0.15, 0.15]), dtype=np.float32)


def texture(image: Image) -> float:
    """Return the standard deviation of gray levels in the plainest of 4 x 4 tiles.

    The minimum asks for some contrast everywhere: one strong edge, such as a shoulder before a wall, is no
    texture.
    """
    gray = np.asarray(PIL.Image.fromarray(image).convert("L"))
    return min(
        float(tile.std()) for row in np.array_split(gray, 4) for tile in np.array_split(row, 4, axis=1)
    )


def _random_squares(image: Image, rng: np.random.Generator) -> Float32[np.ndarray, "squares 4"]:
    """Return random squares at whole pixels inside an image, without its black padding."""
    bright = image.max(axis=2) > _MAX_PADDING_LEVEL
    columns, rows = (np.flatnonzero(bright.mean(axis=axis) > 0.1) for axis in (0, 1))
    width, height = (int(np.ptp(indices)) + 1 if len(indices) else 0 for indices in (columns, rows))
    shorter = min(width, height)
    if shorter < _MIN_SIDE:
        return np.zeros((0, 4), np.float32)
    side = (rng.uniform(*_SIDE_RANGE, _CANDIDATES) * shorter).clip(_MIN_SIDE, shorter).astype(int)
    left = columns[0] + (rng.random(_CANDIDATES) * (width - side + 1)).astype(int)
    top = rows[0] + (rng.random(_CANDIDATES) * (height - side + 1)).astype(int)
    return (np.stack([left, top, left + side, top + side], axis=1) - 0.5).astype(np.float32)


def _cut(image: Image, box: Box) -> Image:
    x0, y0, x1, y1 = (box + 0.5).astype(int)
    return image[y0:y1, x0:x1]


def _overlapping(
    boxes: Float32[np.ndarray, "boxes 4"], others: Float32[np.ndarray, "others 4"]
) -> Bool[np.ndarray, " boxes"]:
    """Return which boxes share some area with any of the others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray((low < high).all(axis=2).any(axis=1))
