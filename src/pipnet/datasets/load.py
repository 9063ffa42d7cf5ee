"""Reading the labeled faces of a path: `load_samples`.

A path holds one of four things: a dataset of `DATASETS` in its official layout, a dataset prepared by
``pipnet data prepare``, a bundle of ``pipnet data bundle``, or the user's own annotations in any of
`pipnet.annotations.formats` or as a table of pseudo-labels.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipnet.annotations.annotation_set import placeholder_names
from pipnet.annotations.formats import Annotations, folder_format, read_annotations
from pipnet.annotations.samples import FaceSample, map_scheme
from pipnet.datasets.bundle import FACES, LABEL_OFFSETS, PREPARED, is_bundle, unpack_bundle
from pipnet.datasets.pseudo_labels import is_pseudo_labels, licenses_of_labels, read_pseudo_labels
from pipnet.datasets.registry import DATASETS, DatasetSpec
from pipnet.errors import DataError, MissingDataError
from pipnet.geometry import CropConfig
from pipnet.io.regular_file import read_file
from pipnet.io.text import counted
from pipnet.scheme import BUILT_IN, LandmarkScheme, SchemeMapping

_LOG = logging.getLogger(__name__)


def load_samples(
    root: Path,
    subset: str | None = None,
    scheme: str | LandmarkScheme | None = None,
    for_evaluation: bool = False,
    images: Path | None = None,
    label_offset: tuple[float, float] | None = None,
) -> tuple[list[FaceSample], LandmarkScheme, DatasetSpec]:
    """Return the labeled faces of a path, their landmark scheme and the description of their dataset.

    Args:
        root: the folder of a dataset in its official layout or prepared, the file of a bundle, or the file or
            folder of the user's own annotations.
        subset: the subset to read; if None, the one to train on or, with ``for_evaluation``, to evaluate on.
            In own annotations, faces with the attribute ``test`` are excluded from training.
        scheme: return the points in this scheme, by a mapping; the dataset's own scheme if None. Required
            for own annotations, which do not state their scheme.
        for_evaluation: whether the faces are used for evaluation.
        images: the folder of the images of own annotations, if they are not in the same folder.
        label_offset: the value of `FaceSample.label_offset` for every face, such as (1, 1) for files that
            count pixels from 1; the known offset of the dataset if None.

    Raises:
        DataError: unknown dataset, subset or scheme mapping, missing folders, invalid annotations.
    """
    requested = LandmarkScheme.load(scheme) if isinstance(scheme, str) else scheme
    source, root = root, open_bundle(root)
    name = recognize_dataset(root)
    _warn_of_other_datasets(root, name)
    if name and requested:
        _check_scheme_name(requested)
    spec = DATASETS[name] if name else _own_annotations(root, requested, images)
    subset = subset or (spec.default_test if for_evaluation else _training_subset(spec))
    if subset not in spec.subsets:
        raise DataError(f"{spec.title} has no subset {subset[:80]!r}; it has {', '.join(spec.subsets)}")
    samples = _read_subset(root, name, spec, subset)
    if is_bundle(source):
        samples = _with_stored_offset(samples, unpack_bundle(source) / LABEL_OFFSETS, label_offset)
    else:
        samples = _with_label_offset(samples, spec, label_offset)
    loaded = requested or LandmarkScheme.load(spec.scheme)
    if name:
        check_faces(samples)
        if loaded.name != spec.scheme:
            samples = map_scheme(samples, SchemeMapping.load(spec.scheme, loaded.name))
    return samples, loaded, spec


def open_bundle(root: Path) -> Path:
    """Return the unpacked folder of a bundle, or the file of its own annotations; any other path as it is.

    Raises:
        DataError, PipnetError: see `unpack_bundle`.
    """
    if not is_bundle(root):
        return root
    folder = unpack_bundle(root)
    return folder if (folder / PREPARED).is_file() else folder / FACES


def recognize_dataset(root: Path) -> str | None:
    """Return the name of the dataset that a folder holds; None for the user's own annotations.

    Raises:
        DataError: the path does not exist, or contains neither a known dataset nor annotations.
    """
    root = open_bundle(root)
    if root.is_file():
        return None
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    if (root / PREPARED).is_file():
        return _read_description(root / PREPARED)[0]
    if names := find_markers(root):
        return names[0]
    if folder_format(root):
        return None
    known = "; ".join(f"{s.title}: {', '.join(s.markers)}" for s in DATASETS.values() if s.markers)
    raise DataError(
        f"{root}: no labeled faces found. Supported are datasets ({known}), folders of .pts or LabelMe "
        "files, folders with the data.yaml of YOLO-pose, and annotation files named by their path"
    )


def find_markers(root: Path) -> list[str]:
    """Return the datasets whose published file or folder names are in a folder."""
    return [name for name, spec in DATASETS.items() if any((root / m).exists() for m in spec.markers)]


def _warn_of_other_datasets(root: Path, name: str | None) -> None:
    """Log which datasets in a folder are not read: one folder may hold several, or be the parent of some."""
    if not root.is_dir():
        return
    own = DATASETS[name].markers if name else ()
    here = [] if (root / PREPARED).is_file() else find_markers(root)
    others = [DATASETS[other].title for other in here if not set(DATASETS[other].markers) <= set(own)]
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        try:
            below = (
                recognize_dataset(folder) if (folder / PREPARED).is_file() or find_markers(folder) else None
            )
        except DataError:  # a damaged description
            continue
        if below:
            others.append(f"{DATASETS[below].title} in {folder.name:.80}")
    if others:
        what = DATASETS[name].title if name else "a folder of .pts files with all its subfolders"
        _LOG.warning(
            "%s: read as %s, without %s: name the folder of one dataset", root, what, ", ".join(others)
        )


def check_faces(samples: list[FaceSample]) -> None:
    """Refuse degenerate labels and boxes.

    Raises:
        DataError: a face's known landmarks are fewer than two or lie on one line or point; or its box is
            empty or not finite.
    """
    for sample in samples:
        if not sample.has_area:
            raise DataError(f"{sample.name}: the landmarks lie on one line or point")
        box = sample.box
        if box is not None and not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
            raise DataError(f"{sample.name}: the face box {box.tolist()} has no width or no height")


def _with_label_offset(
    samples: list[FaceSample], spec: DatasetSpec, offset: tuple[float, float] | None
) -> list[FaceSample]:
    """Return the samples with the given label offset, or with the known offset of the dataset."""
    if offset is not None:
        if not np.isfinite(offset).all():
            raise DataError(f"a label offset is two finite numbers of pixels, not {offset}")
        return [replace(sample, label_offset=(float(offset[0]), float(offset[1]))) for sample in samples]
    if spec.label_offset is None:
        return samples
    return [replace(sample, label_offset=spec.label_offset(sample)) for sample in samples]


def _with_stored_offset(
    samples: list[FaceSample], file: Path, offset: tuple[float, float] | None
) -> list[FaceSample]:
    """Return the samples of a bundle with the label offset that it stores for each, or without any."""
    if offset is None:
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            offsets = [(float(x), float(y)) for x, y in (stored[sample.name] for sample in samples)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: damaged: {error!r:.80}; delete the folder") from None
        return [replace(s, label_offset=pair) for s, pair in zip(samples, offsets, strict=True)]
    if offset != (0, 0):
        raise DataError(
            f"the images of a bundle are reduced: their label offset is stored, or 0 0, not {offset}"
        )
    return [replace(sample, label_offset=(0.0, 0.0)) for sample in samples]


def _training_subset(spec: DatasetSpec) -> str:
    """Return the subset to train on. Test sets must not be trained on by mistake."""
    for subset in ("train", "all"):
        if subset in spec.subsets:
            return subset
    raise DataError(
        f"{spec.title} is a test set without a training subset; to use it all the same, "
        f"name its subset {spec.default_test!r}"
    )


def _read_subset(root: Path, name: str | None, spec: DatasetSpec, subset: str) -> list[FaceSample]:
    if (root / PREPARED).is_file():
        file = root / f"{subset}.json"
        if not _read_description(root / PREPARED)[1].get(subset) or not file.is_file():
            raise DataError(
                f"{root}: subset {subset!r} is not in this folder or bundle: pipnet data prepare reports what"
                " is missing, pipnet data bundle --subset adds a subset"
            )
        return read_annotations(file).samples
    if spec.read is None:
        raise DataError(f"{root}: unpack the dataset first: pipnet data prepare {name} {root} FOLDER")
    try:
        return spec.read(root, subset)
    except MissingDataError as error:
        raise MissingDataError(f"{error}; {spec.title} is available at {spec.url}") from None


def _read_description(path: Path) -> tuple[str, dict[str, int]]:
    """Return the name of the dataset in a prepared folder, and the number of faces of each subset."""
    try:
        table = json.loads(read_file(path).decode("utf-8"))
        name = table["dataset"] if "dataset" in table else table["collection"]  # format 1
        faces = {str(subset): int(count) for subset, count in table["faces"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: not written by pipnet data prepare: {error!r:.160}") from None
    if name not in DATASETS:
        raise DataError(f"{path}: unknown dataset {name!r:.80}; there are {', '.join(DATASETS)}")
    return str(name), faces


def _check_scheme_name(scheme: LandmarkScheme) -> None:
    """Refuse a user's scheme that has the name of a built-in scheme but other landmarks."""
    if scheme.name not in BUILT_IN:
        return
    known = LandmarkScheme.load(scheme.name)
    if not np.array_equal(scheme.flip_permutation, known.flip_permutation):
        what = "mirror pairs" if scheme.landmarks == known.landmarks else f"{scheme.landmarks} landmarks"
        raise DataError(
            f"scheme {scheme.name!r}: its {what} differ from those of the built-in scheme of this name, with "
            f"{known.landmarks} landmarks: rename the scheme file"
        )


