"""LaPa: 106 points, one text file per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.w300 import image_beside
from pipnet.errors import DataError, MissingDataError, one_line
from pipnet.geometry import Points
from pipnet.io.text import read_text

_POINTS = 106


def read_lapa(root: Path, subset: str) -> list[FaceSample]:
    """Return LaPa's ``train``, ``val`` or ``test``.

    Raises:
        DataError: a folder is missing, or a file of points is damaged or has no image.
    """
    folder = root / subset / "landmarks"
    files = sorted(p for p in folder.glob("*.txt") if not p.name.startswith("."))
    if not files:
        raise MissingDataError(f"LaPa {subset!r} needs the folder {folder} with one .txt file per image")
    images = root / subset / "images"
    return [
        FaceSample(image_beside(images / f.name), _read_points(f), f"{subset}/{f.stem}", _photo(f.stem))
        for f in files
    ]


def _photo(stem: str) -> str:
    """Return the photo of a face: the faces of one photo are called PHOTO_0, PHOTO_1, ..."""
    photo, _, number = stem.rpartition("_")
    return photo if photo and number.isdigit() else stem


def _read_points(file: Path) -> Points:
    """Read the number of points, then one point per line."""
    try:
        values = np.array(read_text(file).split(), dtype=np.float32)
    except ValueError as error:
        raise DataError(f"{file}: {one_line(error)}") from None
    if len(values) != 2 * _POINTS + 1 or values[0] != _POINTS or not np.isfinite(values).all():
        raise DataError(f"{file}: expected {_POINTS} and as many pairs of finite numbers")
    return values[1:].reshape(_POINTS, 2)
