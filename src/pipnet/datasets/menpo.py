"""Menpo 2D: pictures with a ``.pts`` beside, 68 points on (near) frontal faces, 39 on profiles."""

from __future__ import annotations

from pathlib import Path

from pipnet.annotations.pts import read_pts
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.w300 import picture_beside
from pipnet.errors import DataError, MissingDataError


def read_menpo_frontal(root: Path, subset: str) -> list[FaceSample]:
    """The faces with 68 points; see `_read`."""
    return _read(root, subset, 68)


def read_menpo_profile(root: Path, subset: str) -> list[FaceSample]:
    """The faces with 39 points; see `_read`."""
    return _read(root, subset, 39)


def _read(root: Path, subset: str, landmarks: int) -> list[FaceSample]:
    """All faces with this many points in a part's folder, or in the root for ``all``.

    Menpo's parts were handed out one by one, in folders that people name as they like: ``all`` is whatever
    the folder holds, ``train`` and ``test`` are folders of those names in it.

    Raises:
        DataError: there are none, or a file is damaged or has no picture.
    """
    folder = root if subset == "all" else root / subset
    files = sorted(p for p in folder.rglob("*.pts") if not p.name.startswith("."))
    points = {file: read_pts(file) for file in files}
    strange = [file for file in files if len(points[file]) not in (39, 68)]
    if strange:
        raise DataError(f"{strange[0]}: {len(points[strange[0]])} points; Menpo has 68 or 39")
    kept = [file for file in files if len(points[file]) == landmarks]
    if not kept:
        raise MissingDataError(f"Menpo {subset!r}: no .pts files with {landmarks} points below {folder}")
    names = [str(file.relative_to(root).with_suffix("")) for file in kept]
    return [FaceSample(picture_beside(f), points[f], n, n) for f, n in zip(kept, names, strict=True)]
