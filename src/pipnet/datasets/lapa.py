"""LaPa: 106 points, one text file a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.w300 import picture_beside
from pipnet.errors import DataError, MissingDataError

_POINTS = 106


def read_lapa(root: Path, subset: str) -> list[FaceSample]:
    """LaPa ``train``, ``val`` or ``test``.

    Raises:
        DataError: a folder is missing, or a file of points is damaged or has no picture.
    """
    folder = root / subset / "landmarks"
    files = sorted(p for p in folder.glob("*.txt") if not p.name.startswith("."))
    if not files:
        raise MissingDataError(f"LaPa {subset!r} needs the folder {folder} with one .txt file a picture")
    images = root / subset / "images"
    return [
        FaceSample(picture_beside(images / f.name), _read(f), f"{subset}/{f.stem}", _photo(f.stem))
        for f in files
    ]


def _photo(stem: str) -> str:
    """Faces of one photo are called PHOTO_0, PHOTO_1, ..."""
    photo, _, number = stem.rpartition("_")
    return photo if photo and number.isdigit() else stem


def _read(file: Path) -> np.ndarray:
    """The number of points, then one point a line."""
    try:
        values = np.array(file.read_text(encoding="utf-8").split(), dtype=np.float32)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{file}: {error}") from None
    if len(values) != 2 * _POINTS + 1 or values[0] != _POINTS or not np.isfinite(values).all():
        raise DataError(f"{file}: expected {_POINTS} and as many pairs of finite numbers")
    return values[1:].reshape(_POINTS, 2)
