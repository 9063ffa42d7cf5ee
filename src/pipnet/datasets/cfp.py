"""CFP: profile faces in the wild with the visible half of 300-W's 68 points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from pipnet.annotations.pts import read_pts
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.w300 import image_beside
from pipnet.errors import DataError, MissingDataError
from pipnet.io.csv_file import CsvReader

PEOPLE = {"train": range(1, 301), "val": range(301, 351), "test": range(351, 401), "all": range(1, 401)}
"""The fixed split, by person."""
_POINTS, _LANDMARKS = 30, 68


def read_cfp(root: Path, subset: str) -> list[FaceSample]:
    """Return the profile faces of CFP, as 68 points of which 38 are unknown (NaN).

    ``cfp.csv`` lists image, person and facing; ``map68.csv`` states which of the 68 points each of the 30 is,
    for a face that looks to the right and to the left of the image.

    Raises:
        MissingDataError: a table is missing, or no person of the subset is in it.
        DataError: a table or an annotation is damaged.
    """
    indices = _read_map(root / "map68.csv")
    samples = []
    for where, row in _rows(root / "cfp.csv"):
        try:
            image, person, index = row["image"], int(row["person"]), indices[row["facing"]]
        except (KeyError, ValueError):
            raise DataError(f"{where}: expected image, person, facing") from None
        if person not in PEOPLE[subset]:
            continue
        annotation = (root / image).with_suffix(".pts")
        points = np.full((_LANDMARKS, 2), np.nan, np.float32)
        points[index] = read_pts(annotation, _POINTS)
        samples.append(FaceSample(image_beside(annotation), points, annotation.stem, f"person {person}"))
    if not samples:
        raise MissingDataError(f"{root}: CFP {subset!r} has no faces here")
    return samples


def _read_map(path: Path) -> dict[str, Int64[np.ndarray, "30"]]:
    """Return the index among the 68 of each of the 30 points, by the side that a face looks to."""
    rows = [row for _, row in _rows(path)]
    sides = {}
    for side in ("left", "right"):
        try:
            sides[side] = np.array([int(row[f"index68_facing_{side}"]) for row in rows])
        except (KeyError, ValueError):
            raise DataError(f"{path}: expected point,index68_facing_right,index68_facing_left") from None
        if not len(set(sides[side].tolist())) == len(rows) == _POINTS:
            raise DataError(f"{path}: expected {_POINTS} different landmarks per side")
        if sides[side].min() < 0 or sides[side].max() >= _LANDMARKS:
            raise DataError(f"{path}: a landmark is not among 0 to {_LANDMARKS - 1}")
    return sides


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if not path.is_file():
        raise MissingDataError(f"CFP needs the file {path}")
    return CsvReader(path).records()
