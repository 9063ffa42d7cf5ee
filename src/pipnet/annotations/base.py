"""A set of landmarks as it is read from, and written to, any of the formats.

Coordinates are taken and given as they are written, as the field does. Tools that put (0, 0) at the
corner of the first pixel (CVAT, Label Studio) thus lie half a pixel from our frame, see
`pipnet.geometry`: less than a hand hits.
"""

from __future__ import annotations

import re
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
    """What the landmarks are called, where the format says it."""

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """A name for each landmark, for formats which must have one: ``point_0`` and so on."""
        return self.names or placeholder_names(len(self.samples[0].points))

    @property
    def shares_photos(self) -> bool:
        """Whether several pictures are cut from one photo, which only the faces' groups say."""
        found = {(sample.group, sample.image) for sample in self.samples if sample.group}
        return len(found) > len({group for group, _ in found})

    def check(self, where: str) -> None:
        """Whether this is a set that can be written.

        Raises:
            DataError: no faces, or faces of different landmarks, or names which do not fit them.
        """
        if not self.samples:
            raise DataError(f"{where}: no faces to write")
        count = len(self.samples[0].points)
        for sample in self.samples:
            if len(sample.points) != count:
                raise DataError(f"{where}: {sample.name} has {len(sample.points)} landmarks, others {count}")
            known = np.isfinite(sample.points)
            if not known.all(axis=1).any() or np.isinf(sample.points).any():
                raise DataError(f"{where}: {sample.name} has no known landmark, or one at infinity")
        if self.names is not None:
            check_names(self.names, count, where)


def check_names(names: tuple[str, ...], landmarks: int, where: str) -> None:
    """Whether these name this many landmarks.

    Raises:
        DataError: another number, or one twice.
    """
    if len(names) != landmarks:
        raise DataError(f"{where}: {len(names)} names for {landmarks} landmarks")
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise DataError(f"{where}: two landmarks are called {twice[0]!r}")


def placeholder_names(landmarks: int) -> tuple[str, ...]:
    """The names which say nothing."""
    return tuple(f"point_{i}" for i in range(landmarks))


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Landmark labels, each once: by number where all are numbers, else as they first appear.

    Tools list a skeleton's points as they were clicked, so that 10 may come before 9.
    """
    unique = tuple(dict.fromkeys(labels))
    if all(re.fullmatch(r"[0-9]{1,9}", label) for label in unique):
        return tuple(sorted(unique, key=int))
    return unique
