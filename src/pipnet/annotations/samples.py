"""One labeled face, and how a collection of them is split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool

from pipnet.geometry import Box, Points, tight_box
from pipnet.scheme import SchemeMapping

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class FaceSample:
    """A face in a picture, with its landmarks."""

    image: Path
    """Where the picture is."""
    points: Points
    """Landmarks in pixels of the picture; NaN where a landmark is unknown."""
    name: str
    """Unique in its collection, such as ``lfpw/testset/image_0007``."""
    group: str
    """Faces with the same group come from one photo and must not be split apart."""
    box: Box | None = None
    """The face box the collection came with, if any."""
    attributes: frozenset[str] = field(default_factory=frozenset)
    """Subsets the face belongs to, such as ``pose``."""
    source_box: Box | None = None
    """The tight box of the collection's own landmarks, where ``points`` are a mapping of them."""
    visible: Bool[np.ndarray, " landmarks"] | None = None
    """Landmarks that can be seen; the others are labeled where they must be. None: nobody said."""
    label_offset: tuple[float, float] = (0.0, 0.0)
    """Known offset of the labels along x and y: label minus where the image shows the landmark, in pixels of
    the image. ``points`` and ``box`` are as filed; see `without_label_offset`."""

    @property
    def is_complete(self) -> bool:
        """Whether every landmark is known."""
        return bool(np.isfinite(self.points).all())

    @property
    def has_area(self) -> bool:
        """Whether the known landmarks span at least a pixel in both directions."""
        known = self.points[np.isfinite(self.points).all(axis=1)]
        return len(known) > 1 and bool((np.ptp(known, axis=0) >= 1).all())


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
    """The same faces with their points in another scheme."""
    return [
        replace(s, points=mapping(s.points).astype(np.float32), source_box=tight_box(s.points), visible=None)
        for s in samples
    ]


def evenly_spaced(items: Sequence[Item], limit: int) -> list[Item]:
    """At most this many, evenly spread over all of them and in their order."""
    count = min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def split_by_group(
    samples: Sequence[FaceSample], share: float, seed: int
) -> tuple[list[FaceSample], list[FaceSample]]:
    """(training, validation), with about ``share`` of the faces in the validation part.

    Whole photos go to one side or the other. A photo's place depends on its name and the seed alone,
    so that it stays where it is when other pictures come or go.
    """

    def place(sample: FaceSample) -> float:
        digest = hashlib.sha256(f"{seed}/{sample.group}".encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    training = [s for s in samples if place(s) >= share]
    validation = [s for s in samples if place(s) < share]
    return training, validation
