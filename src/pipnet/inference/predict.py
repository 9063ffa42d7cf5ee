"""Prediction: cut crops from images, run the model on batches of them, return landmarks in the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from pipnet.config import TTA
from pipnet.geometry import Box, CropConfig, Image, box_to_crop, compose, from_fraction
from pipnet.inference.backends.base import CropModel
from pipnet.inference.tta import AugmentedCrop, augmentation_matrix, augmented_crops, undo_augmentation
from pipnet.metadata import ModelMetadata
from pipnet.warp import warp

_BATCH_SIZE = 64
"""Crops cut before the model is run."""


class Prediction(NamedTuple):
    """Predicted landmarks of some faces."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """Landmarks in pixels of the image; the mean over the augmented crops."""
    scores: Float32[np.ndarray, "faces landmarks"]
    """Peak of each landmark's score map, in [0, 1]; the mean over the augmented crops."""
    vote_std: Float32[np.ndarray, "faces landmarks"]
    """Standard deviation of the neighbors' votes, as a fraction of the crop; the mean over the augmented
    crops."""
    tta_std: Float32[np.ndarray, "faces landmarks"]
    """Standard deviation of the augmented crops' predictions, as a fraction of the crop; 0 without test-time
    augmentation."""
    crop_boxes: Float32[np.ndarray, "faces 4"]
    """The boxes that the crops were cut around, xyxy in pixels of the image."""

    def take(self, faces: Int[np.ndarray, " some"] | Sequence[int]) -> Prediction:
        """Return the prediction of some of the faces."""
        return Prediction(*(part[np.asarray(faces, np.int64)] for part in self))

    def split(self, counts: Sequence[int]) -> list[Prediction]:
        """Return one prediction per image, from the number of faces in each."""
        ends = np.cumsum(counts)
        return [self.take(np.arange(end - count, end)) for end, count in zip(ends, counts, strict=True)]


