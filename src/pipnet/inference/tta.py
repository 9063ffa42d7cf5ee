"""Prediction on crops, and test-time augmentation: the same face in several crops (v1's data distillation).

An augmented crop is shifted, turned or mirrored. Each is cut from the image itself, so that real surroundings
come in; the prediction is brought back into the plain crop and averaged there. v1 averages over eight shifts
for its pseudo-labels; here it serves any face.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from pipnet.config import TTA
from pipnet.geometry import Affine, Box, Image, affine, box_to_crop, compose, from_fraction, warp
from pipnet.inference.backends.base import CropModel

_SHIFTS = (20 / 256, 30 / 256)
"""Up, down, left and right, as fractions of the crop (v1: 20 and 30 of 256 pixels)."""
_TURNS = (-20.0, -10.0, 10.0, 20.0)
"""Degrees; v1 does not state them."""
_BATCH_SIZE = 64
"""Crops cut before the model is run."""


class View(NamedTuple):
    """An augmented crop."""

    matrix: Affine
    """From pixels of the plain crop to pixels of the augmented one."""
    mirrored: bool


class Prediction(NamedTuple):
    """Predicted landmarks of some faces."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """Landmarks in pixels of the image; the mean over the augmented crops."""
    scores: Float32[np.ndarray, "faces landmarks"]
    """Peak of each landmark's score map, in [0, 1]; the mean over the augmented crops."""
    vote_std: Float32[np.ndarray, "faces landmarks"]
    """Root mean square distance of the neighbors' votes from the merged landmark, as a fraction of the crop;
    the mean over the augmented crops."""
    tta_std: Float32[np.ndarray, "faces landmarks"]
    """Root mean square distance of the augmented crops' predictions from their mean, as a fraction of the
    crop; 0 without test-time augmentation."""
    crop_boxes: Float32[np.ndarray, "faces 4"]
    """The boxes that the crops were cut around, xyxy in pixels of the image."""

    def take(self, faces: Int[np.ndarray, " some"] | Sequence[int]) -> Prediction:
        """Return the prediction of some of the faces."""
        return Prediction(*(part[np.asarray(faces, np.int64)] for part in self))

    def split(self, counts: Sequence[int]) -> list[Prediction]:
        """Return a prediction an image, given how many faces each has."""
        ends = np.cumsum(counts)
        return [self.take(np.arange(end - count, end)) for end, count in zip(ends, counts, strict=True)]


def tta_views(tta: TTA, size: int) -> list[View]:
    """Return the augmented crops of a face, for crops of size x size pixels."""
    steps = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    shifts = [(dx * by, dy * by, 0.0) for by in _SHIFTS for dx, dy in steps]
    turns = [(0.0, 0.0, angle) for angle in _TURNS]
    plain = [(0.0, 0.0, 0.0)]
    ways = {
        "none": plain,
        "flip": plain,
        "rotation": plain + turns,
        "translation": shifts,
        "translation+flip": shifts,
        "all": shifts + turns,
    }[tta]
    sides = (False, True) if tta in ("flip", "translation+flip", "all") else (False,)
    return [View(_matrix(*way, mirrored, size), mirrored) for way in ways for mirrored in sides]


def predict_crops(
    model: CropModel,
    images: Sequence[Image],
    crop_boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
    tta: TTA = "none",
    turns: Float[np.ndarray, " faces"] | None = None,
) -> Prediction:
    """Return the landmarks of the faces of several images, all in batches.

    Args:
        model: predicts landmarks on crops.
        images: the images.
        crop_boxes: of each image, the boxes that crops are cut around (see `CropConfig.face_box`).
        tta: test-time augmentation.
        turns: degrees by which each face's crop is turned before the model sees it, clockwise.

    Returns:
        All faces of the first image, then all of the second, and so on.
    """
    metadata = model.metadata
    faces = [
        (image, metadata.crop.region(box, image.shape[1], image.shape[0]))
        for image, boxes in zip(images, crop_boxes, strict=True)
        for box in boxes
    ]
    views = tta_views(tta, metadata.input_size)
    angles = np.zeros(len(faces)) if turns is None else turns
    step = max(_BATCH_SIZE // len(views), 1)
    parts = [
        _predict(model, faces[i : i + step], angles[i : i + step], views) for i in range(0, len(faces), step)
    ]
    around = np.concatenate([np.zeros((0, 4), np.float32), *crop_boxes])
    if not parts:
        none = np.zeros((0, metadata.scheme.landmarks), np.float32)
        return Prediction(np.zeros((*none.shape, 2), np.float32), none, none, none, around)
    points, scores, vote_std, tta_std = (np.concatenate(part) for part in zip(*parts, strict=True))
    crops = np.stack([box for _, box in faces])
    return Prediction(from_fraction(points, crops[:, None]), scores, vote_std, tta_std, around)


def _predict(
    model: CropModel,
    faces: Sequence[tuple[Image, Box]],
    turns: Float[np.ndarray, " faces"],
    views: Sequence[View],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return points as fractions of the faces' plain crops, scores, vote_std and tta_std."""
    size = model.metadata.input_size
    turned = [_matrix(0, 0, angle, False, size) for angle in turns.tolist()]
    crops = [
        warp(picture, compose(box_to_crop(box, size), turn, view.matrix), size)
        for (picture, box), turn in zip(faces, turned, strict=True)
        for view in views
    ]
    out = model(np.array(crops, np.uint8).reshape(-1, size, size, 3))
    order = model.metadata.scheme.flip_permutation
    points, scores, vote_std = (part.reshape(len(faces), len(views), *part.shape[1:]).copy() for part in out)
    for number, view in enumerate(views):
        if view.mirrored:
            points[:, number], scores[:, number] = points[:, number, order], scores[:, number, order]
            vote_std[:, number] = vote_std[:, number, order]
        if len(views) > 1:
            points[:, number] = _undo(points[:, number], view.matrix, size)
    for i in np.flatnonzero(turns).tolist():
        points[i] = _undo(points[i], turned[i], size)
    mean = points.mean(axis=1)
    away = np.linalg.norm(points - mean[:, None], axis=3)
    tta_std = np.sqrt((away**2).mean(axis=1))
    return mean, scores.mean(axis=1), vote_std.mean(axis=1), tta_std.astype(np.float32)


def _undo(
    fractions: Float32[np.ndarray, "faces landmarks 2"], matrix: Affine, size: int
) -> Float64[np.ndarray, "faces landmarks 2"]:
    """Fractions of a view -> fractions of the plain crop."""
    back = np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64)
    return (affine(fractions * size - 0.5, back) + 0.5) / size


def _matrix(dx: float, dy: float, angle: float, mirrored: bool, size: int) -> Affine:
    turn = np.deg2rad(angle)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if mirrored:
        linear = np.array([[-1.0, 0], [0, 1]]) @ linear
    center = np.full(2, (size - 1) / 2)
    return np.hstack([linear, (center + np.array([dx, dy]) * size - linear @ center)[:, None]])
