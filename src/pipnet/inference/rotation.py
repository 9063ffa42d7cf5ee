"""Rotation search: faces on their side or upside down.

A model is trained on faces that lean by up to about thirty degrees, and detectors find hardly any others. For
other faces:

1. If no certain face is detected in an image, it is also searched rotated by 90, 180 and 270 degrees. The
   rotation with the highest sum of scores is used.
2. Each face is predicted in its crop, rotated upright if the detector's five points lean. A face is doubtful
   if its quality is low (without a calibration, the mean score of its landmarks); steps 3 and 4 are for
   doubtful faces alone.
3. The crop is rotated by 90, 180, 270, 45, 135, 225 and 315 degrees, until a prediction has a high score.
4. If none has: some detectors draw the box of an upside-down face as if it were upright, half a face off.
   Each angle is tried again in a crop around the prediction of step 3 at this angle.
5. The landmarks now give the exact roll. A face that leans is predicted again in a crop rotated by it.

An upright face with a high score takes no further crop. Two boxes on one face lead to the same landmarks:
`pipnet.inference.selection` keeps one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from pipnet.box_adapter import BoxAdapter
from pipnet.geometry import Affine, Image, affine, invert, similarity
from pipnet.inference.align import arcface_points
from pipnet.inference.crop_search import CropSearch
from pipnet.inference.detectors.base import Detections
from pipnet.inference.predict import crop_boxes_from_points, quality
from pipnet.metadata import ModelMetadata

_MIN_QUALITY = 0.6
"""Faces of lower quality are doubtful: nearly all rotated faces, and of upright ones some profiles. Chosen on
validation faces (benchmarks/robustness/rotation/threshold.py)."""
_MIN_SCORE = 0.55
"""Faces with a lower mean score are doubtful, if the model is not calibrated: scores of models differ."""
_MIN_GAIN = 0.05
"""Minimum gain in mean score of a rotated crop: a profile has low scores, and is upright all the same."""
_MAX_ROLL = 15.0
"""Degrees by which a face may lean before it is predicted in a crop rotated upright."""
_UPRIGHT_STEPS = 2
"""Predictions in upright crops, each around the last: an inaccurate prediction gives an inaccurate roll."""
_MIN_LEAN = 20.0
"""Degrees by which a detector's five points, or in a video the landmarks of the last frame, must lean for the
crop to be rotated. On AFW's faces, rotated by 20, 30 and 45 degrees, it lowers the NME by 2, 5 and 12 %
(benchmarks/robustness/first_crop)."""
_QUARTERS = (90, 180, 270)
"""Degrees clockwise by which images are rotated."""
_ANGLES = (0.0, 90.0, 180.0, 270.0, 45.0, 135.0, 225.0, 315.0)
"""Degrees clockwise by which crops are rotated, the likeliest first."""


def search_rotations(
    image: Image, upright: Detections, detect: Callable[[Image], Detections], adapter: BoxAdapter
) -> Detections:
    """Return the faces that are detected in an image, as it is or rotated by 90, 180 or 270 degrees.

    Args:
        image: the image.
        upright: the faces that are detected in it as it is.
        detect: detects faces.
        adapter: the adapter of the detector's boxes.

    Returns:
        Boxes in the unrotated image, as the detector would draw them around upright faces at these positions;
        from the rotation with the highest sum of scores.
    """
    best = upright
    for angle in _QUARTERS:
        detections = detect(np.ascontiguousarray(np.rot90(image, -angle // 90)))
        if detections.detection_score.sum() > best.detection_score.sum():
            inverse = invert(_rotation(angle, image))
            boxes = adapter.inverse(_rotate_boxes(adapter.apply(detections.boxes), inverse))
            best = Detections(boxes, detections.detection_score)
    return best


def search_rolls(search: CropSearch) -> None:
    """Predict the doubtful faces of a search in rotated crops, and leaning faces in crops rotated upright."""
    metadata = search.model.metadata
    points_by_angle = {}
    for angle in _ANGLES:
        points_by_angle[angle] = search.best.points.copy()
        faces = _doubtful(search)
        faces = faces[search.angles[faces] != angle]  # upright crops are predicted already
        angles = np.full(len(faces), angle)
        points_by_angle[angle][faces] = search.try_crops(
            faces, search.best.crop_boxes[faces], angles, _MIN_GAIN
        )
    for angle, points in points_by_angle.items():
        faces = _doubtful(search)
        angles = np.full(len(faces), angle)
        search.try_crops(faces, crop_boxes_from_points(points[faces], metadata, -angles), angles, _MIN_GAIN)
    for _ in range(_UPRIGHT_STEPS):
        rolls = np.array([face_roll(points, metadata) for points in search.best.points])
        faces = np.flatnonzero(np.abs(rolls) >= _MAX_ROLL)
        boxes = crop_boxes_from_points(search.best.points[faces], metadata, rolls[faces])
        search.try_crops(faces, boxes, -rolls[faces])


def upright_angles(detections: Detections) -> Float[np.ndarray, " faces"]:
    """Return by how many degrees clockwise each crop is to be rotated, from the detector's five points."""
    if detections.points is None:
        return np.zeros(len(detections.boxes))
    template = arcface_points(112)
    linear = [similarity(template, points.astype(np.float64)) for points in detections.points]
    return _upright(np.array([np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])) for matrix in linear]))


