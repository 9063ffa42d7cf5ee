"""Faces that keep their identity from frame to frame.

Where a face was in the last frame is where the next crop is cut, from its landmarks; the detector runs only
when a face was lost, and now and then for faces that are new. That is faster than detecting in every frame,
and steadier, since detectors' boxes jump and landmarks do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.errors import PipnetError
from pipnet.geometry import Box, Image, box_iou, tight_box
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.result import FaceLandmarks
from pipnet.inference.views import Prediction
from pipnet.video.smoothing import FaceSmoother, Smoothing

DETECT_EVERY = 25
"""Frames between two searches for new faces, unless told otherwise."""
_LOST = 0.2
"""Mean score below which a face is no longer there."""
_SMALLEST = 8
"""Least side of a face in pixels."""
_SAME = 0.3
"""Least overlap (intersection over union) of a followed face and a detected one that are the same."""
_JUMPED = 0.2
"""Least overlap of a face's boxes in two frames; what jumps farther is another face, or none."""
_ONE_FACE = 0.6
"""Least overlap of two followed faces that have become one."""


class TrackedFaces(NamedTuple):
    """The faces of one frame."""

    faces: FaceLandmarks
    """Their landmarks; ``boxes`` are those that crops are cut around, ``box_scores`` the detector's when it
    last found them."""
    ids: list[int]
    """Each face's number, the same in all frames; never given twice."""
    detected: bool
    """Whether the detector ran on this frame."""


@dataclass
class _Track:
    """One face over time."""

    number: int
    """0 until its first landmarks say that it is a face."""
    place: Box
    """The box that its next crop is cut around."""
    score: float
    """The detector's, when it last found it."""
    smooth: FaceSmoother | None


class FaceTracker:
    """Follows faces through a video; one tracker a video."""

    def __init__(
        self,
        landmarker: FaceLandmarker,
        detect_every: int = DETECT_EVERY,
        smoothing: Smoothing | None = Smoothing(),  # noqa: B008  (frozen)
    ) -> None:
        """Start with no faces.

        Args:
            landmarker: finds them.
            detect_every: search for new faces every so many frames; 1 detects in every frame.
            smoothing: how points are smoothed; None leaves them as they are found.

        Raises:
            PipnetError: ``detect_every`` is less than 1.
        """
        if detect_every < 1:
            raise PipnetError(f"detect_every must be at least 1, not {detect_every}")
        self.landmarker, self.detect_every, self.smoothing = landmarker, detect_every, smoothing
        self._tracks: list[_Track] = []
        self._next, self._since = 1, detect_every

    def __call__(self, image: Image, time: float) -> TrackedFaces:
        """The faces of the next frame.

        Args:
            image: the frame.
            time: seconds from the beginning, for smoothing.
        """
        self._since += 1
        detect = not self._tracks or self._since >= self.detect_every
        if detect:
            self._add_detections(image)
        seen, after, kept = self._find(image)
        # A new detection that is no face is not one that was lost: the detector may rest.
        if not detect and len(kept) < len(self._tracks):
            detect = True
            self._tracks = [self._tracks[i] for i in kept]
            self._add_detections(image)
            seen, after, kept = self._find(image)
        self._tracks = [self._tracks[i] for i in kept]
        for track, place in zip(self._tracks, after[kept], strict=True):
            track.place = place
            if not track.number:
                track.number, self._next = self._next, self._next + 1
        return TrackedFaces(
            self._result(image, time, seen, kept), [track.number for track in self._tracks], detect
        )

    def _find(self, image: Image) -> tuple[Prediction, Float32[np.ndarray, "faces 4"], list[int]]:
        """What is found where the faces were, the boxes of their next crops, and which are still there."""
        places = np.array([track.place for track in self._tracks], np.float32).reshape(-1, 4)
        seen = self.landmarker.predict([image], [places])
        boxes = [tight_box(points) for points in seen.points]
        after = self.landmarker.to_face_boxes(np.array(boxes, np.float32).reshape(-1, 4), "landmarks")
        return seen, after, self._still_there(places, after, seen.scores)

    def _add_detections(self, image: Image) -> None:
        """Begin to follow the faces that the detector finds and nobody follows."""
        landmarker, self._since = self.landmarker, 0
        found = landmarker.search(image)
        places = landmarker.to_face_boxes(found.boxes, landmarker.detector.kind)
        for place, score in zip(places, found.scores, strict=True):
            followed = np.array([track.place for track in self._tracks], np.float32).reshape(-1, 4)
            overlap = box_iou(followed, place)
            if len(overlap) and overlap.max() >= _SAME:
                self._tracks[int(overlap.argmax())].score = float(score)
                continue
            self._tracks.append(_Track(0, place, float(score), self._smoother()))

    def _smoother(self) -> FaceSmoother | None:
        if self.smoothing is None:
            return None
        return FaceSmoother(self.smoothing, self.landmarker.model.info.mean_face)

    def _still_there(
        self,
        before: Float32[np.ndarray, "faces 4"],
        after: Float32[np.ndarray, "faces 4"],
        scores: Float32[np.ndarray, "faces landmarks"],
    ) -> list[int]:
        """Numbers of the faces that are still there, each once: of two on one face the older one stays."""
        kept: list[int] = []
        for i in range(len(after)):
            width, height = (after[i, 2:] - after[i, :2]).tolist()
            there = scores[i].mean() >= _LOST and min(width, height) >= _SMALLEST
            there = there and box_iou(before[i : i + 1], after[i])[0] >= _JUMPED
            if there and not (box_iou(after[kept], after[i]) >= _ONE_FACE).any():
                kept.append(i)
        return kept

    def _result(self, image: Image, time: float, seen: Prediction, kept: list[int]) -> FaceLandmarks:
        points = seen.points[kept].copy()
        for i, track in enumerate(self._tracks):
            if track.smooth is not None:
                points[i] = track.smooth(points[i], time)
        sure = np.array([track.score for track in self._tracks], np.float32)
        boxes = np.array([track.place for track in self._tracks], np.float32).reshape(-1, 4)
        info = self.landmarker.model.info
        return FaceLandmarks(points, seen.scores[kept], seen.spread[kept], boxes, sure, image, info)
