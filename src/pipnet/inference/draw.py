"""Drawing of boxes and landmarks on images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32

from pipnet.geometry import Image
from pipnet.scheme import LandmarkScheme

_SHIFT = 4
"""Fractional bits of coordinates: OpenCV draws at sixteenths of a pixel."""
_BOX_COLOR, _EDGE_COLOR, _POINT_COLOR = (255, 200, 0), (70, 170, 255), (120, 255, 120)


def draw_faces(
    image: Image,
    points: Float32[np.ndarray, "faces landmarks 2"],
    boxes: Float32[np.ndarray, "boxes 4"],
    scheme: LandmarkScheme,
) -> Image:
    """Return a copy of the image with boxes, edges and points. Line widths scale with the face."""
    canvas = image.copy()
    for box in boxes:
        start, end = _fixed_point(box.reshape(2, 2))
        cv2.rectangle(canvas, start, end, _BOX_COLOR, _thickness(box), cv2.LINE_AA, _SHIFT)
    for face in points:
        extent = np.concatenate([face.min(axis=0), face.max(axis=0)])
        thickness = _thickness(extent)
        for chain in scheme.edges:
            line = np.array(_fixed_point(face[list(chain)]), np.int32)
            cv2.polylines(canvas, [line], False, _EDGE_COLOR, thickness, cv2.LINE_AA, _SHIFT)
        radius = int(np.clip(_longer_side(extent) / 100, 1, 99) * 2**_SHIFT)
        for x, y in _fixed_point(face):
            cv2.circle(canvas, (x, y), radius, _POINT_COLOR, -1, cv2.LINE_AA, _SHIFT)
    return canvas


def draw_labels(canvas: Image, boxes: Float32[np.ndarray, "boxes 4"], labels: Sequence[str]) -> None:
    """Write a label above each box, into the image itself."""
    for box, label in zip(boxes, labels, strict=True):
        scale = max(_longer_side(box) / 250, 0.4)
        origin, thickness = (int(box[0]), int(box[1] - 4 * scale)), max(round(2 * scale), 1)
        cv2.putText(
            canvas, label, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, _BOX_COLOR, thickness, cv2.LINE_AA
        )


def _fixed_point(points: Float32[np.ndarray, "n 2"]) -> list[tuple[int, int]]:
    """Return points in OpenCV's fixed-point format, clipped to the range that it can draw."""
    fixed = np.round(points.astype(np.float64).clip(-1e5, 1e5) * 2**_SHIFT).astype(int)
    return [(int(x), int(y)) for x, y in fixed]


def _longer_side(box: Float32[np.ndarray, "4"]) -> float:
    return float((box[2:] - box[:2]).max())


def _thickness(box: Float32[np.ndarray, "4"]) -> int:
    return int(np.clip(_longer_side(box) / 350, 1, 99))