def predict_crops(
    model: CropModel,
    images: Sequence[Image],
    crop_boxes: Sequence[Float32[np.ndarray, "_faces 4"]],
    tta: TTA = "none",
    angles: Float[np.ndarray, " faces"] | None = None,
) -> Prediction:
    """Return the landmarks of the faces of several images, in batches.

    Args:
        model: predicts landmarks on crops.
        images: the images.
        crop_boxes: of each image, the boxes that crops are cut around (see `CropConfig.face_box`).
        tta: test-time augmentation.
        angles: degrees clockwise by which each face's crop is rotated; 0 if None.

    Returns:
        All faces of the first image, then all of the second, and so on.
    """
    metadata = model.metadata
    faces = [
        _cut(image, box, metadata.crop)
        for image, boxes in zip(images, crop_boxes, strict=True)
        for box in boxes
    ]
    all_boxes = np.concatenate([np.zeros((0, 4), np.float32), *crop_boxes])
    if not faces:
        empty = np.zeros((0, metadata.scheme.landmarks), np.float32)
        return Prediction(np.zeros((*empty.shape, 2), np.float32), empty, empty, empty, all_boxes)
    augmentations = augmented_crops(tta, metadata.input_size)
    angles = np.zeros(len(faces)) if angles is None else angles
    step = max(_BATCH_SIZE // len(augmentations), 1)
    parts = [
        _predict(model, faces[i : i + step], angles[i : i + step], augmentations)
        for i in range(0, len(faces), step)
    ]
    points, scores, vote_std, tta_std = (np.concatenate(part) for part in zip(*parts, strict=True))
    regions = np.stack([face.region for face in faces])
    return Prediction(from_fraction(points, regions[:, None]), scores, vote_std, tta_std, all_boxes)


def quality(prediction: Prediction, metadata: ModelMetadata) -> Float32[np.ndarray, " faces"] | None:
    """Return the mean confidence of each face, see `FaceLandmarks.quality`; None without a calibration."""
    if metadata.calibration is None:
        return None
    estimate = metadata.calibration.estimate(prediction.scores, prediction.vote_std, metadata.mean_face)
    return np.asarray(1 - estimate.probability.mean(axis=1))


def crop_boxes_from_points(
    points: Float32[np.ndarray, "faces landmarks 2"],
    metadata: ModelMetadata,
    rolls: Float[np.ndarray, " faces"] | None = None,
) -> Float32[np.ndarray, "faces 4"]:
    """Return the boxes to cut crops around faces with these landmarks.

    Args:
        points: landmarks in pixels of the image.
        metadata: the model's.
        rolls: roll of each face in degrees clockwise; its box is that of the face rotated upright around the
            box's center. 0 if None.
    """
    boxes = np.zeros((len(points), 4), np.float32)
    for i, roll in enumerate(np.zeros(len(points)) if rolls is None else np.deg2rad(rolls)):
        rotation = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        upright = points[i] @ rotation.T
        low, high = upright.min(axis=0), upright.max(axis=0)
        center, half = (low + high) / 2 @ rotation, (high - low) / 2
        boxes[i] = np.concatenate([center - half, center + half])
    return metadata.box_adapter("landmarks").apply(boxes)


class _Face(NamedTuple):
    """A face to predict."""

    image: Image
    region: Box
    """The part of the image that the crop shows."""
    label_box: Box
    """The box that the model predicts fractions of."""


def _cut(image: Image, crop_box: Box, crop_config: CropConfig) -> _Face:
    height, width = image.shape[:2]
    boxes = (crop_config.region, crop_config.label_box)
    return _Face(image, *(box(crop_box, width, height) for box in boxes))


def fractions_of_region(
    points: Float[np.ndarray, "*n 2"], label_box: Box, region: Box
) -> Float[np.ndarray, "*n 2"]:
    """Return the predictions of a model with ``whole_pixels`` as fractions of what the crop shows.

    Args:
        points: fractions of the label box, as the model predicts them.
        label_box: see `CropConfig.label_box`.
        region: see `CropConfig.region`.
    """
    (low, high), corners = region.astype(np.float64).reshape(2, 2), label_box.reshape(2, 2)
    left_top, right_bottom = (corners - low) / (high - low)
    return np.asarray(left_top + points * (right_bottom - left_top), dtype=points.dtype)


def _predict(
    model: CropModel,
    faces: Sequence[_Face],
    angles: Float[np.ndarray, " faces"],
    augmentations: Sequence[AugmentedCrop],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return points as fractions of the faces' plain crops, scores, vote_std and tta_std."""
    size, order = model.metadata.input_size, model.metadata.scheme.flip_permutation
    rotations = [augmentation_matrix(0, 0, angle, False, size) for angle in angles.tolist()]
    crops = [
        warp(face.image, compose(box_to_crop(face.region, size), rotation, augmented.matrix), size)
        for face, rotation in zip(faces, rotations, strict=True)
        for augmented in augmentations
    ]
    output = model(np.array(crops, np.uint8).reshape(-1, size, size, 3))
    points, scores, vote_std = (
        part.reshape(len(faces), len(augmentations), *part.shape[1:]).copy() for part in output
    )
    if model.metadata.crop.whole_pixels:  # an offset in each crop as the model sees it, mirrored or rotated
        for i, face in enumerate(faces):
            points[i] = fractions_of_region(points[i], face.label_box, face.region)
    for i, augmented in enumerate(augmentations):
        if augmented.mirrored:
            for part in (points, scores, vote_std):
                part[:, i] = part[:, i, order]
        if len(augmentations) > 1:
            points[:, i] = undo_augmentation(points[:, i], augmented.matrix, size)
    for i in np.flatnonzero(angles).tolist():
        points[i] = undo_augmentation(points[i], rotations[i], size)
    mean = points.mean(axis=1)
    distances = np.linalg.norm(points - mean[:, None], axis=3)
    tta_std = np.sqrt((distances**2).mean(axis=1))
    return mean, scores.mean(axis=1), vote_std.mean(axis=1), tta_std.astype(np.float32)
