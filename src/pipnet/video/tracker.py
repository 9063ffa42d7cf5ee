"""Tracking of faces through a video.

The next crop of a face is cut around its landmarks in the last frame, and rotated upright if the face leans.
The detector runs only when a face is lost, and at a fixed interval for new faces. That is faster than
detection in every frame, and more stable, because the boxes of detectors are noisier than landmarks. A track
of low quality that the detector does not confirm is lost.

Faces of low quality (``min_quality``) are tracked but not returned: a face that turns away or is hidden for
some frames keeps its track ID. With ``max_faces`` the faces that were found first are returned, each until
its track is lost, and later ones are not tracked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.confidence import LOW_QUALITY
from pipnet.errors import PipnetError
from pipnet.geometry import Box, Image, box_iou
from pipnet.inference.pipeline import Pipeline
from pipnet.inference.predict import Prediction, crop_boxes_from_points, quality
from pipnet.inference.results import FaceLandmarks
from pipnet.inference.rotation import UprightCrops, upright_angles, upright_crops
from pipnet.inference.selection import select_faces
from pipnet.video.causal_smoother import CausalSmoother

DETECT_EVERY = 25
"""Default number of frames between two runs of the detector."""
_MIN_SCORE = 0.2
"""Minimum mean score of a face; below it the face is lost. Where no face is, some models score higher."""
_MIN_SIDE = 8
"""Minimum side of a face in pixels."""
_MIN_IOU_NEW = 0.3
"""Minimum intersection over union of a detection and a tracked face to be the same face."""
_MIN_IOU_NEXT = 0.2
"""Minimum intersection over union of a face's boxes in two frames; below it the face is lost."""
_MIN_IOU_MERGED = 0.6
"""Minimum intersection over union of two tracks to be the same face; the later one is dropped."""


class TrackedFaces(NamedTuple):
    """The faces of one frame."""

    faces: FaceLandmarks
    """Their landmarks. ``boxes`` are in the detector's format, computed from the landmarks;
    ``detection_score`` is that of the last detection of the face."""
    track_ids: list[int]
    """ID of each face, the same in all frames: 1, 2, 3, ... in order of appearance; never reused. An ID is
    given when a face is returned first."""
    detected: bool
    """Whether the detector ran on this frame."""


@dataclass
class _Track:
    """One tracked face."""

    track_id: int
    """0 until it is returned for the first time."""
    crop_box: Box
    """The box that its next crop is cut around."""
    crop_angle: float
    """Degrees clockwise by which its next crop is rotated, so that a leaning face is upright in it."""
    detection_score: float
    """The score of its last detection."""
    smoother: CausalSmoother | None
    is_confirmed: bool = True
    """Whether the last run of the detector found it."""


class FaceTracker:
    """Tracks the faces of one video."""

    def __init__(self, pipeline: Pipeline, detect_every: int = DETECT_EVERY, smooth: bool = False) -> None:
        """Start without faces.

        Args:
            pipeline: detects faces and predicts their landmarks.
            detect_every: number of frames between two runs of the detector; 1 detects in every frame.
            smooth: smooth the landmarks with those of earlier frames.

        Raises:
            PipnetError: ``detect_every`` is less than 1.
            ModelError: the landmarks are to be smoothed, and the model's mean face is unknown.
        """
        if detect_every < 1:
            raise PipnetError(f"detect_every must be at least 1, not {detect_every}")
        if smooth:
            pipeline.model.metadata.require_mean_face("smoothing")
        self.pipeline, self.detect_every, self.smooth = pipeline, detect_every, smooth
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
        prediction, next_crops, kept = self._predict(image)
        # After a detection in this frame, only new detections are dropped here, so the detector need not run
        # again.
        if not detect and len(kept) < len(self._tracks):
            detect = True
            self._tracks = [self._tracks[i] for i in kept]
            self._add_detections(image)
            prediction, next_crops, kept = self._predict(image)
        self._tracks = [self._tracks[i] for i in kept]
        for track, i in zip(self._tracks, kept, strict=True):
            track.crop_box, track.crop_angle = next_crops.boxes[i], float(next_crops.angles[i])
        faces = self._result(image, time, prediction.take(kept))
        return self._select(faces, detect)

    def _select(self, faces: FaceLandmarks, detected: bool) -> TrackedFaces:
        """Return the faces that the options select; tracks are in order of age."""
        config = self.pipeline.config
        age = -np.arange(len(faces), dtype=np.float64)
        selected = select_faces(faces, age, config)
        for i in np.sort(selected):
            track = self._tracks[i]
            if not track.track_id:
                track.track_id, self._next_id = self._next_id, self._next_id + 1
        track_ids = [self._tracks[i].track_id for i in selected]
        if detected and config.max_faces == len(selected):
            self._tracks = self._tracks[: selected.max() + 1]
        return TrackedFaces(faces[selected], track_ids, detected)

    def _predict(self, image: Image) -> tuple[Prediction, UprightCrops, list[int]]:
        """Return the landmarks of all tracks, their next crops, and which tracks to keep."""
        boxes = self._crop_boxes()
        angles = np.array([track.crop_angle for track in self._tracks])
        prediction = self.pipeline.predict([image], [boxes], angles)
        next_crops = upright_crops(prediction.points, self.pipeline.model.metadata)
        return prediction, next_crops, self._kept(boxes, next_crops.boxes, prediction)

    def _add_detections(self, image: Image) -> None:
        """Start a track for each detected face that has none, and update the scores of the others."""
        self._since_detection = 0
        for track in self._tracks:
            track.is_confirmed = False
        detections = self.pipeline.detect(image)
        boxes = self.pipeline.adapt(detections.boxes, self.pipeline.detector.box_format)
        mean_face = self.pipeline.model.metadata.mean_face
        angles = upright_angles(detections).tolist()
        for box, score, angle in zip(boxes, detections.detection_score, angles, strict=True):
            overlap = box_iou(self._crop_boxes(), box)
            if len(overlap) and overlap.max() >= _MIN_IOU_NEW:
                track = self._tracks[int(overlap.argmax())]
                track.detection_score, track.is_confirmed = float(score), True
                continue
            smoother = CausalSmoother(mean_face) if self.smooth else None
            self._tracks.append(_Track(0, box, angle, float(score), smoother))

    def _crop_boxes(self) -> Float32[np.ndarray, "faces 4"]:
        return np.array([track.crop_box for track in self._tracks], np.float32).reshape(-1, 4)

    def _kept(
        self,
        before: Float32[np.ndarray, "faces 4"],
        after: Float32[np.ndarray, "faces 4"],
        prediction: Prediction,
    ) -> list[int]:
        """Return the indices of tracks that are still faces; of two tracks on one face, the older one."""
        kept: list[int] = []
        qualities = quality(prediction, self.pipeline.model.metadata)
        for i, track in enumerate(self._tracks):
            width, height = (after[i, 2:] - after[i, :2]).tolist()
            is_face = prediction.scores[i].mean() >= _MIN_SCORE and min(width, height) >= _MIN_SIDE
            is_face = is_face and (track.is_confirmed or qualities is None or qualities[i] >= LOW_QUALITY)
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
        adapter = self.pipeline.model.metadata.box_adapter(self.pipeline.detector.box_format)
        boxes = adapter.inverse(crop_boxes_from_points(prediction.points, self.pipeline.model.metadata))
        return self.pipeline.build(image, prediction._replace(points=points), boxes, scores)
