"""A set of labeled faces, as it is read from and written to every file format.

Coordinates are read and written unchanged, as is usual in the field. Tools that put (0, 0) at the corner of
the first pixel (CVAT, Label Studio) thus differ from our frame (`pipnet.geometry`) by half a pixel, which is
less than the precision of manual labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError


@dataclass(frozen=True, eq=False)
class Annotations:
    """Faces with the same landmarks."""

    samples: list[FaceSample]
    """The faces, in the order of their file."""
    names: tuple[str, ...] | None
    """The landmark names, where the format stores them."""

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """A name for each landmark, for formats that require one: ``point_0`` and so on by default."""
        return self.names or placeholder_names(len(self.samples[0].points))

    @property
    def shares_photos(self) -> bool:
        """Whether several images are cut from one photo, which only the groups of the faces tell."""
        pairs = {(sample.group, sample.image) for sample in self.samples if sample.group}
        return len(pairs) > len({group for group, _ in pairs})

    def check(self, where: str) -> None:
        """Refuse a set that cannot be written; ``where`` starts the error message.

        Raises:
            DataError: no faces, faces with different numbers of landmarks, or names that do not fit them.
        """
        if not self.samples:
            raise DataError(f"{where}: no faces to write")
        count = len(self.samples[0].points)
        for sample in self.samples:
            if len(sample.points) != count:
                raise DataError(f"{where}: {sample.name} has {len(sample.points)} landmarks, others {count}")
            if not np.isfinite(sample.points).all(axis=1).any() or np.isinf(sample.points).any():
                raise DataError(f"{where}: {sample.name} has no known landmark, or one at infinity")
        if self.names is not None:
            check_names(self.names, count, where)


def check_names(names: tuple[str, ...], landmarks: int, where: str) -> None:
    """Refuse names that are not one different name for each landmark.

    Raises:
        DataError: the number of names differs, or a name occurs twice.
    """
    if len(names) != landmarks:
        raise DataError(f"{where}: {len(names)} names for {landmarks} landmarks")
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise DataError(f"{where}: two landmarks are called {duplicates[0][:80]!r}")


def placeholder_names(landmarks: int) -> tuple[str, ...]:
    """Return names without meaning: ``point_0``, ``point_1`` and so on."""
    return tuple(f"point_{i}" for i in range(landmarks))


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return each label once: sorted by number if all are numbers, else in order of first appearance.

    Tools list the points of a skeleton in the order of the clicks, so that 10 may come before 9.
    """
    unique = tuple(dict.fromkeys(labels))
    if all(re.fullmatch(r"[0-9]{1,9}", label) for label in unique):
        return tuple(sorted(unique, key=int))
    return unique
