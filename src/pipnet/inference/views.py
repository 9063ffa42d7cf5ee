"""Prediction on faces: crops through the model, and the same face in several views (v1's data distillation).

A view is the crop shifted, turned or mirrored. Each is cut from the picture itself, so that real surroundings
come in; what the model finds is undone into the plain crop and averaged there. v1 takes the mean over eight
shifts for its pseudo-labels; here it serves any face.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from pipnet.geometry import Affine, Box, Image, affine, box_to_crop, compose, from_fraction, warp
from pipnet.inference.backends import CropLandmarks
from pipnet.model_info import ModelInfo

Views = Literal["none", "flip", "rotation", "translation", "translation+flip", "all"]
"""``none`` is the plain crop alone; ``translation`` v1's eight shifts; ``flip`` and ``rotation`` have the
plain crop too; ``all`` is every shift and every turn, plain and mirrored."""
_SHIFTS = (20 / 256, 30 / 256)
"""Up, down, left and right, as fractions of the crop (v1: 20 and 30 of 256 pixels)."""
_TURNS = (-20.0, -10.0, 10.0, 20.0)
"""Degrees; v1 does not say which."""
_AT_ONCE = 64
"""Crops cut before the model is run."""


@runtime_checkable
class CropModel(Protocol):
    """Anything that finds landmarks on crops."""

    info: ModelInfo

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """RGB crops at the model's size -> landmarks."""
        ...


class View(NamedTuple):
    """One way to cut a crop."""

    matrix: Affine
    """From pixels of the plain crop to pixels of the view."""
    mirrored: bool


class Prediction(NamedTuple):
    """What was found on some faces, by their number."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """Landmarks in pixels of the picture; the mean over the views."""
    scores: Float32[np.ndarray, "faces landmarks"]
    """Peak of each landmark's score map, in [0, 1]; the mean over the views."""
    spread: Float32[np.ndarray, "faces landmarks"]
    """Disagreement of the neighbours' votes, as a fraction of the crop; the mean over the views."""
    disagreement: Float32[np.ndarray, "faces landmarks"]
    """Root mean square distance of the views from their mean, as a fraction of the crop; 0 for one view."""


def make_views(kind: Views, size: int) -> list[View]:
    """The views of a kind, for crops of size x size pixels."""
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
    }[kind]
    sides = (False, True) if kind in ("flip", "translation+flip", "all") else (False,)
    return [View(_matrix(*way, mirrored, size), mirrored) for way in ways for mirrored in sides]


def predict_views(
    model: CropModel,
    pictures: Sequence[Image],
    boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
    views: Views = "none",
    turns: Float[np.ndarray, " faces"] | None = None,
) -> Prediction:
    """The landmarks of the faces of several pictures, all in batches.

    Args:
        model: finds them on crops.
        pictures: the pictures.
        boxes: of each picture, the boxes that crops are cut around (see `CropRule.face_box`).
        views: how often to look at each face.
        turns: degrees by which each face's crop is turned before the model sees it, clockwise.

    Returns:
        All faces of the first picture, then all of the second, and so on.
    """
    size, landmarks = model.info.input_size, model.info.scheme.landmarks
    faces = [
        (picture, model.info.crop(box, picture.shape[1], picture.shape[0]))
        for picture, of_picture in zip(pictures, boxes, strict=True)
        for box in of_picture
    ]
    ways, angles = make_views(views, size), np.zeros(len(faces)) if turns is None else turns
    step = max(_AT_ONCE // len(ways), 1)
    parts = [
        _predict(model, faces[i : i + step], angles[i : i + step], ways) for i in range(0, len(faces), step)
    ]
    if not parts:
        none = np.zeros((0, landmarks), np.float32)
        return Prediction(np.zeros((0, landmarks, 2), np.float32), none, none, none)
    points, *rest = (np.concatenate(part) for part in zip(*parts, strict=True))
    crops = np.stack([box for _, box in faces])
    return Prediction(from_fraction(points, crops[:, None]), *rest)


def _predict(
    model: CropModel,
    faces: Sequence[tuple[Image, Box]],
    turns: Float[np.ndarray, " faces"],
    views: Sequence[View],
) -> Prediction:
    """As `predict_views`, with points as fractions of the faces' plain crops."""
    size = model.info.input_size
    turned = [_matrix(0, 0, angle, False, size) for angle in turns.tolist()]
    crops = [
        warp(picture, compose(box_to_crop(box, size), turn, view.matrix), size)
        for (picture, box), turn in zip(faces, turned, strict=True)
        for view in views
    ]
    out = model(np.array(crops, np.uint8).reshape(-1, size, size, 3))
    order = model.info.scheme.flip_permutation
    points, scores, spread = (part.reshape(len(faces), len(views), *part.shape[1:]).copy() for part in out)
    for number, view in enumerate(views):
        if view.mirrored:
            points[:, number], scores[:, number] = points[:, number, order], scores[:, number, order]
            spread[:, number] = spread[:, number, order]
        if len(views) > 1:
            points[:, number] = _undo(points[:, number], view.matrix, size)
    for i in np.flatnonzero(turns).tolist():
        points[i] = _undo(points[i], turned[i], size)
    mean = points.mean(axis=1)
    away = np.linalg.norm(points - mean[:, None], axis=3)
    disagreement = np.sqrt((away**2).mean(axis=1))
    return Prediction(mean, scores.mean(axis=1), spread.mean(axis=1), disagreement.astype(np.float32))


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
    centre = np.full(2, (size - 1) / 2)
    return np.hstack([linear, (centre + np.array([dx, dy]) * size - linear @ centre)[:, None]])