class UprightCrops(NamedTuple):
    """Where the next crops of faces are cut."""

    boxes: Float32[np.ndarray, "faces 4"]
    """The boxes that they are cut around, see `CropConfig.face_box`."""
    angles: Float[np.ndarray, " faces"]
    """Degrees clockwise by which they are rotated; 0 for faces that hardly lean."""


def upright_crops(points: Float32[np.ndarray, "faces landmarks 2"], metadata: ModelMetadata) -> UprightCrops:
    """Return the crops around faces with these landmarks, rotated upright if they lean.

    Args:
        points: the landmarks of the faces, in pixels.
        metadata: the model's; without a mean face nothing is rotated.
    """
    knows_roll = metadata.mean_face.any()
    rolls = np.array([face_roll(face, metadata) if knows_roll else 0.0 for face in points])
    angles = _upright(rolls)
    return UprightCrops(crop_boxes_from_points(points, metadata, -angles), angles)


def _upright(rolls: Float[np.ndarray, " faces"]) -> Float[np.ndarray, " faces"]:
    """Return the angles that rotate leaning faces upright; 0 for faces that hardly lean."""
    return np.where(np.abs(rolls) > _MIN_LEAN, -rolls, 0.0)


def face_roll(points: Float32[np.ndarray, "landmarks 2"], metadata: ModelMetadata) -> float:
    """Return the roll of a face in degrees clockwise, -180 to 180: of the similarity from the mean face."""
    linear = similarity(metadata.mean_face, points.astype(np.float64))
    return float(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0])))


def _doubtful(search: CropSearch) -> Int[np.ndarray, " some"]:
    """Return the indices of the faces with a best prediction of low quality, or score."""
    qualities = quality(search.best, search.model.metadata)
    if qualities is None:
        return np.flatnonzero(search.best.scores.mean(axis=1) < _MIN_SCORE)
    return np.flatnonzero(qualities < _MIN_QUALITY)


def _rotation(angle: int, image: Image) -> Affine:
    """Return the map from pixels of an image to those of the image rotated clockwise."""
    height, width = image.shape[:2]
    return {
        90: np.array([[0.0, -1, height - 1], [1, 0, 0]]),
        180: np.array([[-1.0, 0, width - 1], [0, -1, height - 1]]),
        270: np.array([[0.0, 1, 0], [-1, 0, width - 1]]),
    }[angle]


def _rotate_boxes(boxes: Float32[np.ndarray, "faces 4"], matrix: Affine) -> Float32[np.ndarray, "faces 4"]:
    corners = affine(boxes.reshape(-1, 2), matrix).reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
