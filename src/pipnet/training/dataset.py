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
    """One face of a batch."""

    crop: UInt8[np.ndarray, "s s 3"]
    points: Float32[np.ndarray, "landmarks 2"]
    """Fractions of the crop."""
    task: int
    """Number of what it is trained on, see `pipnet.model.heads.curriculum.TASKS`."""
    weight: Float32[np.ndarray, " landmarks"]
    """Loss weight of each landmark; 1 for a labeled face."""


class FaceSupervision(NamedTuple):
    """How a face is trained on."""

    task: int = 0
    """See `Example.task`."""
    weight: float | Float32[np.ndarray, " landmarks"] = 1.0
    """Loss weight, of the face or of each of its landmarks."""


class FaceDataset(Dataset[Example]):
    """Faces as examples, varied anew in each epoch.

    An example depends on the seed, the face and the epoch alone, never on which process makes it or on
    what came before: that is what makes resuming exact. An index is ``epoch * len(faces) + face``.
    """

    def __init__(
        self,
        samples: Sequence[FaceSample],
        scheme: LandmarkScheme,
        rule: CropConfig,
        size: int,
        augmentation: Augmentation,
        seed: int = 0,
        supervision: Sequence[FaceSupervision] | None = None,
    ) -> None:
        """Take the faces.

        Args:
            samples: the faces.
            scheme: what their landmarks are.
            rule: from a face's box to its crop.
            size: side of the crop in pixels.
            augmentation: what to vary.
            seed: all chance comes from it.
            supervision: of each face; the full task and weight 1 if None.
        """
        self.supervision = supervision
        self.rule, self.size, self.scheme = rule, size, scheme
        self.augmentation, self.seed = augmentation, seed
        # Room for the crop to be scaled, stretched, turned and shifted, all but never with a black corner.
        angle = np.deg2rad(min(augmentation.rotate_by, 45))
        stretch = 1 + (augmentation.stretch_by if augmentation.stretch else 0)
        turned = stretch * (np.cos(angle) + np.sin(angle))
        room = (1 + augmentation.scale_by) * (turned + 2 * augmentation.translate_by)
        reach = round(rule.scale * float(room), 3)
        self.crops = FaceCrops(samples, reach, max(int(size / rule.scale), 1), rule.box)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Example:
        epoch, face = divmod(index, len(self.crops))
        image, points, face_box = self.crops[face]
        plain = self.rule(face_box, image.shape[1], image.shape[0])
        rng = np.random.default_rng([self.seed, epoch, face])
        crop, points, mirrored = training_crop(
            image, points, plain, self.size, self.scheme, self.augmentation, rng
        )
        task, weight = FaceSupervision() if self.supervision is None else self.supervision[face]
        weights = np.broadcast_to(np.float32(weight), len(points))
        return Example(
            crop, points, task, weights[self.scheme.flip_permutation] if mirrored else weights.copy()
        )


class ShuffledEpochs(Sampler[int]):
    """All faces once an epoch, in an order that depends on the seed and the epoch alone."""

    def __init__(self, faces: int, seed: int) -> None:
        self.faces, self.seed, self.epoch = faces, seed, 0

    def __len__(self) -> int:
        return self.faces

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.faces)
        return iter((self.epoch * self.faces + order).tolist())
