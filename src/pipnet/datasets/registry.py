"""All collections by name, and `load_samples`, which reads whatever labeled faces a path holds.

Three kinds: the official collections (`DATASETS`) in the layout they are handed out in, the same prepared by
``pipnet data prepare``, and faces that users labeled themselves, in any of `pipnet.annotations.formats`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipnet.annotations.base import placeholder_names
from pipnet.annotations.formats import Annotations, read_annotations
from pipnet.annotations.image_finder import files_below
from pipnet.annotations.samples import FaceSample, map_scheme
from pipnet.datasets.aflw import read_aflw
from pipnet.datasets.cfp import read_cfp
from pipnet.datasets.cofw import unpack_cofw, unpack_cofw68
from pipnet.datasets.lapa import read_lapa
from pipnet.datasets.menpo import read_menpo_frontal, read_menpo_profile
from pipnet.datasets.vw300 import unpack_300vw
from pipnet.datasets.w300 import label_offset_300w, read_300w
from pipnet.datasets.wflw import read_wflw
from pipnet.errors import DataError, MissingDataError
from pipnet.geometry import CropConfig
from pipnet.scheme import BUILT_IN, LandmarkScheme, SchemeMapping

PREPARED = "pipnet.json"
"""The file in a prepared folder that says which collection it holds."""


@dataclass(frozen=True)
class Source:
    """A collection: how to read it, what it is labeled with, and its parts."""

    title: str
    scheme: str
    """What it is labeled with, see `LandmarkScheme.load`."""
    subsets: dict[str, int | None]
    """Its parts, and how many faces were published in each (None: not known)."""
    test: str
    """The part to measure on if none is named."""
    official_box: CropConfig
    """The papers' crop, in whose stretched square their NME is measured."""
    v1_box: CropConfig
    """The crop of v1, whose width is the unit of its NME across collections."""
    license: str
    """What weights trained on it may be used for."""
    url: str
    """Where it is handed out and what it may be used for is written."""
    marks: tuple[str, ...] = ()
    """A folder with any of these below it is this collection."""
    read: Callable[[Path, str], list[FaceSample]] | None = None
    """Reads a part where it lies."""
    unpack: Callable[[Path, str, Path], list[FaceSample]] | None = None
    """Reads a part out of an archive, and writes its pictures into a folder."""
    optional: tuple[str, ...] = ()
    """Parts that one may lack."""
    label_offset: Callable[[FaceSample], tuple[float, float]] | None = None
    """The known offset of a face's labels, see `FaceSample.label_offset`; None: none is known."""
    norm: Literal["scheme", "longer_side"] = "scheme"
    """The unit of its NME: that of its scheme, or the longer side of the tight box of the known landmarks."""


def _research(title: str) -> str:
    return f"research use only: trained on {title}, whose pictures are for research"


def _stretched(scale: float, given: bool = False) -> CropConfig:
    """The papers' crops: cut at the photo's border and stretched."""
    return CropConfig(scale=scale, square=False, clip=True, box="dataset" if given else "landmarks")


