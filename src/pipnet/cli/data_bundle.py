"""``pipnet data bundle``: chosen faces of a dataset in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.annotations.annotation_set import placeholder_names
from pipnet.annotations.formats import read_annotations
from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.cli import say
from pipnet.cli.options import ImagesFolder
from pipnet.datasets.load import load_samples, recognize_dataset
from pipnet.datasets.unlabeled import load_unlabeled
from pipnet.datasets.write_bundle import BundleConfig, write_bundle
from pipnet.errors import DataError, PipnetError
from pipnet.io.text import counted
from pipnet.scheme import LandmarkScheme

_DEFAULT = BundleConfig()


def bundle(
    source: Path,
    target: Path,
    /,
    *,
    subset: list[str] | None = None,
    unlabeled: list[Path] | None = None,
    limit: int | None = None,
    images: ImagesFolder = None,
    config: Annotated[BundleConfig, Parameter(name="*")] = _DEFAULT,
) -> None:
    """Put chosen faces of a dataset into one file, cut out and reduced, to train on another machine.

    The .zip file is used as --data, --unlabeled and --test like the dataset. Its images are WebP; labels and
    known label offsets are moved with them. Nothing is overwritten.

    Parameters
    ----------
    source
        A dataset as published or prepared, or your own annotations, with all of their subsets.
    target
        The .zip file to write.
    subset
        Subset of the dataset; may be given several times; the training subset if not given.
    unlabeled
        Faces without labels: a folder, boxes.csv or .txt list; may be given several times.
    limit
        The maximum number of unlabeled faces, evenly spaced.
    """
    if target.suffix.lower() != ".zip":
        raise DataError(f"{target}: a bundle is a .zip file")
    if target.exists():
        raise PipnetError(f"{target} exists already: choose another name, or remove it first")
    if limit is not None and limit < 1:
        raise DataError(f"--limit must be at least 1, not {limit}")
    name, subsets, landmark_names = _labeled(source, subset, images)
    faces = [face for path in unlabeled or () for face in load_unlabeled(path, target.parent / "frames")]
    faces = faces if limit is None else evenly_spaced(faces, limit)
    write_bundle(target, name, subsets, landmark_names, faces, config)
    count = len({sample.name for samples in subsets.values() for sample in samples})
    without = f" and {len(faces):,} without labels" if faces else ""
    say(f"{target}: {counted(count, 'face')}{without}, {target.stat().st_size / 1e6:.1f} MB")


def _labeled(
    source: Path, subsets: list[str] | None, images: Path | None
) -> tuple[str | None, dict[str, list[FaceSample]], tuple[str, ...]]:
    """Return the name of the dataset, its faces by subset, and the names of their landmarks."""
    name = recognize_dataset(source)
    if name is None:
        if subsets:
            raise DataError(
                f"{source}: --subset is for datasets only: all of your own annotations are bundled"
            )
        annotations = read_annotations(source, images)
        count = len(annotations.samples[0].points)
        return None, {"all": annotations.samples}, annotations.names or placeholder_names(count)
    loaded: dict[str, list[FaceSample]] = {}
    for subset in subsets or ["train"]:
        samples, scheme, _ = load_samples(source, subset)
        loaded[subset] = samples
    return name, loaded, LandmarkScheme.load(scheme.name).landmark_names
