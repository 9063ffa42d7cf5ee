"""Checking and preparing the official collections: ``pipnet data prepare``.

What it leaves is the same for all: a folder with one COCO file a part, which reads in a moment, the pictures
where they had to be unpacked from an archive, and `PREPARED`, which says what was found. Pictures that
already are files stay where they are and are referred to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.celeba import FACES, read_celeba
from pipnet.datasets.load import PREPARED, check_faces, find_markers
from pipnet.datasets.registry import DATASETS, DatasetSpec
from pipnet.datasets.unlabeled import BOXES, write_boxes
from pipnet.errors import DataError, ImageError, MissingDataError, PipnetError
from pipnet.io.atomic import write_text
from pipnet.io.image import image_size
from pipnet.progress import track
from pipnet.scheme import LandmarkScheme

_NAMED = 5
"""Missing pictures that are named in a message."""


@dataclass(frozen=True)
class Part:
    """What was found of one part of a collection."""

    subset: str
    faces: int
    published: int | None
    """How many there should be; None where that is not known."""
    problem: str | None = None
    """What is missing or damaged, in one line."""
    absent: bool = False
    """It is not there, and need not be."""

    @property
    def complete(self) -> bool:
        """Whether all is there that must be."""
        return self.absent or (self.problem is None and self.faces >= (self.published or 1))

    def __str__(self) -> str:
        if self.absent:
            return f"{self.subset}: not there, and need not be"
        share = f"{self.faces:,} of {self.published:,} faces" if self.published else f"{self.faces:,} faces"
        problem = self.problem or (None if self.published else "size not checked: none was published")
        return f"{self.subset}: {share}" + (f" ({problem})" if problem else "")


def prepare(name: str, source: Path, target: Path) -> Iterator[Part]:
    """Prepare a collection, one part after the other; what is missing of one does not stop the others.

    Args:
        name: one of `DATASETS`, or ``celeba``, which has boxes only.
        source: the folder that its archives were unpacked into.
        target: the folder to write.

    Raises:
        DataError: no such collection or folder, or the folder is another collection's.
        PipnetError: the target cannot be written, or is not ours to write into.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if target.is_dir() and any(target.iterdir()) and not (target / PREPARED).is_file():
        raise PipnetError(f"{target}: holds other files: choose a new or empty folder")
    if name != "celeba" and name not in DATASETS:
        raise DataError(f"no collection {name!r}; there are {', '.join([*DATASETS, 'celeba'])}")
    found = find_markers(source)
    if found and name not in found:
        raise DataError(f"{source}: this is {DATASETS[found[0]].title}, not {name}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        counts: dict[str, int] = {}
        _describe(target, name, source, counts)  # so far nothing is prepared, whatever lies here
        for subset in DATASETS[name].subsets if name in DATASETS else ("unlabelled",):
            if name in DATASETS:
                part = _prepare_part(DATASETS[name], source, subset, target)
            else:
                part = _prepare_celeba(source, target)
            counts[subset] = part.faces
            _describe(target, name, source, counts)
            yield part
    except OSError as error:
        raise PipnetError(f"{error.filename or target}: cannot be written: {error.strerror}") from None


def _describe(target: Path, name: str, source: Path, counts: dict[str, int]) -> None:
    facts = {"collection": name, "source": str(source.resolve()), "faces": counts}
    write_text(target / PREPARED, json.dumps(facts, indent=1) + "\n")


def _prepare_part(spec: DatasetSpec, root: Path, subset: str, target: Path) -> Part:
    published = spec.subsets[subset]
    try:
        if spec.unpack is not None:
            pictures = target / "images"
            pictures.mkdir(exist_ok=True)
            samples = spec.unpack(root, subset, pictures)
        else:
            assert spec.read is not None
            samples = spec.read(root, subset)
        check_faces(samples)
        readable, problem = _readable(samples, subset)
        if readable:
            names = LandmarkScheme.load(spec.scheme).landmark_names
            write_annotations(target / f"{subset}.json", Annotations(readable, names), "coco")
    except MissingDataError as error:
        absent = subset in spec.optional_subsets  # optional parts may be left out
        return Part(subset, 0, published, None if absent else str(error), absent)
    except (DataError, UnicodeDecodeError) as error:
        return Part(subset, 0, published, str(error))
    return Part(subset, len(readable), published, problem)


def _readable(samples: list[FaceSample], subset: str) -> tuple[list[FaceSample], str | None]:
    """The faces whose picture is there and is one, and what is wrong with the others."""
    states: dict[Path, bool] = {}
    for sample in track(samples, len(samples), f"checking {subset}"):
        if sample.image not in states:
            states[sample.image] = _is_picture(sample.image)
    bad = [path for path, fine in states.items() if not fine]
    if not bad:
        return samples, None
    named = ", ".join(str(path) for path in bad[:_NAMED]) + (", ..." if len(bad) > _NAMED else "")
    missing = sum(not path.exists() for path in bad)
    problem = f"{missing} pictures missing, {len(bad) - missing} damaged: {named}"
    return [s for s in samples if states[s.image]], problem


def _is_picture(path: Path) -> bool:
    """Whether a file begins like a picture; decoding all of it would take hours on some collections."""
    try:
        return min(image_size(path)) > 0
    except ImageError:
        return False


def _prepare_celeba(source: Path, target: Path) -> Part:
    try:
        faces = read_celeba(source)
    except (DataError, UnicodeDecodeError) as error:
        return Part("unlabelled", 0, FACES, str(error))
    boxes = [np.zeros(4) if face.box is None else face.box for face in faces]
    sound = [f for f, b in zip(faces, boxes, strict=True) if np.isfinite(b).all() and (b[2:] > b[:2]).all()]
    there = [face for face in sound if face.image.is_file()]
    missing, empty = len(sound) - len(there), len(faces) - len(sound)
    if there:
        write_boxes(target / BOXES, there)
    problem = f"{missing} pictures missing, {empty} empty boxes" if missing or empty else None
    return Part("unlabelled", len(there), FACES, problem)
