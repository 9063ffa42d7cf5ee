"""The protocol of face detectors, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32

from pipnet.geometry import Box, Image

MIN_SIZE = 8
"""Images with a shorter side, in pixels, are not searched."""


class Detections(NamedTuple):
    """The faces found in an image, by descending score."""

    boxes: Float32[np.ndarray, "faces 4"]
    """xyxy in pixels of the image; may reach beyond it."""
    scores: Float32[np.ndarray, " faces"]
    """The detector's confidence in [0, 1]."""


@runtime_checkable
class FaceDetector(Protocol):
    """A face detector."""

    box_format: str
    """What its boxes mean, see `pipnet.box_adapter`."""

    def __call__(self, image: Image) -> Detections:
        """Return the faces in an RGB image."""
        ...


def reduce_image(image: Image, size: int) -> tuple[Image, float]:
    """Return the image at a longest side of at most ``size`` pixels, and original pixels per reduced pixel."""
    height, width = image.shape[:2]
    factor = max(height, width) / size
    if factor <= 1:
        return np.ascontiguousarray(image), 1.0
    shape = (max(round(width / factor), 1), max(round(height / factor), 1))
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small, dtype=np.uint8), factor


def to_detections(boxes: Sequence[Box], scores: Sequence[float], factor: float) -> Detections:
    """Bring boxes of a reduced image into the original, by descending score."""
    array, sure = np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32)
    order = np.argsort(-sure, kind="stable")
    # A reduced pixel k covers the original pixels from k * factor - 0.5 on.
    scaled = (array + 0.5) * factor - 0.5
    return Detections(scaled[order].astype(np.float32), sure[order])