def _own_annotations(root: Path, scheme: LandmarkScheme | None, images: Path | None) -> DatasetSpec:
    """Return a description of the user's own annotations. Their attributes are the subsets."""
    if scheme is None:
        raise DataError(
            f"{root}: the landmark scheme is missing: use --data.scheme FILE.toml; "
            f"pipnet data scheme {root} proposes one"
        )
    if is_pseudo_labels(root):
        annotations = Annotations([label.sample for label in read_pseudo_labels(root)], None)
        license_text = "; ".join(f"pseudo-labels of: {text}" for text in licenses_of_labels(root))
    else:
        annotations = read_annotations(root, images)
        license_text = f"as you decide: trained on {root.name}"
    samples = _in_scheme(root, scheme, annotations)
    attributes = sorted({attribute for sample in samples for attribute in sample.attributes})

    def read(_: Path, subset: str) -> list[FaceSample]:
        if subset == "train" and subset not in attributes:
            return [sample for sample in samples if "test" not in sample.attributes]
        return [sample for sample in samples if subset == "all" or subset in sample.attributes]

    has_test = "test" in attributes
    return DatasetSpec(
        title=root.name,
        scheme=scheme.name,
        subsets=dict.fromkeys(["all", *(["train"] if has_test else []), *attributes]),
        default_test="test" if has_test else "all",
        official_crop=CropConfig(),
        v1_crop=CropConfig(),
        license=license_text,
        url="",
        read=read,
    )