_MENPO = Source(
    title="Menpo 2D, frontal",
    scheme="300w",
    subsets={"all": None, "train": None, "test": None},
    test="all",
    official_box=_stretched(1.1),
    v1_box=_stretched(1.3),
    license=_research("Menpo"),
    url="https://ibug.doc.ic.ac.uk/resources/2nd-facial-landmark-tracking-competition-menpo-ben/",
    read=read_menpo_frontal,
    optional=("train", "test"),
)
DATASETS = {
    "300w": Source(
        title="300-W",
        scheme="300w",
        subsets={
            "train": 3148,
            "common": 554,
            "challenging": 135,
            "full": 689,
            "afw": 337,
            "helen+lfpw": 2811,
            "helen": 2000,
            "lfpw": 811,
            "train-deduplicated": 3145,
            "helen+lfpw-deduplicated": 2808,
            "common-deduplicated": 551,
        },
        test="common",
        official_box=_stretched(1.1),
        v1_box=_stretched(1.3),
        license=_research("300-W"),
        url="https://ibug.doc.ic.ac.uk/resources/300-W/",
        marks=("afw", "helen/trainset", "helen/testset", "lfpw/trainset", "lfpw/testset", "ibug"),
        read=read_300w,
        label_offset=label_offset_300w,
    ),
    "cfp": Source(
        title="CFP profile",
        scheme="300w",
        subsets={"train": 600, "val": 100, "test": 100, "all": 800},
        test="test",
        official_box=_stretched(1.1),
        v1_box=_stretched(1.3),
        license=_research("CFP"),
        url="http://www.cfpw.io/",
        marks=("map68.csv",),
        read=read_cfp,
        norm="longer_side",
    ),
    "wflw": Source(
        title="WFLW",
        scheme="wflw",
        subsets={
            "train": 7500,
            "test": 2500,
            "pose": 326,
            "expression": 314,
            "illumination": 698,
            "make-up": 206,
            "occlusion": 736,
            "blur": 773,
        },
        test="test",
        official_box=_stretched(1.2, given=True),
        v1_box=_stretched(1.2),
        license=_research("WFLW"),
        url="https://wywu.github.io/projects/LAB/WFLW.html",
        marks=("WFLW_annotations",),
        read=read_wflw,
    ),
    "cofw": Source(
        title="COFW",
        scheme="cofw",
        subsets={"train": 1345, "test": 507},
        test="test",
        official_box=_stretched(1.0, given=True),
        v1_box=_stretched(1.5),
        license=_research("COFW"),
        url="https://data.caltech.edu/records/bc0bf-nc666",
        marks=("COFW_train_color.mat", "COFW_test_color.mat"),
        unpack=unpack_cofw,
    ),
    "cofw68": Source(
        title="COFW-68",
        scheme="300w",
        subsets={"test": 507},
        test="test",
        official_box=_stretched(1.3, given=True),
        v1_box=_stretched(1.5),
        license=_research("COFW"),
        url="https://github.com/golnazghiasi/cofw68-benchmark",
        marks=("COFW_test_color.mat",),  # its pictures are COFW's
        unpack=unpack_cofw68,
    ),
    "aflw": Source(
        title="AFLW",
        scheme="aflw",
        subsets={"train": 20_000, "test": 4386, "frontal": 1314},
        test="test",
        official_box=_stretched(1.0, given=True),
        v1_box=_stretched(1.0, given=True),
        license=_research("AFLW"),
        url="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw/ (pictures), "
        "http://mmlab.ie.cuhk.edu.hk/projects/compositional.html (AFLWinfo_release.mat)",
        marks=("AFLWinfo_release.mat",),
        read=read_aflw,
    ),
    "lapa": Source(
        title="LaPa",
        scheme="lapa",
        subsets={"train": 18_176, "val": 2000, "test": 2000},
        test="test",
        official_box=_stretched(1.2),
        v1_box=_stretched(1.2),
        license=_research("LaPa"),
        url="https://github.com/JDAI-CV/lapa-dataset",
        marks=("train/landmarks", "val/landmarks", "test/landmarks"),
        read=read_lapa,
    ),
    "menpo": _MENPO,
    "menpo-profile": replace(_MENPO, title="Menpo 2D, profile", scheme="menpo39", read=read_menpo_profile),
    "300vw": Source(
        title="300-VW",
        scheme="300w",
        subsets={"train": 95_192, "category-1": 62_135, "category-2": 32_805, "category-3": 26_338},
        test="category-3",
        official_box=_stretched(1.1),
        v1_box=_stretched(1.3),
        license=_research("300-VW"),
        url="https://ibug.doc.ic.ac.uk/resources/300-VW/",
        unpack=unpack_300vw,
    ),
}


