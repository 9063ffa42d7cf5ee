"""The protocol of face detectors, and detection on a reduced copy of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from pipnet.errors import ModelError
from pipnet.geometry import Image, xywh_to_xyxy
from pipnet.warp import resize

CERTAIN = 0.8
"""Minimum detection score of a certain face. A candidate is a face if its detection score and the quality of
its landmarks add up to this. Chosen on the photos that validate `pipnet-face`; measured in
benchmarks/accuracy/face_detector."""
_MIN_FACE = 0.01
"""Boxes with a side of at most so many pixels are empty."""
_MAX_PIXEL = 1e7
"""Numbers of a detector are smaller; NaN is not."""
_MIN_SIDE = 8
"""Images with a shorter side, in pixels, are not searched."""
_MAX_FACES = 20_000
"""More faces are an error of the network."""


class Detections(NamedTuple):
    """The faces detected in an image, by descending score."""

    boxes: Float32[np.ndarray, "faces 4"]
    """xyxy in pixels of the image; may extend beyond it."""
    detection_score: Float32[np.ndarray, " faces"]
    """The detector's confidence in each face, in [0, 1]."""
    points: Float32[np.ndarray, "faces 5 2"] | None = None
    """Right and left eye, nose tip, right and left corner of the mouth, in pixels of the image; right and
    left are the person's. None: the detector has none."""

    def take(self, faces: Int[np.ndarray, " some"]) -> Detections:
        """Return some of the faces."""
        points = None if self.points is None else self.points[faces]
        return self._replace(
            boxes=self.boxes[faces], detection_score=self.detection_score[faces], points=points
        )

    def enlarged(self, factor: float) -> Detections:
        """Return the faces in pixels of an image, of which this is a copy smaller by a factor."""
        points = None if self.points is None else enlarge(self.points, factor)
        return self._replace(boxes=enlarge(self.boxes, factor), points=points)


@runtime_checkable
class FaceDetector(Protocol):
    """A face detector."""

    box_format: str
    """What its boxes mean, see `pipnet.box_adapter`."""

    def __call__(self, image: Image) -> Detections:
        """Return the faces in an RGB image."""
        ...


@runtime_checkable
class CandidateDetector(FaceDetector, Protocol):
    """A face detector that can return more than it is sure of, for landmarks to decide."""

    def candidates(self, image: Image) -> Detections:
        """Return the faces in an RGB image, and places that may be faces."""
        ...


def detect_reduced(
    image: Image, size: int, detect: Callable[[Image], list[tuple[Sequence[float], float]]]
) -> Detections:
    """Run a detector on a reduced copy of an image.

    Args:
        image: RGB.
        size: maximum length of the copy's longer side, in pixels.
        detect: returns the box of each face, x, y, width and height in pixels of the copy, and its score.

    Returns:
        The faces, in pixels of the image.
    """
    image, factor = reduce_longer_side(image, size)
    faces = detect(np.ascontiguousarray(image)) if min(image.shape[:2]) >= _MIN_SIDE else []
    boxes = np.array([xywh_to_xyxy(box) for box, _ in faces], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in faces], np.float32)
    order = np.argsort(-scores, kind="stable")
    return Detections(enlarge(boxes[order], factor), scores[order])


def check_detections(name: str, detections: Detections) -> Detections:
    """Return the output of a network from a file, if it is one, without empty boxes.

    Raises:
        ModelError: other shapes, numbers that are no pixels, or too many faces; ``name`` is named.
    """
    faces = len(detections.boxes)
    shapes = [(faces, 4), (faces,), (faces, 5, 2)]
    for array, shape in zip(detections, shapes, strict=True):
        if array is not None and (array.shape != shape or not (np.abs(array) < _MAX_PIXEL).all()):
            raise ModelError(f"{name}: returned no faces: an array {array.shape}, or numbers out of range")
    if faces > _MAX_FACES:
        raise ModelError(f"{name}: returned {faces:,} faces, more than {_MAX_FACES:,}")
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    return detections.take(np.flatnonzero((sides > _MIN_FACE).all(axis=1)))


def reduce_longer_side(image: Image, size: int) -> tuple[Image, float]:
    """Reduce an image to a longer side of at most ``size`` pixels, and return the factor too."""
    factor = max(max(image.shape[:2]) / size, 1.0)
    if factor > 1:
        width, height = (max(round(side / factor), 1) for side in image.shape[1::-1])
        image = resize(image, width, height)
    return image, factor


def enlarge(
    pixels: Float32[np.ndarray, "..."], factor: float | Int[np.ndarray, "..."]
) -> Float32[np.ndarray, "..."]:
    """Bring pixels of a reduced copy into those of the image.

    Pixel k of the copy covers the pixels of the image from k * factor - 0.5 on.
    """
    return ((pixels + 0.5) * factor - 0.5).astype(np.float32)
