"""Rotation search: faces on their side, upside down, at any roll.

A model learns faces that lean by some thirty degrees, and detectors find hardly any others. So an image in
which no face is found is searched again after quarter turns. A face of which the model is not sure is
predicted in crops turned by quarters and eighths, and the surest tells roughly how it lies. Where none is
sure, each turn is tried again in a crop around its own prediction: some detectors draw the box of an
upside-down face as if it were upright, half a face off. The landmarks then tell the roll exactly, and the
face is predicted in a crop turned upright. An upright face that the model is sure of costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int

from pipnet.config import TTA
from pipnet.geometry import Affine, Image, affine, similarity, tight_box
from pipnet.inference.backends.base import CropModel
from pipnet.inference.detectors.base import Detections, FaceDetector
from pipnet.inference.tta import Prediction, predict_crops
from pipnet.metadata import ModelMetadata

_MIN_SCORE = 0.55
"""Mean score from which a face is taken to lie as the model knows it."""
_MIN_GAIN = 0.05
"""Minimum gain in mean score of a turned crop: a profile has low scores, and is upright all the same."""
_MAX_ROLL = 15.0
"""Degrees by which a face may lean before it is predicted in a crop turned upright."""
_UPRIGHT_STEPS = 2
"""Predictions in upright crops, each around the last: the roll of a prediction that is far off is off too."""
_QUARTERS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}
"""By degrees clockwise."""
_TURNS = (90.0, 180.0, 270.0, 45.0, 135.0, 225.0, 315.0)
"""Degrees clockwise by which crops are turned, the likeliest first."""


def search_rotations(image: Image, detector: FaceDetector, metadata: ModelMetadata) -> Detections:
    """Return what a detector finds in an image turned by quarters.

    Args:
        image: the image, in which the detector finds nothing as it is.
        detector: the detector.
        metadata: the model's, with the adapter of the detector's boxes.

    Returns:
        Boxes in the image as it is, as the detector would draw them had the faces stood upright where they
        are: of the turn with the highest sum of scores.

    Raises:
        ModelError: the model has no adapter for the detector's boxes.
    """
    adapter = metadata.box_adapter(detector.box_format)
    best = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    for angle, code in _QUARTERS.items():
        found = detector(np.asarray(cv2.rotate(image, code), dtype=np.uint8))
        if found.scores.sum() > best.scores.sum():
            back = np.asarray(cv2.invertAffineTransform(_quarter_turn(angle, image)), dtype=np.float64)
            boxes = adapter.inverse(_turn_boxes(adapter.apply(found.boxes), back))
            best = Detections(boxes, found.scores)
    return best


def predict_any_rotation(
    model: CropModel,
    images: Sequence[Image],
    crop_boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
    tta: TTA = "none",
) -> Prediction:
    """Predict as `pipnet.inference.tta.predict_crops`, for faces at any roll."""
    faces = _Faces(model, images, crop_boxes)
    tried = {0.0: faces.best.points.copy()}
    for angle in _TURNS:  # around the given box
        tried[angle] = faces.best.points.copy()
        unsure = faces.unsure()
        boxes, turns = faces.best.crop_boxes[unsure], np.full(len(unsure), angle)
        tried[angle][unsure] = faces.try_crops(unsure, boxes, turns, _MIN_GAIN)
    for angle, points in tried.items():  # around the prediction of that turn
        unsure = faces.unsure()
        turns = np.full(len(unsure), angle)
        faces.try_crops(unsure, faces.around(points[unsure], -turns), turns, _MIN_GAIN)
    for _ in range(_UPRIGHT_STEPS):
        rolls = np.array([face_roll(points, model.metadata) for points in faces.best.points])
        turned = np.flatnonzero(np.abs(rolls) >= _MAX_ROLL)
        faces.try_crops(turned, faces.around(faces.best.points[turned], rolls[turned]), -rolls[turned])
    if tta == "none":
        return faces.best
    return faces.predict(np.arange(len(faces.turns)), faces.best.crop_boxes, faces.turns, tta)


def face_roll(points: Float32[np.ndarray, "landmarks 2"], metadata: ModelMetadata) -> float:
    """Return the roll of a face in degrees clockwise, -180 to 180: of the similarity from the mean face."""
    linear = similarity(metadata.mean_face, points.astype(np.float64))
    return float(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0])))


class _Faces:
    """The best prediction of each face so far, and the turn of its crop."""

    def __init__(
        self,
        model: CropModel,
        images: Sequence[Image],
        crop_boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
    ) -> None:
        self.model = model
        self.images = [image for image, boxes in zip(images, crop_boxes, strict=True) for _ in boxes]
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *crop_boxes])
        self.turns = np.zeros(len(boxes))
        self.best = self.predict(np.arange(len(boxes)), boxes, self.turns)

    def unsure(self) -> Int[np.ndarray, " unsure"]:
        """Return the faces, by index, whose best prediction has a low score."""
        return np.flatnonzero(self.best.scores.mean(axis=1) < _MIN_SCORE)

    def try_crops(
        self,
        faces: Int[np.ndarray, " some"],
        boxes: Float32[np.ndarray, "some 4"],
        turns: Float[np.ndarray, " some"],
        min_gain: float = -np.inf,
    ) -> Float32[np.ndarray, "some landmarks 2"]:
        """Predict some faces in other crops, keep what scores higher, and return all points."""
        new = self.predict(faces, boxes, turns)
        better = new.scores.mean(axis=1) > self.best.scores[faces].mean(axis=1) + min_gain
        kept = faces[better]
        self.turns[kept] = turns[better]
        for part, replacement in zip(self.best, new, strict=True):
            part[kept] = replacement[better]
        return new.points

    def predict(
        self,
        faces: Int[np.ndarray, " some"],
        boxes: Float32[np.ndarray, "some 4"],
        turns: Float[np.ndarray, " some"],
        tta: TTA = "none",
    ) -> Prediction:
        """Predict some faces in crops around these boxes, turned clockwise by degrees."""
        return predict_crops(self.model, [self.images[i] for i in faces], list(boxes[:, None]), tta, turns)

    def around(
        self, points: Float32[np.ndarray, "some landmarks 2"], rolls: Float[np.ndarray, " some"]
    ) -> Float32[np.ndarray, "some 4"]:
        """Return the boxes to cut crops around faces with these landmarks, turned upright."""
        tight = [_upright_box(face, angle) for face, angle in zip(points, rolls.tolist(), strict=True)]
        boxes = np.array(tight, np.float32).reshape(-1, 4)
        return self.model.metadata.box_adapter("landmarks").apply(boxes)


def _upright_box(points: Float32[np.ndarray, "landmarks 2"], roll: float) -> Float32[np.ndarray, "4"]:
    """Return the tight box that the landmarks would have if the face stood upright, about the same place."""
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), roll, 1.0)  # counter-clockwise
    box = tight_box(affine(points, np.asarray(matrix, dtype=np.float64)))
    center = affine((box[:2] + box[2:])[None] / 2, np.asarray(cv2.invertAffineTransform(matrix)))[0]
    half = (box[2:] - box[:2]) / 2
    return np.concatenate([center - half, center + half]).astype(np.float32)


def _quarter_turn(angle: int, image: Image) -> Affine:
    """Return the map from pixels of an image to those of the image turned clockwise."""
    height, width = image.shape[:2]
    return {
        90: np.array([[0.0, -1, height - 1], [1, 0, 0]]),
        180: np.array([[-1.0, 0, width - 1], [0, -1, height - 1]]),
        270: np.array([[0.0, 1, 0], [-1, 0, width - 1]]),
    }[angle]


def _turn_boxes(boxes: Float32[np.ndarray, "faces 4"], matrix: Affine) -> Float32[np.ndarray, "faces 4"]:
    corners = affine(boxes.reshape(-1, 2), matrix).reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