def load_samples(
    root: Path,
    subset: str | None = None,
    scheme: str | LandmarkScheme | None = None,
    measuring: bool = False,
    images: Path | None = None,
    label_offset: tuple[float, float] | None = None,
) -> tuple[list[FaceSample], LandmarkScheme, Source]:
    """The labeled faces that a path holds, whatever kind they are of.

    Args:
        root: the folder of a collection in its official layout or prepared, or the file or folder of
            users' own annotations.
        subset: which part; if None, the one to train on, or to measure on. In users' own annotations the
            attribute ``test`` keeps a face out of what is trained on.
        scheme: give the points in this scheme, by a mapping; the collection's own if None. Users' own
            annotations do not say what their points are: theirs must be given.
        measuring: whether the faces are to be measured on.
        images: the folder of the pictures of users' own annotations, where they do not lie beside them.
        label_offset: what to put into `FaceSample.label_offset` of every face, such as (1, 1) for files that
            count pixels from 1; what is known of the dataset if None.

    Raises:
        DataError: unknown collection, part or mapping, missing folders, damaged annotations.
    """
    wanted = LandmarkScheme.load(scheme) if isinstance(scheme, str) else scheme
    name = recognize(root)
    if name and wanted:
        _check_name(wanted)
    source = DATASETS[name] if name else _own(root, wanted, images)
    subset = subset or (source.test if measuring else _to_train_on(source))
    if subset not in source.subsets:
        raise DataError(f"{source.title} has no subset {subset!r}; it has {', '.join(source.subsets)}")
    try:
        samples = _read(root, name, source, subset)
    except UnicodeDecodeError as error:
        raise DataError(f"{root}: an annotation is not text: {error}") from None
    samples = _with_label_offset(samples, source, label_offset)
    if name is None:
        assert wanted is not None
        return samples, wanted, source
    check_faces(samples)
    if wanted is not None and wanted.name != source.scheme:
        samples = map_scheme(samples, SchemeMapping.load(source.scheme, wanted.name))
    return samples, wanted or LandmarkScheme.load(source.scheme), source


def _with_label_offset(
    samples: list[FaceSample], source: Source, offset: tuple[float, float] | None
) -> list[FaceSample]:
    """Return the samples with their label offset: the one given, or what is known of the dataset."""
    if offset is not None:
        if not np.isfinite(offset).all():
            raise DataError(f"a label offset is two finite numbers of pixels, not {offset}")
        return [replace(sample, label_offset=(float(offset[0]), float(offset[1]))) for sample in samples]
    if source.label_offset is None:
        return samples
    return [replace(sample, label_offset=source.label_offset(sample)) for sample in samples]


def _to_train_on(source: Source) -> str:
    """The part to train on if none is named.

    Raises:
        DataError: there is none but that to measure on, which must not be trained on by mistake.
    """
    for part in ("train", "all"):
        if part in source.subsets:
            return part
    raise DataError(
        f"{source.title} is there to measure on; to have it all the same, name its part {source.test!r}"
    )


def recognize(root: Path) -> str | None:
    """The name of the collection in a folder, by its layout; None for annotations of one's own.

    Raises:
        DataError: there is no such path, or nothing in it that we know.
    """
    if root.is_file():
        return None
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    if (root / PREPARED).is_file():
        return _prepared(root / PREPARED)[0]
    for name in marked_as(root):
        return name
    if any(path.suffix.lower() == ".pts" for path in files_below(root)):
        return None
    known = "; ".join(f"{s.title}: {', '.join(s.marks)}" for s in DATASETS.values() if s.marks)
    raise DataError(f"{root}: no faces that we know ({known}; your own: .pts files, or name a file)")


def marked_as(root: Path) -> list[str]:
    """The collections of which something lies in a folder, by the names that they are handed out with."""
    return [name for name, source in DATASETS.items() if any((root / mark).exists() for mark in source.marks)]


def check_faces(samples: list[FaceSample]) -> None:
    """Refuse labels that are none.

    Raises:
        DataError: a face's landmarks lie on one line or point, or none is known; or it came with a box that
            is none.
    """
    for sample in samples:
        if not has_area(sample):
            raise DataError(f"{sample.name}: its landmarks lie on one line or point")
        box = sample.box
        if box is not None and not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
            raise DataError(f"{sample.name}: its face box {box.tolist()} has no width or no height")


def has_area(sample: FaceSample) -> bool:
    """Whether a face's known landmarks span more than a line along the picture's edge."""
    known = sample.points[np.isfinite(sample.points).all(axis=1)]
    return len(known) > 1 and bool((np.ptp(known, axis=0) >= 1).all())


