"""Labeled faces as training and validation examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from torch.utils.data import Dataset, Sampler

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.pseudo_labels import PseudoLabel
from pipnet.errors import DataError
from pipnet.geometry import CropConfig
from pipnet.model.config import TASKS
from pipnet.scheme import LandmarkScheme
from pipnet.training.augment import Augmentation, training_crop
from pipnet.training.crop_cache import FaceCrops
from pipnet.training.recipe import PseudoConfig


class Example(NamedTuple):
    """One training or validation example."""

    crop: UInt8[np.ndarray, "s s 3"]
    points: Float32[np.ndarray, "landmarks 2"]
    """Fractions of the crop."""
    task: Int64[np.ndarray, " landmarks"]
    """Number of the training task of each landmark, see `pipnet.model.config.TASKS`."""
    weight: Float32[np.ndarray, " landmarks"]
    """Loss weight of each landmark; 1 for a labeled face."""


class FaceSupervision(NamedTuple):
    """Training task and loss weight of a face."""

    task: int | Int64[np.ndarray, " landmarks"] = 0
    """See `Example.task`; of the face or of each of its landmarks."""
    weight: float | Float32[np.ndarray, " landmarks"] = 1.0
    """Loss weight, of the face or of each of its landmarks."""


FULL_SUPERVISION = FaceSupervision()
"""The supervision of a labeled face."""


def pseudo_supervision(label: PseudoLabel, config: PseudoConfig) -> FaceSupervision:
    """Return the supervision of a pseudo-labeled face.

    Raises:
        DataError: the task is ``by_agreement``, and the standard deviation of each landmark is not stored.
    """
    if config.task == "full" and label.weights is None and not config.weight_by_score:
        return FULL_SUPERVISION
    weights = np.ones(len(label.sample.points), np.float32) if label.weights is None else label.weights
    factor = np.float32(label.mean_score if config.weight_by_score else 1)
    if config.task != "by_agreement":
        return FaceSupervision(TASKS.index(config.task), weights * factor)
    if label.landmark_std is None:
        raise DataError(
            f"{label.sample.name:.80}: the pseudo-labels have no standard deviation of each landmark, which"
            " pseudo.task by_agreement needs: label the faces again"
        )
    tasks = np.digitize(label.landmark_std, config.agreement, right=True)
    return FaceSupervision(tasks.astype(np.int64), weights * factor)


class FaceDataset(Dataset[Example]):
    """Faces as examples, with new random augmentation in each epoch.

    An example depends on the seed, the face and the epoch alone, not on the process that makes it or on
    earlier examples, so that resuming is exact. An index is ``epoch * len(faces) + face``.
    """

    def __init__(
        self,
        samples: Sequence[FaceSample],
        scheme: LandmarkScheme,
        crop_config: CropConfig,
        size: int,
        augmentation: Augmentation,
        seed: int = 0,
        supervision: Sequence[FaceSupervision] | None = None,
    ) -> None:
        """Open the crop cache of the faces.

        Args:
            samples: the faces.
            scheme: the scheme of their landmarks.
            crop_config: from a face's box to its crop.
            size: side of the crop in pixels.
            augmentation: the random changes.
            seed: the seed of all random numbers.
            supervision: supervision of each face; the full task and weight 1 if None.
        """
        self.supervision = [FULL_SUPERVISION] * len(samples) if supervision is None else list(supervision)
        self.size, self.scheme, self.augmentation, self.seed = size, scheme, augmentation, seed
        # The margin for scale, stretch, rotation and shift, so that crops almost never have black corners.
        angle = np.deg2rad(min(augmentation.rotate_by, 45))
        stretch = 1 + (augmentation.stretch_by if augmentation.stretch else 0)
        rotated = stretch * (np.cos(angle) + np.sin(angle))
        scale = 1 + (augmentation.scale_by if augmentation.scale else 0)
        margin = scale * (rotated + 2 * augmentation.translate_by)
        self.crops = FaceCrops(samples, crop_config, size, float(margin))

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Example:
        epoch, face = divmod(index, len(self.crops))
        image, points, box = self.crops[face]
        rng = np.random.default_rng([self.seed, epoch, face])
        crop, points, mirrored = training_crop(
            image, points, box, self.size, self.scheme, self.augmentation, rng
        )
        task, weight = self.supervision[face]
        tasks = np.broadcast_to(np.asarray(task, np.int64), len(points))
        weights = np.broadcast_to(np.float32(weight), len(points))
        order = self.scheme.flip_permutation if mirrored else slice(None)
        return Example(crop, points, tasks[order].copy(), weights[order].copy())


class ShuffledEpochs(Sampler[int]):
    """Each face once in an epoch, in an order that depends on the seed and the epoch alone."""

    def __init__(self, faces: int, seed: int) -> None:
        self.faces, self.seed, self.epoch = faces, seed, 0

    def __len__(self) -> int:
        return self.faces

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.faces)
        return iter((self.epoch * self.faces + order).tolist())
