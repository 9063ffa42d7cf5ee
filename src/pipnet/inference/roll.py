"""Faces turned in the picture by any angle: on their side, upside down.

A model learns faces turned by some thirty degrees, and detectors find hardly any others. Here a picture in
which no face is found is searched again after quarter turns; and a face of which the model is not sure is
looked at in quarter and eighth turns, the surest of which tells roughly how it lies. Where none is sure, each
turn is taken again in a crop around what it found: some detectors draw the box of a face that is upside down
as if it were upright, half a face off. Then its landmarks tell exactly, and it is looked at again in a crop
turned upright. An upright face that the model is sure of costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int

from pipnet.geometry import Affine, Image, affine, similarity, tight_box
from pipnet.inference.box_fits import boxes_of_kind, face_boxes
from pipnet.inference.detectors import Detections, FaceDetector
from pipnet.inference.views import CropModel, Prediction, Views, predict_views
from pipnet.model_info import ModelInfo

_SURE = 0.55
"""Mean score from which a face is taken to lie as the model knows it."""
_MARGIN = 0.05
"""By how much a turned look must be surer: a profile is not sure of itself, and upright all the same."""
_ROLLED = 15.0
"""Degrees by which a face may lean; beyond them it is looked at in a crop turned upright."""
_TIMES = 2
"""How often, each time around what was found last: what a crop says that is far off is itself off."""
_QUARTERS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}
"""By degrees clockwise."""
_TURNS = (90.0, 180.0, 270.0, 45.0, 135.0, 225.0, 315.0)
"""Degrees clockwise by which crops are turned, the likeliest first."""


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
        Boxes in the picture as it is, as the detector would draw them had the faces stood upright where they
        are: of the turn in which faces were found most surely.
    """
    best = upright
    if len(upright.boxes):
        return best
    for angle, how in _QUARTERS.items():
        found = detector(np.asarray(cv2.rotate(image, how), dtype=np.uint8))
        if found.scores.sum() > best.scores.sum():
            faces = face_boxes(info, found.boxes, detector.kind)
            back = np.asarray(cv2.invertAffineTransform(_quarter_turn(angle, image)), dtype=np.float64)
            best = Detections(boxes_of_kind(info, _turn_boxes(faces, back), detector.kind), found.scores)
    return best


def predict_upright(
    model: CropModel,
    pictures: Sequence[Image],
    boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
    views: Views = "none",
) -> Prediction:
    """As `pipnet.inference.views.predict_views`, for faces turned by any angle."""
    faces = _Faces(model, pictures, boxes)
    found = {0.0: faces.seen.points.copy()}
    for angle in _TURNS:  # about the given box
        found[angle] = faces.seen.points.copy()
        unsure = faces.unsure()
        found[angle][unsure] = faces.look(unsure, faces.boxes[unsure], np.full(len(unsure), angle), _MARGIN)
    for angle, points in found.items():  # about what that turn found
        unsure = faces.unsure()
        turns = np.full(len(unsure), angle)
        faces.look(unsure, faces.around(points[unsure], -turns), turns, _MARGIN)
    for _ in range(_TIMES):
        rolls = np.array([roll(points, model.info) for points in faces.seen.points])
        off = np.flatnonzero(np.abs(rolls) >= _ROLLED)
        faces.look(off, faces.around(faces.seen.points[off], rolls[off]), -rolls[off])
    return faces.seen if views == "none" else faces.predict(faces.all, faces.boxes, faces.turns, views)


def roll(points: Float32[np.ndarray, "landmarks 2"], info: ModelInfo) -> float:
    """Degrees by which a face is turned clockwise, -180 to 180: of the similarity from the mean face."""
    linear = similarity(info.mean_face, points.astype(np.float64))
    return float(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0])))


class _Faces:
    """The faces of some pictures: the crop in which each was seen best by now, and what was found in it."""

    def __init__(
        self, model: CropModel, pictures: Sequence[Image], boxes: Sequence[Float32[np.ndarray, "_faces 4"]]
    ) -> None:
        self.model = model
        self.pictures = [picture for picture, some in zip(pictures, boxes, strict=True) for _ in some]
        self.boxes = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
        self.turns = np.zeros(len(self.boxes))
        self.all = np.arange(len(self.boxes))
        self.seen = self.predict(self.all, self.boxes, self.turns)

    def unsure(self) -> Int[np.ndarray, " unsure"]:
        """The faces by number that no look was sure of."""
        return np.flatnonzero(self.seen.scores.mean(axis=1) < _SURE)

    def look(
        self,
        which: Int[np.ndarray, " some"],
        boxes: Float32[np.ndarray, "some 4"],
        turns: Float[np.ndarray, " some"],
        surer_by: float = -np.inf,
    ) -> Float32[np.ndarray, "some landmarks 2"]:
        """Look at some faces in other crops, and keep what is surer than before; the points found in all."""
        new = self.predict(which, boxes, turns)
        better = new.scores.mean(axis=1) > self.seen.scores[which].mean(axis=1) + surer_by
        kept = which[better]
        self.boxes[kept], self.turns[kept] = boxes[better], turns[better]
        for part, found in zip(self.seen, new, strict=True):
            part[kept] = found[better]
        return new.points

    def predict(
        self,
        which: Int[np.ndarray, " some"],
        boxes: Float32[np.ndarray, "some 4"],
        turns: Float[np.ndarray, " some"],
        views: Views = "none",
    ) -> Prediction:
        """What the model finds on some faces, in crops around these boxes, turned clockwise by degrees."""
        return predict_views(
            self.model, [self.pictures[i] for i in which], list(boxes[:, None]), views, turns
        )

    def around(
        self, points: Float32[np.ndarray, "some landmarks 2"], rolls: Float[np.ndarray, " some"]
    ) -> Float32[np.ndarray, "some 4"]:
        """Boxes to cut crops around faces with these landmarks, turned upright."""
        tight = [_upright_box(face, angle) for face, angle in zip(points, rolls.tolist(), strict=True)]
        return face_boxes(self.model.info, np.array(tight, np.float32).reshape(-1, 4), "landmarks")


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
