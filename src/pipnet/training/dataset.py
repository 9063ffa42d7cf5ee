"""Labeled faces as training and validation examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from torch.utils.data import Dataset, Sampler

from pipnet.annotations.samples import FaceSample
from pipnet.geometry import CropConfig
from pipnet.scheme import LandmarkScheme
from pipnet.training.augment import Augmentation, training_crop
from pipnet.training.crop_cache import FaceCrops


class Example(NamedTuple):
    """One training or validation example."""

    crop: UInt8[np.ndarray, "s s 3"]
    points: Float32[np.ndarray, "landmarks 2"]
    """Fractions of the crop."""
    task: int
    """Number of the training task, see `pipnet.model.config.TASKS`."""
    weight: Float32[np.ndarray, " landmarks"]
    """Loss weight of each landmark; 1 for a labeled face."""


class FaceSupervision(NamedTuple):
    """Training task and loss weight of a face."""

    task: int = 0
    """See `Example.task`."""
    weight: float | Float32[np.ndarray, " landmarks"] = 1.0
    """Loss weight, of the face or of each of its landmarks."""


FULL_SUPERVISION = FaceSupervision()
"""The supervision of a labeled face."""


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
        margin = (1 + augmentation.scale_by) * (rotated + 2 * augmentation.translate_by)
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
        weights = np.broadcast_to(np.float32(weight), len(points))
        order = self.scheme.flip_permutation if mirrored else slice(None)
        return Example(crop, points, task, weights[order].copy())


class ShuffledEpochs(Sampler[int]):
    """Each face once in an epoch, in an order that depends on the seed and the epoch alone."""

    def __init__(self, faces: int, seed: int) -> None:
        self.faces, self.seed, self.epoch = faces, seed, 0

    def __len__(self) -> int:
        return self.faces

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.faces)
        return iter((self.epoch * self.faces + order).tolist())
