"""The coordinate convention: pixels, boxes, fractions, and affine maps between images and crops.

* Pixels: (0, 0) is the **center** of the top-left pixel, x to the right, y down. An image of width W
  spans x from -0.5 to W - 0.5.
* Boxes: float32 ``[x0, y0, x1, y1]`` in those pixels. The tight box of some points is their minimum
  and maximum.
* Fractions: (0, 0) is the top-left corner of a box and (1, 1) its bottom-right corner. Models predict
  fractions of their crop; all results are in pixels.
* A crop of S x S pixels is its box divided into S x S equal parts: the center of crop pixel k is at the
  fraction (k + 0.5) / S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8

from pipnet.errors import BoxError

Image = UInt8[np.ndarray, "_height _width 3"]
Points = Float32[np.ndarray, "landmarks 2"]
Box = Float32[np.ndarray, "4"]
Affine = Float64[np.ndarray, "2 3"]


_MIN_BOX_SIDE = 0.01
"""Boxes with a shorter side, in pixels, count as empty."""
_MAX_BOX_SIDE = 100
"""Boxes with a longer side, in sides of the image, are refused."""
_MAX_BOXES = 100_000
"""More boxes in an image are refused, before they are copied."""


@dataclass(frozen=True)
class CropConfig:
    """Settings of the crop around a face's box.

    A model needs the crop that it was trained on, so the settings are stored with the weights.
    """

    scale: float = 1.2
    """Side of the crop over side of the face's box (the papers: 1.1 on 300W, 1.2 on WFLW)."""
    square: bool = True
    """True: a square around the longer side, so that faces keep their proportions.
    False: width and height apart, stretched to a square (the papers)."""
    clip: bool = False
    """Clip the box at the image's border instead of padding with black (the papers)."""
    box: Literal["landmarks", "dataset"] = "landmarks"
    """The face's box: the tight box of its landmarks, or the box in the dataset (the papers: on COFW, AFLW
    and WFLW)."""
    shift_up: float = 0.0
    """How far the crop's center lies above that of the face's box, in longer sides of the box."""
    whole_pixels: bool = False
    """Cut at whole pixels, while landmarks are fractions of the box before rounding: the rule of the authors'
    preprocessing, for their weights only. See `label_box`."""

    def face_box(self, points: Float[np.ndarray, "landmarks 2"], dataset_box: Box | None) -> Box:
        """Return the box of a labeled face that its crop is cut around.

        Raises:
            BoxError: the dataset has no box, or no point is known.
        """
        if self.box == "landmarks":
            return tight_box(points)
        if dataset_box is None:
            raise BoxError("crop.box is 'dataset', but the dataset has no face boxes")
        return dataset_box

    def region(self, face_box: Box, width: int, height: int) -> Box:
        """Return the part of a width x height image that the crop of a face's box shows, xyxy in pixels."""
        corners = self._corners(face_box, width, height)
        if self.whole_pixels:  # image[y0:y1, x0:x1] shows all of the pixels x0 to x1 - 1
            low = np.floor(corners[:2])
            high = np.maximum(np.floor(corners[2:]), low + 1)
            corners = np.concatenate([low, high]) - 0.5
        return corners.astype(np.float32)

    def label_box(self, face_box: Box, width: int, height: int) -> Box:
        """Return the box that the labels of a model with this crop are fractions of, xyxy in pixels.

        That is `region`, unless crops are cut at whole pixels. The authors take the corners of a float box as
        indices of pixels, which drops their fractions, and normalize labels by the float box. Their labels
        thus lie half a pixel, and on average another half, to the left of what the crop shows, and above it.
        Their labels of 300-W are truncated to whole pixels instead of the box, with the same mean offset.
        """
        return self._corners(face_box, width, height).astype(np.float32)

    def face_box_of(self, region: Box) -> Box:
        """Return the face's box of which an unclipped crop shows this region: the inverse of `region`.

        A square crop becomes a square box.
        """
        half = (region[2:] - region[:2]) / 2 / self.scale
        if self.square:
            half = np.repeat(half.max(), 2)
        center = (region[:2] + region[2:]) / 2 + np.array([0, self.shift_up * 2 * half.max()])
        return np.concatenate([center - half, center + half]).astype(np.float32)

    def _corners(self, face_box: Box, width: int, height: int) -> Float[np.ndarray, "4"]:
        """Return the corners of the crop, before any rounding to whole pixels."""
        center = (face_box[:2] + face_box[2:]) / 2
        side = face_box[2:] - face_box[:2]
        center = center - np.array([0, self.shift_up * side.max()], center.dtype)
        half = side / 2 * self.scale
        if self.square:
            half = np.repeat(half.max(), 2)
        corners = np.concatenate([center - half, center + half])
        if self.clip:
            low = 0.0 if self.whole_pixels else -0.5  # the authors clip to the first and the last pixel
            clipped = corners.clip(low, np.tile([width - 1 - low, height - 1 - low], 2))
            if (clipped[2:] - clipped[:2]).min() >= _MIN_BOX_SIDE:  # else it lies outside the image
                corners = clipped
        return corners


