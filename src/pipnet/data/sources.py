"""Readers of the official collections, each in the folder layout it is handed out in.

A reader takes the collection's root and a subset and returns its faces. It never guesses: a folder that
is missing is an error which names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.data.formats.pts import read_pts
from pipnet.data.samples import FaceSample, map_scheme
from pipnet.errors import DataError
from pipnet.geometry import CropRule
from pipnet.scheme import LandmarkScheme, SchemeMapping

IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")

_300W_FOLDERS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenging": ("ibug",),
    "full": ("helen/testset", "lfpw/testset", "ibug"),
    "afw": ("afw",),
    "helen+lfpw": ("helen/trainset", "lfpw/trainset"),
}
_LFPW_DUPLICATES = ("lfpw/testset/image_0007", "lfpw/testset/image_0096")
_WFLW_ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


def read_300w(root: Path, subset: str) -> list[FaceSample]:
    """300-W, 68 points: ``train``, ``common``, ``challenging``, ``full`` and parts of them.

    ``common-deduplicated`` is Common without the two LFPW faces that LFPW's training part holds too.

    Raises:
        DataError: a folder is missing or holds no faces, or an annotation is damaged.
    """
    folders = _300W_FOLDERS[subset.removesuffix("-deduplicated")]
    missing = [f for f in folders if not (root / f).is_dir()]
    if missing:
        raise DataError(
            f"300-W {subset!r} needs the folder {', '.join(str(root / f) for f in missing)}"
            "; get it from https://ibug.doc.ic.ac.uk/resources/300-W/"
        )
    samples = [sample for folder in folders for sample in _300w_folder(root, folder)]
    if subset.endswith("-deduplicated"):
        samples = [s for s in samples if s.name not in _LFPW_DUPLICATES]
    return samples


def _300w_folder(root: Path, folder: str) -> list[FaceSample]:
    # "._NAME" files are what macOS leaves in archives.
    annotations = sorted(p for p in (root / folder).glob("*.pts") if not p.name.startswith("."))
    if not annotations:
        raise DataError(f"{root / folder}: no .pts files")
    samples = []
    for path in annotations:
        # AFW cuts several faces from one photo: NAME_1, NAME_2, ...
        photo = re.sub(r"_\d+$", "", path.stem) if folder == "afw" else path.stem
        samples.append(
            FaceSample(
                image=_picture_beside(path),
                points=read_pts(path, 68),
                name=f"{folder}/{path.stem}",
                group=f"{folder}/{photo}",
            )
        )
    return samples


def read_wflw(root: Path, subset: str) -> list[FaceSample]:
    """WFLW, 98 points: ``train``, ``test``, or one attribute of the test faces such as ``pose``.

    Raises:
        DataError: the list is missing or a line of it is damaged.
    """
    part = "train" if subset == "train" else "test"
    path = root / "WFLW_annotations/list_98pt_rect_attr_train_test" / f"list_98pt_rect_attr_{part}.txt"
    if not path.is_file():
        raise DataError(
            f"WFLW {subset!r} needs the file {path}; get it from https://wywu.github.io/projects/LAB/WFLW.html"
        )
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            samples.append(_wflw_line(root, line, f"{path}:{number}", number))
    return [s for s in samples if subset in ("train", "test") or subset in s.attributes]


def _wflw_line(root: Path, line: str, where: str, number: int) -> FaceSample:
    """One line: 196 coordinates, a rectangle, six attribute flags, the picture's path."""
    words = line.split(maxsplit=206)
    try:
        values = np.array(words[:206], dtype=np.float32)
        image = words[206].strip()
    except (ValueError, IndexError):
        raise DataError(f"{where}: expected 206 numbers and a path") from None
    if not np.isfinite(values).all():
        raise DataError(f"{where}: a number is not finite")
    flags = values[200:206]
    return FaceSample(
        image=root / "WFLW_images" / image,
        points=values[:196].reshape(98, 2),
        name=f"{image}#{number}",
        group=re.sub(r"^\d+_", "", Path(image).stem),
        box=values[196:200],
        attributes=frozenset(a for a, flag in zip(_WFLW_ATTRIBUTES, flags, strict=True) if flag),
    )


def _picture_beside(annotation: Path) -> Path:
    """The picture of an annotation file: same name, any of the usual endings."""
    for suffix in IMAGE_SUFFIXES:
        for candidate in (annotation.with_suffix(suffix), annotation.with_suffix(suffix.upper())):
            if candidate.is_file():
                return candidate
    raise DataError(f"{annotation}: no picture beside it ({', '.join(IMAGE_SUFFIXES)})")


@dataclass(frozen=True)
class Source:
    """A collection: how to read it, what it is labelled with, and its parts."""

    title: str
    read: Callable[[Path, str], list[FaceSample]]
    scheme: str
    subsets: tuple[str, ...]
    official_box: CropRule
    """The papers' crop, in whose stretched square their NME is measured."""
    licence: str
    """What weights trained on it may be used for."""


SOURCES = {
    "300w": Source(
        "300-W",
        read_300w,
        "300w",
        (*_300W_FOLDERS, "common-deduplicated"),
        CropRule(scale=1.1, square=False, clip=True),
        "research use only: trained on 300-W, whose pictures are for research",
    ),
    "wflw": Source(
        "WFLW",
        read_wflw,
        "wflw",
        ("train", "test", *_WFLW_ATTRIBUTES),
        CropRule(scale=1.2, square=False, clip=True),
        "research use only: trained on WFLW, whose pictures are for research",
    ),
}


def recognise(root: Path) -> str:
    """The name of the collection in a folder, by its layout.

    Raises:
        DataError: not a folder, or none that we know.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / "WFLW_annotations").is_dir():
        return "wflw"
    if any((root / f).is_dir() for f in _300W_FOLDERS["train"] + _300W_FOLDERS["full"]):
        return "300w"
    raise DataError(f"{root}: neither 300-W (afw, helen, lfpw, ibug) nor WFLW (WFLW_annotations)")


def load_faces(
    root: Path, subset: str, scheme: str | None = None
) -> tuple[list[FaceSample], LandmarkScheme, Source]:
    """The faces of one part of the collection in a folder, whichever it is.

    Args:
        root: the collection's folder, in its official layout.
        subset: which part.
        scheme: give the points in this scheme, by a mapping; the collection's own if None.

    Raises:
        DataError: unknown collection, part or mapping, missing folders, damaged annotations.
    """
    name = recognise(root)
    source = SOURCES[name]
    if subset not in source.subsets:
        raise DataError(f"{name} has no subset {subset!r}; it has {', '.join(source.subsets)}")
    try:
        samples = source.read(root, subset)
    except UnicodeDecodeError as error:
        raise DataError(f"{root}: an annotation is not text: {error}") from None
    for sample in samples:
        if min(np.ptp(sample.points, axis=0)) < 1:
            raise DataError(f"{sample.name}: its landmarks lie on one line or point")
    if scheme is not None and scheme != source.scheme:
        samples = map_scheme(samples, SchemeMapping.load(source.scheme, scheme))
    return samples, LandmarkScheme.load(scheme or source.scheme), source