def _in_scheme(root: Path, scheme: LandmarkScheme, annotations: Annotations) -> list[FaceSample]:
    """Return the usable faces with their landmarks in the scheme's order, and log what is left out."""
    samples, names = annotations.samples, annotations.names
    count = len(samples[0].points)
    if count != scheme.landmarks:
        raise DataError(
            f"{root}: {count} landmarks per face, but scheme {scheme.name!r} has {scheme.landmarks}"
        )
    names = names and scheme.current_names(names)
    if names and names != scheme.landmark_names:
        if set(names) == set(scheme.landmark_names):
            samples = _reorder(samples, [names.index(name) for name in scheme.landmark_names])
        elif scheme.has_own_names:
            raise DataError(
                f"{root}: the landmark names {names!s:.80} differ from those of scheme {scheme.name!r}, "
                f"{scheme.landmark_names!s:.80}"
            )
        elif names != placeholder_names(count):
            _LOG.warning(
                "%s: the landmark names %s, ... are not those of scheme %r: the landmarks are taken in the "
                "order of the file",
                *(root, ", ".join(names[:3]), scheme.name),
            )
    usable = [sample for sample in samples if sample.has_area]
    if not usable:
        raise DataError(f"{root}: no face has landmarks that span a width and a height")
    if len(usable) < len(samples):
        left_out = len(samples) - len(usable)
        _LOG.warning(
            "%s: %s left out: fewer than two landmarks, or all on one line", root, counted(left_out, "face")
        )
    with_box = sum(sample.box is not None for sample in usable)
    if 0 < with_box < len(usable):
        _LOG.warning("%s: only %d of %d faces have a box: all boxes are ignored", root, with_box, len(usable))
        usable = [replace(sample, box=None) for sample in usable]
    return usable


def _reorder(samples: list[FaceSample], order: list[int]) -> list[FaceSample]:
    return [
        replace(s, points=s.points[order], visible=None if s.visible is None else s.visible[order])
        for s in samples
    ]
