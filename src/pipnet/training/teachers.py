"""Labels of unlabeled faces by the consensus of several teachers.

A teacher is any network that finds landmarks on crops: one of ours, or of another project
(`pipnet.inference.backends.external`). Each sees a face and its mirror image, which cancels what it prefers on one
side. Its answer is brought to the common scheme by the mapping of the schemes that comes with pipnet, and,
where one was fitted, by a `ShapeAdapter`. The label is the weighted mean; how far the teachers disagree about
a landmark says how much it may weigh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from pipnet.inference.backends.external import ExternalModel
from pipnet.inference.backends.load import load_model
from pipnet.inference.tta import predict_tta
from pipnet.progress import track
from pipnet.scheme import LandmarkScheme, SchemeMapping
from pipnet.training.shape_adapter import ShapeAdapter

CROP_SCALE = 1.2
"""Side of the crop that disagreement is a fraction of, over the longer side of the landmark box."""
HALF_WEIGHT = 0.02
"""Disagreement, as a fraction of the crop, at which a landmark weighs half."""
_ITERATIONS = 2
"""The second is cropped around the consensus of the first."""
_CHUNK = 32


@dataclass(frozen=True)
class Teacher:
    """A network that labels faces."""

    model: CropModel
    weight: float = 1.0
    """How much it counts in the consensus."""
    adapter: ShapeAdapter | None = None
    """From its meaning of the landmarks to that of the labels, if these are of the adapter's scheme."""

    @classmethod
    def load(cls, name: str | Path) -> Teacher:
        """Load a teacher.

        Args:
            name: a model's name, an ``.onnx`` file, a checkpoint, or another project's ``.toml`` file.

        Raises:
            ModelError, DataError: there is none, or it is damaged.
        """
        path = Path(name)
        if path.suffix == ".toml":
            model = ExternalModel(path)
            adapter = model.config.adapter
            loaded = None if adapter is None else ShapeAdapter.load(adapter)
            return cls(model, model.config.teacher_weight, loaded)
        if path.suffix == ".safetensors":
            from pipnet.model.checkpoint import load_checkpoint
            from pipnet.model.predictor import TorchModel

            return cls(TorchModel(*load_checkpoint(path)))
        return cls(load_model(find_model(name), RuntimeConfig()))

    def label(
        self,
        images: Sequence[Image],
        boxes: Float32[np.ndarray, "faces 4"],
        scheme: LandmarkScheme,
    ) -> Float32[np.ndarray, "faces landmarks 2"]:
        """Return the landmarks of one face an image, in the common scheme and in pixels of the image.

        Args:
            images: an image a face.
            boxes: the tight box of the face's landmarks.
            scheme: the common scheme.

        Raises:
            DataError: no mapping leads from the teacher's scheme to this one.
        """
        points = predict_tta(self.model, images, [box[None] for box in boxes], "flip").points
        own = self.model.metadata.scheme
        if own.name != scheme.name:
            mapping = SchemeMapping.load(own.name, scheme.name)
            points = np.stack([mapping(face) for face in points]).astype(np.float32)
        if self.adapter is not None and self.adapter.scheme == scheme.name:
            points = np.stack([self.adapter(face) for face in points])
        return points


class Consensus(NamedTuple):
    """What several teachers say of some faces."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """Weighted mean of the teachers, in pixels of the image."""
    tta_std: Float32[np.ndarray, "faces landmarks"]
    """Weighted mean distance of the teachers from it, as a fraction of a crop of `CROP_SCALE` boxes."""

    @property
    def weights(self) -> Float32[np.ndarray, "faces landmarks"]:
        """Loss weight of each landmark: 1 where all agree, a half at `HALF_WEIGHT`."""
        return np.asarray(1 / (1 + (self.tta_std / HALF_WEIGHT) ** 2), np.float32)


def consensus(
    teachers: Sequence[Teacher],
    images: Sequence[Image],
    boxes: Float32[np.ndarray, "faces 4"],
    scheme: LandmarkScheme,
) -> Consensus:
    """Label one face an image; see `Teacher.label`."""
    shares = np.array([teacher.weight for teacher in teachers], np.float64)
    shares = (shares / shares.sum())[:, None, None]
    for _ in range(_ITERATIONS):
        said = np.stack([teacher.label(images, boxes, scheme) for teacher in teachers]).astype(np.float64)
        points = (shares[..., None] * said).sum(axis=0)
        boxes = np.stack([tight_box(face) for face in points])
    crops = CROP_SCALE * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    away = (shares * np.linalg.norm(said - points, axis=3)).sum(axis=0)
    return Consensus(points.astype(np.float32), (away / crops[:, None]).astype(np.float32))


def check_teachers(teachers: Sequence[Teacher], scheme: LandmarkScheme) -> None:
    """See that all teachers can label in a scheme, before anything takes long.

    Raises:
        ModelError: there is none.
        DataError: no mapping leads to the scheme.
    """
    if not teachers:
        raise ModelError("no teacher: give --teacher at least once")
    for teacher in teachers:
        metadata = teacher.model.metadata
        if metadata.scheme.name != scheme.name:
            SchemeMapping.load(metadata.scheme.name, scheme.name)


def fit_adapter(model: CropModel, samples: Sequence[FaceSample], scheme: LandmarkScheme) -> ShapeAdapter:
    """Fit the adapter of a teacher on labeled faces; those with unknown landmarks are left out.

    Raises:
        DataError: too few faces, or no mapping leads to the scheme.
        ImageError: an image cannot be read.
    """
    teacher, complete = Teacher(model), [sample for sample in samples if sample.is_complete]
    said: list[np.ndarray] = []
    chunk: list[Image] = []
    for image, _ in track(decoded(complete), len(complete), f"asking {model.metadata.name}"):
        chunk.append(image)
        done = sum(len(part) for part in said)
        if len(chunk) == _CHUNK or done + len(chunk) == len(complete):
            boxes = np.stack([tight_box(s.points) for s in complete[done : done + len(chunk)]])
            said.append(teacher.label(chunk, boxes, scheme))
            chunk = []
    if not said:
        raise DataError("no face with all landmarks to fit an adapter on")
    return ShapeAdapter.fit(np.concatenate(said), np.stack([s.points for s in complete]), scheme)
