"""Checking and preparing the published datasets: ``pipnet data prepare``.

A prepared folder has the same form for all datasets: one COCO file per subset, which loads quickly, the
images that were unpacked from archives, and `PREPARED`, which states the dataset and the number of faces.
Images that are files already stay in place and are referred to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.bundle import PREPARED
from pipnet.datasets.celeba import FACES, read_celeba
from pipnet.datasets.load import check_faces, find_markers
from pipnet.datasets.registry import DATASETS, DatasetSpec
from pipnet.datasets.unlabeled import BOXES, write_boxes
from pipnet.errors import DataError, ImageError, MissingDataError, PipnetError
from pipnet.io.atomic import write_text
from pipnet.io.image import image_size
from pipnet.io.text import counted
from pipnet.progress import show_progress
from pipnet.scheme import LandmarkScheme

_MAX_LISTED = 5
"""Number of unreadable images that a message lists."""


@dataclass(frozen=True)
class SubsetReport:
    """The result of preparing one subset of a dataset."""

    subset: str
    faces: int
    published: int | None
    """The published number of faces; None if it is not known."""
    problem: str | None = None
    """What is missing or damaged, in one line."""
    absent: bool = False
    """The subset is missing, and optional."""

    @property
    def complete(self) -> bool:
        """Whether the subset has all its faces, or is optional and missing."""
        return self.absent or (self.problem is None and self.faces >= (self.published or 1))

    def __str__(self) -> str:
        if self.absent:
            return f"{self.subset}: missing, but optional"
        count = (
            f"{self.faces:,} of {self.published:,} faces" if self.published else counted(self.faces, "face")
        )
        problem = self.problem or (None if self.published else "not checked: the number was never published")
        return f"{self.subset}: {count}" + (f" ({problem})" if problem else "")


def prepare(name: str, source: Path, target: Path) -> Iterator[SubsetReport]:
    """Prepare a dataset and yield a report for each subset; a missing subset does not stop the others.

    Args:
        name: one of `DATASETS`, or ``celeba``, which has boxes only.
        source: the folder of the unpacked archives.
        target: the folder to write.

    Raises:
        DataError: the dataset or the folder does not exist, or the folder holds another dataset.
        PipnetError: the target cannot be written, or holds other files.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if target.is_dir() and any(target.iterdir()) and not (target / PREPARED).is_file():
        raise PipnetError(f"{target}: holds other files: choose a new or empty folder")
    spec = DATASETS.get(name)
    if name != "celeba" and spec is None:
        raise DataError(f"no dataset {name[:80]!r}; there are {', '.join([*DATASETS, 'celeba'])}")
    present = find_markers(source)
    if present and name not in present:
        raise DataError(f"{source}: this is {DATASETS[present[0]].title}, not {name}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        counts: dict[str, int] = {}
        _write_description(target, name, source, counts)  # invalidates what an earlier run prepared
        for subset in spec.subsets if spec else ("unlabeled",):
            report = (
                _prepare_subset(spec, source, subset, target) if spec else _prepare_celeba(source, target)
            )
            counts[subset] = report.faces
            _write_description(target, name, source, counts)
            yield report
    except OSError as error:
        raise PipnetError(f"{error.filename or target}: cannot be written: {error.strerror}") from None


def _write_description(target: Path, name: str, source: Path, counts: dict[str, int]) -> None:
    description = {"dataset": name, "source": str(source.resolve()), "faces": counts}
    write_text(target / PREPARED, json.dumps(description, indent=1) + "\n")


def _prepare_subset(spec: DatasetSpec, root: Path, subset: str, target: Path) -> SubsetReport:
    published = spec.subsets[subset]
    try:
        if spec.unpack is not None:
            images = target / "images"
            images.mkdir(exist_ok=True)
            samples = spec.unpack(root, subset, images)
        else:
            assert spec.read is not None
            samples = spec.read(root, subset)
        check_faces(samples)
        readable, problem = _readable(samples, subset)
        if readable:
            names = LandmarkScheme.load(spec.scheme).landmark_names
            write_annotations(target / f"{subset}.json", Annotations(readable, names), "coco")
    except MissingDataError as error:
        absent = subset in spec.optional_subsets
        return SubsetReport(subset, 0, published, None if absent else str(error), absent)
    except DataError as error:
        return SubsetReport(subset, 0, published, str(error))
    return SubsetReport(subset, len(readable), published, problem)


def _readable(samples: list[FaceSample], subset: str) -> tuple[list[FaceSample], str | None]:
    """Return the faces with a readable image, and what is wrong with the others."""
    readable: dict[Path, bool] = {}
    for sample in show_progress(samples, len(samples), f"checking {subset}"):
        if sample.image not in readable:
            readable[sample.image] = _has_image_header(sample.image)
    bad = [path for path, is_readable in readable.items() if not is_readable]
    if not bad:
        return samples, None
    listed = ", ".join(str(path) for path in bad[:_MAX_LISTED]) + (", ..." if len(bad) > _MAX_LISTED else "")
    missing = sum(not path.exists() for path in bad)
    problem = f"{missing} images missing, {len(bad) - missing} damaged: {listed}"
    return [sample for sample in samples if readable[sample.image]], problem


def _has_image_header(path: Path) -> bool:
    """Return whether a file starts like an image; decoding every image would take hours."""
    try:
        return min(image_size(path)) > 0
    except ImageError:
        return False


def _prepare_celeba(source: Path, target: Path) -> SubsetReport:
    try:
        faces = read_celeba(source)
    except DataError as error:
        return SubsetReport("unlabeled", 0, FACES, str(error))
    boxes = np.array([face.box for face in faces]).reshape(-1, 4)
    valid = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    with_box = [face for face, is_valid in zip(faces, valid, strict=True) if is_valid]
    usable = [face for face in with_box if face.image.is_file()]
    missing, empty = len(with_box) - len(usable), len(faces) - len(with_box)
    if usable:
        write_boxes(target / BOXES, usable)
    problem = f"{missing} images missing, {empty} empty boxes" if missing or empty else None
    return SubsetReport("unlabeled", len(usable), FACES, problem)
