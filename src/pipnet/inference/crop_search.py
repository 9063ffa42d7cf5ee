"""The best prediction of each face over several crops: those with the highest mean score are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int

from pipnet.config import TTA
from pipnet.geometry import Image
from pipnet.inference.backends.base import CropModel
from pipnet.inference.predict import Prediction, crop_boxes_from_points, predict_crops


class CropSearch:
    """The best prediction of each face so far, and the angle of its crop."""

    def __init__(
        self,
        model: CropModel,
        images: Sequence[Image],
        crop_boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
        angles: Float[np.ndarray, " all_faces"] | None = None,
    ) -> None:
        """Predict all faces; the arguments are those of `predict_crops`."""
        self.model = model
        self.images = [image for image, boxes in zip(images, crop_boxes, strict=True) for _ in boxes]
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *crop_boxes])
        self.angles = np.zeros(len(boxes)) if angles is None else angles.copy()
        """Degrees clockwise by which the crop of each face is rotated."""
        self.best = self.predict(np.arange(len(boxes)), boxes, self.angles)

    def refine(self, steps: int) -> None:
        """Predict each face again in a crop around its landmarks, so many times or until none scores higher.

        Without the comparison of scores, a wrong prediction leads to a worse crop: on CFP's validation faces,
        with boxes shifted by up to a fifth, the second step raised the error from 5.79 to 5.94 % of the face;
        with the comparison it falls from 5.77 to 5.69 %. A model without scores takes every step.
        """
        min_gain = 0.0 if self.model.metadata.has_scores else -np.inf
        faces = np.arange(len(self.angles))
        for _ in range(steps):
            boxes = crop_boxes_from_points(self.best.points[faces], self.model.metadata)
            before = self.best.crop_boxes[faces].copy()
            self.try_crops(faces, boxes, self.angles[faces], min_gain)
            faces = faces[(self.best.crop_boxes[faces] != before).any(axis=1)]

    def try_crops(
        self,
        faces: Int[np.ndarray, " some"],
        boxes: Float32[np.ndarray, "some 4"],
        angles: Float[np.ndarray, " some"],
        min_gain: float = -np.inf,
    ) -> Float32[np.ndarray, "some landmarks 2"]:
        """Predict some faces in other crops, keep predictions that score higher, and return all points."""
        new = self.predict(faces, boxes, angles)
        better = new.scores.mean(axis=1) > self.best.scores[faces].mean(axis=1) + min_gain
        improved = faces[better]
        self.angles[improved] = angles[better]
        for part, replacement in zip(self.best, new, strict=True):
            part[improved] = replacement[better]
        return new.points

    def predict(
        self,
        faces: Int[np.ndarray, " some"],
        boxes: Float32[np.ndarray, "some 4"],
        angles: Float[np.ndarray, " some"],
        tta: TTA = "none",
    ) -> Prediction:
        """Predict some faces in crops around these boxes, rotated clockwise by these angles in degrees."""
        return predict_crops(self.model, [self.images[i] for i in faces], list(boxes[:, None]), tta, angles)

    def augmented(self, tta: TTA) -> Prediction:
        """Return the best predictions, with test-time augmentation of their crops."""
        if tta == "none":
            return self.best
        return self.predict(np.arange(len(self.angles)), self.best.crop_boxes, self.angles, tta)
