"""Menpo 2D: images with a ``.pts`` file next to each, 68 points on (near) frontal faces, 39 on profiles."""

from __future__ import annotations

from pathlib import Path

from pipnet.annotations.pts import read_pts
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.w300 import image_beside
from pipnet.errors import DataError, MissingDataError


def read_menpo_frontal(root: Path, subset: str) -> list[FaceSample]:
    """Return the faces with 68 points, see `_read`."""
    return _read(root, subset, 68)


def read_menpo_profile(root: Path, subset: str) -> list[FaceSample]:
    """Return the faces with 39 points, see `_read`."""
    return _read(root, subset, 39)


def _read(root: Path, subset: str, landmarks: int) -> list[FaceSample]:
    """Return all faces with this many points in a subset's folder, or in the root for ``all``.

    Menpo was published in several archives, which users unpack into folders with names of their choice.
    ``all`` is everything in the folder; ``train`` and ``test`` are subfolders of these names.
    """
    folder = root if subset == "all" else root / subset
    files = sorted(p for p in folder.rglob("*.pts") if not p.name.startswith("."))
    points = {file: read_pts(file) for file in files}
    for file in files:
        if len(points[file]) not in (39, 68):
            raise DataError(f"{file}: {len(points[file])} points; Menpo has 68 or 39")
    files = [file for file in files if len(points[file]) == landmarks]
    if not files:
        raise MissingDataError(f"Menpo {subset!r}: no .pts files with {landmarks} points below {folder}")
    names = [str(file.relative_to(root).with_suffix("")) for file in files]
    return [FaceSample(image_beside(f), points[f], n, n) for f, n in zip(files, names, strict=True)]
