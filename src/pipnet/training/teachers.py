"""Pseudo-labels by the consensus of several teachers.

A teacher is any network that finds landmarks on crops: one of pipnet, or of another project
(`pipnet.inference.backends.external_model`). Each predicts a face and its mirror image, which cancels a bias
towards one side. The prediction is mapped to the common scheme by the mapping that comes with pipnet and,
where one was fitted, by a `LandmarkAdapter`. The label is the weighted mean of the teachers; the more they
disagree about a landmark, the lower is its loss weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.samples import FaceSample
from pipnet.config import RuntimeConfig
from pipnet.errors import DataError, ModelError
from pipnet.evaluation.evaluate import decoded
from pipnet.geometry import Image, tight_box
from pipnet.hub import find_model
from pipnet.inference.backends.base import CropModel
from pipnet.inference.backends.external_model import ExternalModel
from pipnet.inference.backends.load import load_model
from pipnet.inference.predict import predict_crops
from pipnet.progress import show_progress
from pipnet.scheme import LandmarkScheme, SchemeMapping
from pipnet.training.landmark_adapter import LandmarkAdapter

CROP_SCALE = 1.2
"""Crops are this factor times the longer side of the landmark box; distances are fractions of the crop."""
HALF_WEIGHT = 0.02
"""Standard deviation, as a fraction of the crop, at which the loss weight of a landmark is a half."""
_ITERATIONS = 2
"""The crops of the second iteration are cut around the consensus of the first."""
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Teacher:
    """A network that labels faces."""

    model: CropModel
    weight: float = 1.0
    """Its weight in the consensus."""
    adapter: LandmarkAdapter | None = None
    """From its definition of the landmarks to that of the labels, for labels of the adapter's scheme."""

    @classmethod
    def load(cls, name: str | Path) -> Teacher:
        """Load a teacher.

        Args:
            name: a model's name, an ``.onnx`` file, a checkpoint, or another project's ``.toml`` file.

        Raises:
            ModelError, DataError: the model or its adapter is missing or damaged.
        """
        path = Path(name)
        if path.suffix == ".toml":
            model = ExternalModel(path)
            file = model.config.adapter
            adapter = None if file is None else LandmarkAdapter.load(file)
            return cls(model, model.config.teacher_weight, adapter)
        if path.suffix == ".safetensors":
            from pipnet.model.checkpoint import load_checkpoint
            from pipnet.model.torch_model import TorchModel

            return cls(TorchModel(*load_checkpoint(path)))
        return cls(load_model(find_model(name), RuntimeConfig()))

    def label(
        self,
        images: Sequence[Image],
        boxes: Float32[np.ndarray, "faces 4"],
        scheme: LandmarkScheme,
    ) -> Float32[np.ndarray, "faces landmarks 2"]:
        """Return the landmarks of one face in each image, in the common scheme and in pixels of the image.

        Args:
            images: one image for each face.
            boxes: the tight box of each face's landmarks, xyxy in pixels.
            scheme: the common scheme.

        Raises:
            DataError: there is no mapping from the teacher's scheme to this one.
        """
        points = predict_crops(self.model, images, [box[None] for box in boxes], "flip").points
        name = self.model.metadata.scheme.name
        if name != scheme.name:
            mapping = SchemeMapping.load(name, scheme.name)
            points = np.stack([mapping(face) for face in points]).astype(np.float32)
        if self.adapter is not None and self.adapter.scheme == scheme.name:
            points = np.stack([self.adapter(face) for face in points])
        return points


class Consensus(NamedTuple):
    """The weighted mean of several teachers' landmarks of some faces."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """In pixels of the image."""
    label_std: Float32[np.ndarray, "faces landmarks"]
    """Weighted mean distance of the teachers from it, as a fraction of the crop, see `CROP_SCALE`."""

    @property
    def weights(self) -> Float32[np.ndarray, "faces landmarks"]:
        """Loss weight of each landmark: 1 where all teachers agree, a half at `HALF_WEIGHT`."""
        return np.asarray(1 / (1 + (self.label_std / HALF_WEIGHT) ** 2), np.float32)


def consensus(
    teachers: Sequence[Teacher],
    images: Sequence[Image],
    boxes: Float32[np.ndarray, "faces 4"],
    scheme: LandmarkScheme,
) -> Consensus:
    """Return the consensus on one face in each image; for the arguments see `Teacher.label`."""
    weights = np.array([teacher.weight for teacher in teachers], np.float64)
    weights = (weights / weights.sum())[:, None, None]
    for _ in range(_ITERATIONS):
        labels = np.stack([teacher.label(images, boxes, scheme) for teacher in teachers]).astype(np.float64)
        points = (weights[..., None] * labels).sum(axis=0)
        boxes = np.stack([tight_box(face) for face in points])
    crops = CROP_SCALE * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    distance = (weights * np.linalg.norm(labels - points, axis=3)).sum(axis=0)
    return Consensus(points.astype(np.float32), (distance / crops[:, None]).astype(np.float32))


def check_teachers(teachers: Sequence[Teacher], scheme: LandmarkScheme) -> None:
    """Check, before long work starts, that all teachers can label in a scheme.

    Raises:
        ModelError: there is no teacher.
        DataError: there is no mapping to the scheme.
    """
    if not teachers:
        raise ModelError("no teacher: use --teacher at least once")
    for teacher in teachers:
        metadata = teacher.model.metadata
        if metadata.scheme.name != scheme.name:
            SchemeMapping.load(metadata.scheme.name, scheme.name)


def fit_adapter(model: CropModel, samples: Sequence[FaceSample], scheme: LandmarkScheme) -> LandmarkAdapter:
    """Fit the shape adapter of a teacher on labeled faces; faces with unknown landmarks are left out.

    Raises:
        DataError: there are too few faces, or there is no mapping to the scheme.
        ImageError: an image cannot be read.
    """
    teacher, complete = Teacher(model), [sample for sample in samples if sample.is_complete]
    labels: list[np.ndarray] = []
    images = show_progress(decoded(complete), len(complete), f"labeling with {model.metadata.name}")
    while batch := list(islice(images, _BATCH_SIZE)):
        boxes = np.stack([tight_box(sample.points) for _, sample in batch])
        labels.append(teacher.label([image for image, _ in batch], boxes, scheme))
    if not labels:
        raise DataError("no face with all landmarks to fit an adapter on")
    return LandmarkAdapter.fit(np.concatenate(labels), np.stack([s.points for s in complete]), scheme)