def _read(root: Path, name: str | None, source: Source, subset: str) -> list[FaceSample]:
    if (root / PREPARED).is_file():
        file = root / f"{subset}.json"
        if not _prepared(root / PREPARED)[1].get(subset) or not file.is_file():
            raise DataError(f"{root}: {subset!r} was not prepared; pipnet data prepare says what is missing")
        return read_annotations(file).samples
    if source.read is None:
        raise DataError(f"{root}: first unpack it: pipnet data prepare {name} {root} FOLDER")
    try:
        return source.read(root, subset)
    except MissingDataError as error:
        raise MissingDataError(f"{error}; {source.title} is handed out at {source.url}") from None


def _prepared(path: Path) -> tuple[str, dict[str, int]]:
    """Which collection a prepared folder holds, and how many faces of each part."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        name, faces = facts["collection"], dict(facts["faces"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not written by pipnet data prepare: {error!r}") from None
    if name not in DATASETS:
        raise DataError(f"{path}: no collection of labeled faces {name!r}; there are {', '.join(DATASETS)}")
    return str(name), faces


def _check_name(scheme: LandmarkScheme) -> None:
    """Refuse a scheme of one's own that is called like a built-in one, but is of other landmarks."""
    if scheme.name in BUILT_IN:
        known = LandmarkScheme.load(scheme.name)
        if not np.array_equal(scheme.flip_permutation, known.flip_permutation):
            what = "mirror pairs" if scheme.landmarks == known.landmarks else f"{scheme.landmarks} landmarks"
            raise DataError(
                f"scheme {scheme.name!r}: its {what} are not those of the built-in scheme of this name, of "
                f"{known.landmarks} landmarks: give its file another name"
            )


def _own(root: Path, scheme: LandmarkScheme | None, images: Path | None) -> Source:
    """What is known of annotations that users made themselves. Their attributes are parts of it."""
    if scheme is None:
        raise DataError(
            f"{root}: say what its landmarks are: --data.scheme FILE.toml"
            f"; pipnet data scheme {root} proposes one"
        )

    samples = _in_scheme(root, scheme, read_annotations(root, images))
    attributes = sorted({attribute for sample in samples for attribute in sample.attributes})

    def read(_: Path, subset: str) -> list[FaceSample]:
        if subset == "train" and subset not in attributes:
            return [sample for sample in samples if "test" not in sample.attributes]
        return [sample for sample in samples if subset == "all" or subset in sample.attributes]

    whole = CropConfig()
    return Source(
        title=root.name,
        scheme=scheme.name,
        subsets=dict.fromkeys(["all", *(["train"] if "test" in attributes else []), *attributes]),
        test="test" if "test" in attributes else "all",
        official_box=whole,
        v1_box=whole,
        license=f"as you decide: trained on {root.name}",
        url="",
        read=read,
    )


def _in_scheme(root: Path, scheme: LandmarkScheme, annotations: Annotations) -> list[FaceSample]:
    """The faces with their landmarks in the scheme's order; what is no use is left out, and said."""
    samples, names = annotations.samples, annotations.names
    found = len(samples[0].points)
    if found != scheme.landmarks:
        raise DataError(f"{root}: {found} landmarks a face, scheme {scheme.name!r} has {scheme.landmarks}")
    if names and names != scheme.landmark_names:
        if set(names) == set(scheme.landmark_names):
            order = [names.index(name) for name in scheme.landmark_names]
            samples = [_in_order(sample, order) for sample in samples]
        elif scheme.names:
            raise DataError(f"{root}: its landmarks are called {names}, the scheme's {scheme.names}")
        elif names != placeholder_names(found):
            first = ", ".join(names[:3])
            _note(
                f"{root}: its landmarks are called {first}, ..., scheme {scheme.name!r} has other names:"
                " taken in the file's order"
            )
    usable = [sample for sample in samples if has_area(sample)]
    if not usable:
        raise DataError(f"{root}: no face whose known landmarks have a width and a height")
    if len(usable) < len(samples):
        _note(f"{root}: {len(samples) - len(usable)} faces left out: too few landmarks, or all on one line")
    boxed = sum(sample.box is not None for sample in usable)
    if 0 < boxed < len(usable):
        _note(f"{root}: only {boxed} of {len(usable)} faces have a box: all boxes are left out")
        usable = [replace(sample, box=None) for sample in usable]
    return usable


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _in_order(sample: FaceSample, order: list[int]) -> FaceSample:
    visible = None if sample.visible is None else sample.visible[order]
    return replace(sample, points=sample.points[order], visible=visible)
