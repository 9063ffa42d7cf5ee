"""A labeled face, and functions on lists of them: mapping, sampling, splitting."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool

from pipnet.geometry import Box, CropConfig, Image, Points, tight_box
from pipnet.scheme import SchemeMapping

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class FaceSample:
    """A face in an image, with its landmarks."""

    image: Path
    """The path of the image."""
    points: Points
    """Landmarks in pixels of the image; NaN where a landmark is unknown."""
    name: str
    """Unique in its dataset, such as ``lfpw/testset/image_0007``."""
    group: str
    """Faces with the same group come from one photo. A split must not separate them."""
    box: Box | None = None
    """The face box of the dataset, if any."""
    attributes: frozenset[str] = field(default_factory=frozenset)
    """The subsets of the face, such as ``pose``."""
    source_box: Box | None = None
    """The tight box of the dataset's own landmarks, if ``points`` are mapped from them."""
    visible: Bool[np.ndarray, " landmarks"] | None = None
    """Which landmarks are visible; hidden ones are labeled at their estimated place. None: not known."""
    crop_box: Box | None = None
    """The box that its crop is cut around, whatever `CropConfig.box` says: of a face that keeps its crop."""
    label_offset: tuple[float, float] = (0.0, 0.0)
    """Known offset of the labels along x and y: label minus where the image shows the landmark, in pixels of
    the image. ``points`` and ``box`` are as in the file; see `without_label_offset`."""

    @property
    def is_complete(self) -> bool:
        """Whether every landmark is known."""
        return bool(np.isfinite(self.points).all())

    @property
    def has_area(self) -> bool:
        """Whether the known landmarks span at least a pixel in both directions."""
        known = self.points[np.isfinite(self.points).all(axis=1)]
        return len(known) > 1 and bool((np.ptp(known, axis=0) >= 1).all())

    def face_box(self, crop_config: CropConfig) -> Box:
        """Return the box that crops are cut around, in pixels of the image.

        Raises:
            BoxError: the dataset gives no box, or no point is known.
        """
        return crop_config.face_box(self.points, self.box) if self.crop_box is None else self.crop_box

    def crop_region(self, crop_config: CropConfig, image: Image) -> Box:
        """Return the part of the decoded image that the crop shows, xyxy in pixels.

        Raises:
            BoxError: the dataset gives no box, or no point is known.
        """
        return crop_config.region(self.face_box(crop_config), image.shape[1], image.shape[0])


def without_label_offset(sample: FaceSample) -> FaceSample:
    """Return the sample with its known label offset subtracted from the points.

    A mirrored image carries the offset to the other side, so a network that is trained with mirroring can
    only learn labels without one.
    """
    if sample.label_offset == (0.0, 0.0):
        return sample
    points = (sample.points - np.array(sample.label_offset)).astype(np.float32)
    return replace(sample, points=points, label_offset=(0.0, 0.0))


def map_scheme(samples: Sequence[FaceSample], mapping: SchemeMapping) -> list[FaceSample]:
    """Return the faces with their points mapped to another scheme."""
    return [
        replace(s, points=mapping(s.points).astype(np.float32), source_box=tight_box(s.points), visible=None)
        for s in samples
    ]


def fingerprint(samples: Sequence[FaceSample], before: str, after: str = "") -> str:
    """Return a digest of the faces' names, points and boxes, and of a text before and one after them."""
    digest = hashlib.sha256(before.encode())
    for sample in samples:
        digest.update(sample.name.encode("utf-8", "surrogateescape") + sample.points.tobytes())
        for box in (sample.box, sample.crop_box):
            digest.update(b"" if box is None else box.tobytes())
    digest.update(after.encode())
    return digest.hexdigest()


def evenly_spaced(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most ``limit`` items, evenly spaced and in order."""
    count = min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def split_by_group(
    samples: Sequence[FaceSample], fraction: float, seed: int
) -> tuple[list[FaceSample], list[FaceSample]]:
    """Return (training, validation) faces, with about this fraction of the faces for validation.

    All faces of a photo are on the same side. The side depends on the name of the photo and the seed only, so
    it does not change when other images are added or removed.
    """

    def position(sample: FaceSample) -> float:
        digest = hashlib.sha256(f"{seed}/{sample.group}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    training = [s for s in samples if position(s) >= fraction]
    validation = [s for s in samples if position(s) < fraction]
    return training, validation
