"""Collecting the faces of a file into a set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from pipnet.annotations.annotation_set import Annotations, check_names, placeholder_names
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box, Points


class FaceCollector:
    """The faces of a file, checked for the same number of landmarks and given unique names."""

    def __init__(self, finder: ImageFinder) -> None:
        self._finder = finder
        self._samples: list[FaceSample] = []
        self._names: set[str] = set()
        self._first: tuple[int, str] | None = None
        """Number of landmarks and place of the first face."""

    def add(
        self,
        image: Path,
        points: Points,
        where: str,
        *,
        box: Box | None = None,
        visible: Bool[np.ndarray, " landmarks"] | None = None,
        name: object = None,
        group: object = None,
        attributes: Iterable[str] = (),
    ) -> None:
        """Add a face. Faces without a known landmark are ignored: tools write them for images still to label.

        Args:
            image: the path of the image.
            points: (L, 2), pixels of the image, NaN where unknown.
            where: file and place, for error messages.
            box: a face box; ignored if empty.
            visible: which landmarks are visible; ignored if all are.
            name: the name of the face; the name of its image if it is not a text.
            group: the photo of the face; the name of its image if it is not a text.
            attributes: the subsets of the face.

        Raises:
            DataError: the number of landmarks differs from that of the first face.
        """
        self._first = self._first or (len(points), where)
        count, first = self._first
        if len(points) != count:
            raise DataError(f"{where}: {len(points)} landmarks, but {first.rpartition(': ')[2]} has {count}")
        known = np.isfinite(points).all(axis=1)
        if not known.any():
            return
        image_name = self._finder.relative(image)
        self._samples.append(
            FaceSample(
                image=image,
                points=points,
                name=self._unique(name if isinstance(name, str) and name else image_name),
                group=group if isinstance(group, str) and group else image_name,
                box=None if box is None or (box[2:] <= box[:2]).any() else box,
                attributes=frozenset(attributes),
                visible=None if visible is None or visible[known].all() else visible & known,
            )
        )

    def finish(self, where: str, names: tuple[str, ...] | None) -> Annotations:
        """Return the faces added so far as a set.

        Raises:
            DataError: there are none, or the landmark names do not fit them.
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
