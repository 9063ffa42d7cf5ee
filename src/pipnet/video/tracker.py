"""Faces that keep their identity from frame to frame.

The next crop of a face is cut around its landmarks in the last frame. The detector runs only when a face was lost,
and now and then for new ones. That is faster than detecting in every frame, and steadier, since detectors' boxes
jump and landmarks do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.errors import PipnetError
from pipnet.geometry import Box, Image, box_iou
from pipnet.inference.pipeline import Pipeline
from pipnet.inference.results import FaceLandmarks
from pipnet.inference.tta import Prediction
from pipnet.video.causal_smoother import CausalSmoother, FaceSmoother

DETECT_EVERY = 25
"""Frames between two searches for new faces, unless told otherwise."""
_MIN_SCORE = 0.2
"""Mean score below which a face is lost."""
_MIN_SIDE = 8
"""Minimum side of a face in pixels."""
_MIN_IOU_NEW = 0.3
"""Minimum intersection over union of a tracked face and a detected one that are the same."""
_MIN_IOU_NEXT = 0.2
"""Minimum intersection over union of a face's boxes in two frames; beyond, it is another face, or none."""
_MIN_IOU_MERGED = 0.6
"""Minimum intersection over union of two tracks that have become one face."""


class TrackedFaces(NamedTuple):
    """The faces of one frame."""

    faces: FaceLandmarks
    """Their landmarks. ``boxes`` are those that the detector would draw around the landmarks; ``detection_score``
    is the detector's when it last found the face."""
    track_ids: list[int]
    """Each face's number, the same in all frames; never given twice."""
    detected: bool
    """Whether the detector ran on this frame."""


@dataclass
class _Track:
    """One face over time."""

    track_id: int
    """0 until its first landmarks say that it is a face."""
    crop_box: Box
    """The box that its next crop is cut around."""
    detection_score: float
    """The detector's, when it last found the face."""
    smoother: FaceSmoother | None


class FaceTracker:
    """Follows faces through a video; one tracker a video."""

    def __init__(
        self,
        pipeline: Pipeline,
        detect_every: int = DETECT_EVERY,
        smoother: CausalSmoother | None = None,
    ) -> None:
        """Start without faces.

        Args:
            pipeline: finds them.
            detect_every: search for new faces every so many frames; 1 detects in every frame.
            smoother: how points are smoothed as they come; None leaves them as predicted.

        Raises:
            PipnetError: ``detect_every`` is less than 1.
        """
        if detect_every < 1:
            raise PipnetError(f"detect_every must be at least 1, not {detect_every}")
        self.pipeline, self.detect_every, self.smoother = pipeline, detect_every, smoother
        self._tracks: list[_Track] = []
        self._next_id, self._since_detection = 1, detect_every

    def __call__(self, image: Image, time: float) -> TrackedFaces:
        """Return the faces of the next frame.

        Args:
            image: the frame.
            time: seconds from the beginning, for smoothing.
        """
        self._since_detection += 1
        detect = not self._tracks or self._since_detection >= self.detect_every
        if detect:
            self._add_detections(image)
        prediction, next_boxes, kept = self._predict(image)
        # A new detection that is no face is not one that was lost: the detector may rest.
        if not detect and len(kept) < len(self._tracks):
            detect = True
            self._tracks = [self._tracks[i] for i in kept]
            self._add_detections(image)
            prediction, next_boxes, kept = self._predict(image)
        self._tracks = [self._tracks[i] for i in kept]
        for track, box in zip(self._tracks, next_boxes[kept], strict=True):
            track.crop_box = box
            if not track.track_id:
                track.track_id, self._next_id = self._next_id, self._next_id + 1
        faces = self._result(image, time, prediction.take(kept))
        return TrackedFaces(faces, [track.track_id for track in self._tracks], detect)

    def _predict(self, image: Image) -> tuple[Prediction, Float32[np.ndarray, "faces 4"], list[int]]:
        """Return the landmarks of all tracks, the boxes of their next crops, and the tracks to keep."""
        boxes = np.array([track.crop_box for track in self._tracks], np.float32).reshape(-1, 4)
        prediction = self.pipeline.predict([image], [boxes])
        next_boxes = self.pipeline.around(prediction.points)
        return prediction, next_boxes, self._kept(boxes, next_boxes, prediction.scores)

    def _add_detections(self, image: Image) -> None:
        """Start a track for each detected face that has none."""
        self._since_detection = 0
        found = self.pipeline.detect(image)
        boxes = self.pipeline.adapt(found.boxes, self.pipeline.detector.box_format)
        for box, score in zip(boxes, found.scores, strict=True):
            tracked = np.array([track.crop_box for track in self._tracks], np.float32).reshape(-1, 4)
            overlap = box_iou(tracked, box)
            if len(overlap) and overlap.max() >= _MIN_IOU_NEW:
                self._tracks[int(overlap.argmax())].detection_score = float(score)
                continue
            self._tracks.append(_Track(0, box, float(score), self._new_smoother()))

    def _new_smoother(self) -> FaceSmoother | None:
        if self.smoother is None:
            return None
        return FaceSmoother(self.smoother, self.pipeline.model.metadata.mean_face)

    def _kept(
        self,
        before: Float32[np.ndarray, "faces 4"],
        after: Float32[np.ndarray, "faces 4"],
        scores: Float32[np.ndarray, "faces landmarks"],
    ) -> list[int]:
        """Return the indices of tracks that are still faces, each once: of two on one face the older one stays."""
        kept: list[int] = []
        for i in range(len(after)):
            width, height = (after[i, 2:] - after[i, :2]).tolist()
            is_face = scores[i].mean() >= _MIN_SCORE and min(width, height) >= _MIN_SIDE
            is_face = is_face and box_iou(before[i : i + 1], after[i])[0] >= _MIN_IOU_NEXT
            if is_face and not (box_iou(after[kept], after[i]) >= _MIN_IOU_MERGED).any():
                kept.append(i)
        return kept

    def _result(self, image: Image, time: float, prediction: Prediction) -> FaceLandmarks:
        points = prediction.points.copy()
        for i, track in enumerate(self._tracks):
            if track.smoother is not None:
                points[i] = track.smoother(points[i], time)
        scores = np.array([track.detection_score for track in self._tracks], np.float32)
        landmark_boxes = np.array([track.crop_box for track in self._tracks], np.float32).reshape(-1, 4)
        adapter = self.pipeline.model.metadata.box_adapter(self.pipeline.detector.box_format)
        boxes = adapter.inverse(landmark_boxes)
        return self.pipeline.build(image, prediction._replace(points=points), boxes, scores)
