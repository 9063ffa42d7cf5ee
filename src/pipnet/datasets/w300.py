"""300-W: 68 points, in the folders of the five datasets that it consists of."""

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
_IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")
_LFPW_DUPLICATES = {
    "lfpw/testset/image_0007": "lfpw/trainset/image_0862",
    "lfpw/testset/image_0096": "lfpw/trainset/image_0828",
    "lfpw/testset/image_0066": "lfpw/trainset/image_0215",
}
"""Test faces of LFPW, and the same faces in its training set."""
_DUPLICATES = {*_LFPW_DUPLICATES, *_LFPW_DUPLICATES.values()}
_OFFSETS = {"afw": 2.3, "lfpw": 1.8, "helen": 2.4, "ibug": 2.3}
"""Label minus image along x in pixels, by dataset. iBUG is a test set: nothing is measured on it, and it has
the value of AFW."""
_HELEN_REDUCED = 1.4
"""The same for HELEN images that were reduced to 448 x 448 px."""


def read_300w(root: Path, subset: str) -> list[FaceSample]:
    """Return 300-W's ``train``, ``common``, ``challenging``, ``full`` or one of the datasets in them.

    Subsets with the suffix ``-deduplicated``, such as ``common-deduplicated``, lack the three LFPW faces that
    are in both the training and the test set.

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

    The labels in the files are to the right of the landmarks in the image, by a constant number of pixels.
    Only the offset along x is known, because it is measured by mirroring.
    """
    dataset = sample.name.split("/", 1)[0]
    if dataset == "helen":
        try:
            reduced = image_size(sample.image) == (448, 448)
        except ImageError:  # reported when the image itself is read
            reduced = False
        if reduced:
            return _HELEN_REDUCED, 0.0
    return _OFFSETS.get(dataset, 0.0), 0.0


def _read_folder(root: Path, folder: str) -> list[FaceSample]:
    # macOS leaves "._NAME" files in archives.
    annotations = sorted(p for p in (root / folder).glob("*.pts") if not p.name.startswith("."))
    if not annotations:
        raise MissingDataError(f"{root / folder}: no .pts files")
    samples = []
    for path in annotations:
        name = f"{folder}/{path.stem}"
        # AFW cuts several faces from one photo: NAME_1, NAME_2, ...
        photo = re.sub(r"_\d+$", "", name) if folder == "afw" else name
        samples.append(FaceSample(image_beside(path), read_pts(path, 68), name, photo))
    return samples


def image_beside(annotation: Path) -> Path:
    """Return the image of an annotation file: the same name with any of the usual suffixes.

    Raises:
        DataError: there is none.
    """
    for suffix in _IMAGE_SUFFIXES:
        for candidate in (annotation.with_suffix(suffix), annotation.with_suffix(suffix.upper())):
            if candidate.is_file():
                return candidate
    raise DataError(f"{annotation}: no image in the same folder ({', '.join(_IMAGE_SUFFIXES)})")
