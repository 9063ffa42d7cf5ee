"""Faces as the readers find them, on their way to a set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from pipnet.annotations.base import Annotations, check_names, placeholder_names
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box, Points


class FaceCollector:
    """Gathers the faces of a file, holds them to one number of landmarks, and gives them their names."""

    def __init__(self, finder: ImageFinder) -> None:
        self._finder = finder
        self._samples: list[FaceSample] = []
        self._names: set[str] = set()
        self._first: tuple[int, str] | None = None

    def add(
        self,
        picture: Path,
        points: Points,
        where: str,
        *,
        box: Box | None = None,
        visible: Bool[np.ndarray, " landmarks"] | None = None,
        name: object = None,
        group: object = None,
        attributes: Iterable[str] = (),
    ) -> None:
        """Take a face. One without any known landmark is none: tools write such for what is to be done.

        Args:
            picture: where its picture is.
            points: pixels of the picture, NaN where unknown.
            where: file and place, for errors.
            box: a face box; dropped if empty.
            visible: which landmarks can be seen; dropped if all can.
            name: what it is called; its picture's name if it is no text.
            group: of which photo it is; its picture's name if it is no text.
            attributes: the subsets it belongs to.

        Raises:
            DataError: it has another number of landmarks than the first face.
        """
        self._first = self._first or (len(points), where)
        count, first = self._first
        if len(points) != count:
            raise DataError(f"{where}: {len(points)} landmarks, but {first.rpartition(': ')[2]} has {count}")
        known = np.isfinite(points).all(axis=1)
        if not known.any():
            return
        own = self._finder.relative(picture)
        self._samples.append(
            FaceSample(
                image=picture,
                points=points,
                name=self._unique(name if isinstance(name, str) and name else own),
                group=group if isinstance(group, str) and group else own,
                box=None if box is None or (box[2:] <= box[:2]).any() else box,
                attributes=frozenset(attributes),
                visible=None if visible is None or visible[known].all() else visible & known,
            )
        )

    def annotations(self, where: str, names: tuple[str, ...] | None) -> Annotations:
        """The faces taken so far as a set.

        Raises:
            DataError: there are none, or the names do not fit them.
        """
        if not self._samples:
            raise DataError(f"{where}: no faces with landmarks")
        count = len(self._samples[0].points)
        if names is not None:
            check_names(names, count, where)
        return Annotations(self._samples, None if names == placeholder_names(count) else names)

    def _unique(self, name: str) -> str:
        number, unique = 1, name
        while unique in self._names:
            number += 1
            unique = f"{name}#{number}"
        self._names.add(unique)
        return unique