def tight_box(points: Float[np.ndarray, "landmarks 2"]) -> Box:
    """Return the smallest box around the points that are known (not NaN), in their own frame.

    Raises:
        BoxError: no point is known.
    """
    known = points[np.isfinite(points).all(axis=1)]
    if not len(known):
        raise BoxError("no landmark is known, so the face has no box")
    return np.concatenate([known.min(axis=0), known.max(axis=0)]).astype(np.float32)


def overlaps(boxes: Float32[np.ndarray, "faces 4"], width: int, height: int) -> Bool[np.ndarray, " faces"]:
    """Return which boxes overlap an image of width x height pixels."""
    low = (boxes[:, :2] < [width - 0.5, height - 0.5]).all(axis=1)
    return np.asarray(low & (boxes[:, 2:] > -0.5).all(axis=1))


def check_boxes(
    boxes: object, width: int, height: int, inside: bool = True
) -> Float32[np.ndarray, "faces 4"]:
    """Return boxes of a user or a detector as float32 xyxy, checked against the image.

    Args:
        boxes: (faces, 4), or (4,) for one face.
        width: of the image in pixels.
        height: of the image in pixels.
        inside: whether a box outside the image is an error.

    Raises:
        BoxError: wrong shape, NaN, no area, or no overlap with the image.
    """
    array = as_numbers(boxes, "boxes")
    if array.size == 0:
        return np.zeros((0, 4), np.float32)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 4:
        raise BoxError(f"boxes must have shape (faces, 4), x0 y0 x1 y1, not {array.shape!s:.80}")
    for x0, y0, x1, y1 in array.tolist():
        text = f"box {x0:g},{y0:g} to {x1:g},{y1:g}"
        if not np.isfinite([x0, y0, x1, y1]).all():
            raise BoxError(f"{text} is not finite")
        if x1 - x0 < _MIN_BOX_SIDE or y1 - y0 < _MIN_BOX_SIDE:
            raise BoxError(f"{text} is empty")
        if max(x1 - x0, y1 - y0) > _MAX_BOX_SIDE * max(width, height):
            raise BoxError(f"{text} is far larger than the image ({width} x {height})")
    if inside and not overlaps(array, width, height).all():
        raise BoxError(f"a box lies outside the image ({width} x {height}): {array.tolist()!s:.80}")
    return array


def as_numbers(values: object, name: str) -> Float32[np.ndarray, "..."]:
    """Return boxes or scores of a user or a detector as a float32 array.

    Args:
        values: an array of any kind, or nested lists.
        name: what they are, for the message.

    Raises:
        BoxError: not numbers, masked, or far too many.
    """
    try:
        array = np.asarray(values)  # without a copy
        if array.size > 4 * _MAX_BOXES:
            raise BoxError(f"{name} must be at most {_MAX_BOXES:,}, not of shape {array.shape!s:.80}")
        if array.dtype.kind in "cmMV":  # complex numbers, times and records, which NumPy would convert
            raise TypeError
        with np.errstate(over="ignore"):  # infinite then
            numbers = array.astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        raise BoxError(f"{name} must be numbers, not {short_repr(values)}") from None
    if np.ma.is_masked(values):
        raise BoxError(f"{name} must not be masked: leave masked faces out")
    return numbers


