"""Drawing landmarks on pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32

from pipnet.geometry import Image
from pipnet.scheme import LandmarkScheme

_SHIFT = 4
"""OpenCV draws at sixteenths of a pixel with this many fractional bits."""
_BOX, _EDGE, _POINT = (255, 200, 0), (70, 170, 255), (120, 255, 120)


def draw_faces(
    image: Image,
    points: Float32[np.ndarray, "faces landmarks 2"],
    boxes: Float32[np.ndarray, "boxes 4"],
    scheme: LandmarkScheme,
) -> Image:
    """A copy of the picture with boxes, edges and points, as thick as the face is large."""
    canvas = image.copy()
    for box in boxes:
        low, high = _fixed(box.reshape(2, 2))
        cv2.rectangle(canvas, low, high, _BOX, _thickness(box), cv2.LINE_AA, _SHIFT)
    for face in points:
        extent = np.concatenate([face.min(axis=0), face.max(axis=0)])
        thickness = _thickness(extent)
        for chain in scheme.edges:
            line = np.array(_fixed(face[list(chain)]), np.int32)
            cv2.polylines(canvas, [line], False, _EDGE, thickness, cv2.LINE_AA, _SHIFT)
        radius = int(np.clip(float((extent[2:] - extent[:2]).max()) / 100, 1, 99) * 2**_SHIFT)
        for x, y in _fixed(face):
            cv2.circle(canvas, (x, y), radius, _POINT, -1, cv2.LINE_AA, _SHIFT)
    return canvas


def draw_names(canvas: Image, boxes: Float32[np.ndarray, "boxes 4"], names: Sequence[str]) -> None:
    """Write a name above each box, onto the picture itself."""
    for box, name in zip(boxes, names, strict=True):
        size = max(float((box[2:] - box[:2]).max()) / 250, 0.4)
        place, thickness = (int(box[0]), int(box[1] - 4 * size)), max(round(2 * size), 1)
        cv2.putText(canvas, name, place, cv2.FONT_HERSHEY_SIMPLEX, size, _BOX, thickness, cv2.LINE_AA)


def _fixed(points: Float32[np.ndarray, "n 2"]) -> list[tuple[int, int]]:
    """Points for OpenCV's fixed-point drawing, far ones held within what it can take."""
    fixed = np.round(points.astype(np.float64).clip(-1e5, 1e5) * 2**_SHIFT).astype(int)
    return [(int(x), int(y)) for x, y in fixed]


def _thickness(box: Float32[np.ndarray, "4"]) -> int:
    return int(np.clip(float((box[2:] - box[:2]).max()) / 350, 1, 99))
