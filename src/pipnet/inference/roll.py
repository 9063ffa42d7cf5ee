"""Faces turned in the picture by any angle: on their side, upside down.

A model learns faces turned by some thirty degrees, and detectors find hardly any others. Here a picture in
which no face is found is searched again after quarter turns; and a face of which the model is not sure is
looked at in quarter and eighth turns, the surest of which tells roughly how it lies. Then its landmarks tell
exactly, and it is looked at again in a crop turned upright. An upright face that the model is sure of costs
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from pipnet.geometry import Affine, Image, affine, similarity, tight_box
from pipnet.inference.box_fits import face_boxes
from pipnet.inference.detectors import Detections, FaceDetector
from pipnet.inference.views import CropModel, Prediction, Views, predict_views
from pipnet.model_info import ModelInfo

_SURE = 0.55
"""Mean score from which a face is taken to lie as the model knows it."""
_MARGIN = 0.05
"""By how much a turned look must be surer: a profile is not sure of itself, and upright all the same."""
_ROLLED = 15.0
"""Degrees by which a crop may be off the upright; beyond them the face is looked at again."""
_TIMES = 2
"""How often at most: what a crop says that is far off may itself be off."""
_QUARTERS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}
"""By degrees clockwise."""


def turned_detections(
    image: Image, upright: Detections, detector: FaceDetector, info: ModelInfo
) -> Detections:
    """What a detector finds in a picture, or, where that is nothing, in the turned picture.

    Args:
        image: the picture.
        upright: what was found in it as it is.
        detector: what found it.
        info: the model's, which says where in a detector's box the face is.

    Returns:
        Boxes in the picture as it is, of the kind ``"model"`` (see `FaceLandmarker.__call__`): of the turn
        in which faces were found most surely.
    """
    best = upright._replace(boxes=face_boxes(info, upright.boxes, detector.kind))
    if len(upright.boxes):
        return best
    for angle, how in _QUARTERS.items():
        found = detector(np.asarray(cv2.rotate(image, how), dtype=np.uint8))
        if found.scores.sum() > best.scores.sum():
            faces = face_boxes(info, found.boxes, detector.kind)
            back = np.asarray(cv2.invertAffineTransform(_quarter_turn(angle, image)), dtype=np.float64)
            best = Detections(_turn_boxes(faces, back), found.scores)
    return best


def predict_upright(
    model: CropModel,
    pictures: Sequence[Image],
    boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
    views: Views = "none",
) -> Prediction:
    """As `pipnet.inference.views.predict_views`, for faces turned by any angle."""
    info = model.info
    faces = [(picture, box) for picture, some in zip(pictures, boxes, strict=True) for box in some]
    seen = predict_views(model, pictures, boxes)
    for angle in (*_QUARTERS, 45, 135, 225, 315):
        unsure = np.flatnonzero(seen.scores.mean(axis=1) < _SURE)
        again = _predict(model, [faces[i] for i in unsure], np.full(len(unsure), float(angle)))
        better = again.scores.mean(axis=1) > seen.scores[unsure].mean(axis=1) + _MARGIN
        for part, new in zip(seen, again, strict=True):
            part[unsure[better]] = new[better]
    turns = np.zeros(len(faces))
    for _ in range(_TIMES):
        rolls = np.array([roll(points, info) for points in seen.points])
        off = np.flatnonzero(np.abs((rolls - turns + 180) % 360 - 180) >= _ROLLED)
        for i in off.tolist():
            tight = _upright_box(seen.points[i], rolls[i])
            faces[i] = faces[i][0], face_boxes(info, tight[None], "landmarks")[0]
            turns[i] = rolls[i]
        again = _predict(model, [faces[i] for i in off], -turns[off])
        for part, new in zip(seen, again, strict=True):
            part[off] = new
    return seen if views == "none" else _predict(model, faces, -turns, views)


def roll(points: Float32[np.ndarray, "landmarks 2"], info: ModelInfo) -> float:
    """Degrees by which a face is turned clockwise, -180 to 180: of the similarity from the mean face."""
    linear = similarity(info.mean_face, points.astype(np.float64))
    return float(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0])))


def _predict(
    model: CropModel,
    faces: Sequence[tuple[Image, Float32[np.ndarray, "4"]]],
    turns: Float64[np.ndarray, " faces"],
    views: Views = "none",
) -> Prediction:
    return predict_views(model, [image for image, _ in faces], [box[None] for _, box in faces], views, turns)


def _upright_box(points: Float32[np.ndarray, "landmarks 2"], angle: float) -> Float32[np.ndarray, "4"]:
    """The tight box that a face's landmarks would have if it stood upright, about the same place."""
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), angle, 1.0)  # counter-clockwise
    box = tight_box(affine(points, np.asarray(matrix, dtype=np.float64)))
    centre = affine((box[:2] + box[2:])[None] / 2, np.asarray(cv2.invertAffineTransform(matrix)))[0]
    half = (box[2:] - box[:2]) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def _quarter_turn(angle: int, image: Image) -> Affine:
    """From pixels of a picture to those of the picture turned clockwise."""
    height, width = image.shape[:2]
    return {
        90: np.array([[0.0, -1, height - 1], [1, 0, 0]]),
        180: np.array([[-1.0, 0, width - 1], [0, -1, height - 1]]),
        270: np.array([[0.0, 1, 0], [-1, 0, width - 1]]),
    }[angle]


def _turn_boxes(boxes: Float32[np.ndarray, "faces 4"], matrix: Affine) -> Float32[np.ndarray, "faces 4"]:
    corners = affine(boxes.reshape(-1, 2), matrix).reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