def short_repr(value: object) -> str:
    """Return the start of an object's repr on one line, for messages."""
    return f"{' '.join(repr(value).split()):.80}"


def box_iou(boxes: Float32[np.ndarray, "faces 4"], other: Box) -> Float32[np.ndarray, " faces"]:
    """Return the intersection over union of each box with another box."""
    low = np.maximum(boxes[:, :2], other[:2])
    high = np.minimum(boxes[:, 2:], other[2:])
    overlap = (high - low).clip(0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (other[2:] - other[:2]).prod() - overlap
    return np.asarray(overlap / np.maximum(union, np.finfo(np.float32).tiny), dtype=np.float32)


def suppress_overlaps(
    boxes: Float32[np.ndarray, "faces 4"], scores: Float32[np.ndarray, " faces"], max_iou: float
) -> Int[np.ndarray, " kept"]:
    """Return the indices of the boxes that overlap no box with a higher score, by descending score.

    This is non-maximum suppression.

    Args:
        boxes: xyxy.
        scores: of each box.
        max_iou: of two boxes with a higher intersection over union, the one with the lower score is dropped.
    """
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        kept.append(left[0])
        left = left[1:][box_iou(boxes[left[1:]], boxes[left[0]]) <= max_iou]
    return np.array(kept, np.int64)


def to_fraction(points: Float[np.ndarray, "*n 2"], box: Box) -> Float64[np.ndarray, "*n 2"]:
    """Bring pixels of the image into fractions of the box."""
    box64 = box.astype(np.float64)
    return (points - box64[:2]) / (box64[2:] - box64[:2])


def from_fraction(
    fractions: Float[np.ndarray, "*n 2"], box: Float[np.ndarray, "*#n 4"]
) -> Float32[np.ndarray, "*n 2"]:
    """Bring fractions of the box into pixels of the image. The boxes broadcast against the fractions."""
    box64 = box.astype(np.float64)
    return (box64[..., :2] + fractions * (box64[..., 2:] - box64[..., :2])).astype(np.float32)


def affine(points: Float[np.ndarray, "*n 2"], matrix: Affine) -> Float64[np.ndarray, "*n 2"]:
    """Apply a 2 x 3 affine map to points."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], dtype=np.float64)


def compose(*maps: Affine) -> Affine:
    """Return the affine map that applies these maps, the first one first."""
    full = np.eye(3)
    for matrix in maps:
        full = np.vstack([matrix, [0, 0, 1]]) @ full
    return full[:2]


def box_to_crop(box: Box, size: int) -> Affine:
    """Return the affine map from pixels of the image to pixels of the S x S crop of a box."""
    x0, y0, x1, y1 = box.astype(np.float64)
    sx, sy = size / (x1 - x0), size / (y1 - y0)
    return np.array([[sx, 0, -x0 * sx - 0.5], [0, sy, -y0 * sy - 0.5]])


def similarity(source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]) -> Affine:
    """Return the rotation, uniform scale and shift that bring source nearest to target.

    Least squares in closed form (Umeyama 1991), without reflection.
    """
    mean_s, mean_t = source.mean(axis=0), target.mean(axis=0)
    s, t = source - mean_s, target - mean_t
    norm = float((s**2).sum()) or 1.0
    cos = float((s * t).sum()) / norm
    sin = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / norm
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.hstack([linear, (mean_t - linear @ mean_s)[:, None]])


def invert(matrix: Affine) -> Affine:
    """Return the inverse of an affine map; zeros for a map onto a line or a point, which has none."""
    (a, b, _), (c, d, _) = matrix.tolist()
    determinant = a * d - b * c
    if determinant == 0:
        return np.zeros((2, 3))
    linear = np.array([[d, -b], [-c, a]]) / determinant
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def xywh_to_xyxy(box: Sequence[float]) -> Box:
    """Convert a box of corner, width and height to xyxy."""
    x, y, w, h = box
    return np.array([x, y, x + w, y + h], dtype=np.float32)
