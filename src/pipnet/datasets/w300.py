"""300-W: 68 points, in the folders of its five parts."""

from __future__ import annotations

import re
from pathlib import Path

from pipnet.annotations.pts import read_pts
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, ImageError, MissingDataError
from pipnet.io.image import image_size

FOLDERS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenging": ("ibug",),
    "full": ("helen/testset", "lfpw/testset", "ibug"),
    "afw": ("afw",),
    "helen+lfpw": ("helen/trainset", "lfpw/trainset"),
    "helen": ("helen/trainset",),
    "lfpw": ("lfpw/trainset",),
}
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")
_LFPW_DUPLICATES = {
    "lfpw/testset/image_0007": "lfpw/trainset/image_0862",
    "lfpw/testset/image_0096": "lfpw/trainset/image_0828",
    "lfpw/testset/image_0066": "lfpw/trainset/image_0215",
}
"""Test faces of LFPW, and the same faces in its training part."""
_DUPLICATES = {*_LFPW_DUPLICATES, *_LFPW_DUPLICATES.values()}
_OFFSETS = {"afw": 2.3, "lfpw": 1.8, "helen": 2.4, "ibug": 2.3}
"""Label minus image along x in pixels, by collection. iBUG is a test set and takes AFW's value, never one
that was measured on it."""
_HELEN_REDUCED = 1.4
"""The same for HELEN crops that were reduced to 448 x 448 px."""


def read_300w(root: Path, subset: str) -> list[FaceSample]:
    """300-W: ``train``, ``common``, ``challenging``, ``full`` and parts of them.

    A subset whose name ends in ``-deduplicated`` lacks the three LFPW faces that its training and test parts
    share: ``common-deduplicated``, ``train-deduplicated``.

    Raises:
        MissingDataError: a folder is missing or holds no faces.
        DataError: an annotation is damaged.
    """
    folders = FOLDERS[subset.removesuffix("-deduplicated")]
    missing = [f for f in folders if not (root / f).is_dir()]
    if missing:
        raise MissingDataError(
            f"300-W {subset!r} needs the folder {', '.join(str(root / f) for f in missing)}"
        )
    samples = [sample for folder in folders for sample in _read_folder(root, folder)]
    if subset.endswith("-deduplicated"):
        samples = [s for s in samples if s.name not in _DUPLICATES]
    return samples


def label_offset_300w(sample: FaceSample) -> tuple[float, float]:
    """Return the known label offset of a face of 300-W, see `FaceSample.label_offset`.

    The files lie to the right of where the image shows the landmarks, by a constant number of pixels of the
    photo. Only x is known: no mirroring tells y.
    """
    collection = sample.name.split("/", 1)[0]
    if collection == "helen":
        try:
            reduced = image_size(sample.image) == (448, 448)
        except ImageError:  # reported where the image itself is needed
            reduced = False
        if reduced:
            return _HELEN_REDUCED, 0.0
    return _OFFSETS.get(collection, 0.0), 0.0


def _read_folder(root: Path, folder: str) -> list[FaceSample]:
    # "._NAME" files are what macOS leaves in archives.
    annotations = sorted(p for p in (root / folder).glob("*.pts") if not p.name.startswith("."))
    if not annotations:
        raise MissingDataError(f"{root / folder}: no .pts files")
    samples = []
    for path in annotations:
        # AFW cuts several faces from one photo: NAME_1, NAME_2, ...
        photo = re.sub(r"_\d+$", "", path.stem) if folder == "afw" else path.stem
        samples.append(
            FaceSample(
                image=picture_beside(path),
                points=read_pts(path, 68),
                name=f"{folder}/{path.stem}",
                group=f"{folder}/{photo}",
            )
        )
    return samples


def picture_beside(annotation: Path) -> Path:
    """The picture of an annotation file: same name, any of the usual endings.

    Raises:
        DataError: there is none.
    """
    for suffix in IMAGE_SUFFIXES:
        for candidate in (annotation.with_suffix(suffix), annotation.with_suffix(suffix.upper())):
            if candidate.is_file():
                return candidate
    raise DataError(f"{annotation}: no picture beside it ({', '.join(IMAGE_SUFFIXES)})")
