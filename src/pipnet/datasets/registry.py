"""The published datasets by name: how to read each, its subsets and the crops of the papers.

`pipnet.datasets.load.load_samples` reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipnet.annotations.samples import FaceSample
from pipnet.box_adapter import BoxAdapter
from pipnet.datasets.aflw import read_aflw
from pipnet.datasets.cfp import read_cfp
from pipnet.datasets.cofw import unpack_cofw, unpack_cofw68
from pipnet.datasets.lapa import read_lapa
from pipnet.datasets.menpo import read_menpo_frontal, read_menpo_profile
from pipnet.datasets.vw300 import unpack_300vw
from pipnet.datasets.w300 import label_offset_300w, read_300w
from pipnet.datasets.wflw import read_wflw
from pipnet.geometry import CropConfig


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset: how to read it, its landmark scheme and its subsets."""

    title: str
    scheme: str
    """Name of the landmark scheme of its labels, see `LandmarkScheme.load`."""
    subsets: dict[str, int | None]
    """Its subsets, and the published number of faces of each (None: not known)."""
    default_test: str
    """The subset to evaluate on if none is requested."""
    official_crop: CropConfig
    """The papers' crop. Their NME is measured in its square, to which the crop is stretched."""
    v1_crop: CropConfig
    """The crop of arXiv v1 (2020). Its width is the unit of v1's NME across datasets."""
    license: str
    """What weights trained on it may be used for."""
    url: str
    """Where the files and their license are published."""
    gssl_crop: BoxAdapter | None = None
    """The crop of IJCV's learning across datasets (GSSL), as fractions of the box that `official_crop` is cut
    around; see `pipnet.datasets.paper_crops`."""
    markers: tuple[str, ...] = ()
    """A folder that contains any of these paths holds this dataset."""
    read: Callable[[Path, str], list[FaceSample]] | None = None
    """Reads a subset from the folder of the dataset."""
    unpack: Callable[[Path, str, Path], list[FaceSample]] | None = None
    """Reads a subset from archives or videos, and writes its images into a folder."""
    optional_subsets: tuple[str, ...] = ()
    """Subsets that may be missing."""
    label_offset: Callable[[FaceSample], tuple[float, float]] | None = None
    """Returns the known offset of a face's labels, see `FaceSample.label_offset`; None: none is known."""
    norm: Literal["scheme", "longer_side"] = "scheme"
    """The unit of its NME: that of its scheme, or the longer side of the tight box of the known landmarks."""


def _stretched(scale: float, dataset_box: bool = False) -> CropConfig:
    """Return a crop of the papers: clipped at the image border and stretched to a square."""
    return CropConfig(scale=scale, square=False, clip=True, box="dataset" if dataset_box else "landmarks")


def _published(title: str, licensed: str | None = None, **fields: Any) -> DatasetSpec:
    """Return a dataset with images for research; ``licensed`` is its name in the license, if not its title.

    ``fields`` are those of `DatasetSpec`. The default crops are those of 300-W.
    """
    images = f"trained on {licensed or title}, whose images are for research"
    defaults: dict[str, Any] = {
        "default_test": "test",
        "official_crop": _stretched(1.1),
        "v1_crop": _stretched(1.3),
        "license": f"research use only: {images}",
    }
    return DatasetSpec(title=title, **(defaults | fields))


_BY_1_3 = BoxAdapter(-0.15, -0.15, 1.15, 1.15)
"""A crop of 1.3 times the box."""
_MENPO = _published(
    "Menpo 2D, frontal",
    licensed="Menpo",
    scheme="300w",
    subsets={"all": None, "train": None, "test": None},
    default_test="all",
    url="https://ibug.doc.ic.ac.uk/resources/2nd-facial-landmark-tracking-competition-menpo-ben/",
    read=read_menpo_frontal,
    optional_subsets=("train", "test"),
)
DATASETS = {
    "300w": _published(
        "300-W",
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
        default_test="common",
        url="https://ibug.doc.ic.ac.uk/resources/300-W/",
        markers=("afw", "helen/trainset", "helen/testset", "lfpw/trainset", "lfpw/testset", "ibug"),
        read=read_300w,
        label_offset=label_offset_300w,
        gssl_crop=_BY_1_3,
    ),
    "cfp": _published(
        "CFP profile",
        licensed="CFP",
        scheme="300w",
        subsets={"train": 600, "val": 100, "test": 100, "all": 800},
        url="http://www.cfpw.io/",
        markers=("map68.csv",),
        read=read_cfp,
        norm="longer_side",
    ),
    "wflw": _published(
        "WFLW",
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
        official_crop=_stretched(1.2, dataset_box=True),
        v1_crop=_stretched(1.2),
        url="https://wywu.github.io/projects/LAB/WFLW.html",
        markers=("WFLW_annotations",),
        read=read_wflw,
        gssl_crop=BoxAdapter(-0.1, 0.1, 1.1, 1.1),
    ),
    "cofw": _published(
        "COFW",
        scheme="cofw",
        subsets={"train": 1345, "test": 507},
        official_crop=_stretched(1.0, dataset_box=True),
        v1_crop=_stretched(1.5),
        url="https://data.caltech.edu/records/bc0bf-nc666",
        markers=("COFW_train_color.mat", "COFW_test_color.mat"),
        unpack=unpack_cofw,
        gssl_crop=_BY_1_3,
    ),
    "cofw68": _published(
        "COFW-68",
        licensed="COFW",
        scheme="300w",
        subsets={"test": 507},
        official_crop=_stretched(1.3, dataset_box=True),
        v1_crop=_stretched(1.5),
        url="https://github.com/golnazghiasi/cofw68-benchmark",
        markers=("COFW_test_color.mat",),  # its images are those of COFW
        unpack=unpack_cofw68,
        gssl_crop=_BY_1_3,
    ),
    "aflw": _published(
        "AFLW",
        scheme="aflw",
        subsets={"train": 20_000, "test": 4386, "frontal": 1314},
        official_crop=_stretched(1.0, dataset_box=True),
        v1_crop=_stretched(1.0, dataset_box=True),
        url="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw/ (images), "
        "http://mmlab.ie.cuhk.edu.hk/projects/compositional.html (AFLWinfo_release.mat)",
        markers=("AFLWinfo_release.mat",),
        read=read_aflw,
    ),
    "lapa": _published(
        "LaPa",
        scheme="lapa",
        subsets={"train": 18_176, "val": 2000, "test": 2000},
        official_crop=_stretched(1.2),
        v1_crop=_stretched(1.2),
        url="https://github.com/JDAI-CV/lapa-dataset",
        markers=("train/landmarks", "val/landmarks", "test/landmarks"),
        read=read_lapa,
    ),
    "menpo": _MENPO,
    "menpo-profile": replace(_MENPO, title="Menpo 2D, profile", scheme="menpo39", read=read_menpo_profile),
    "300vw": _published(
        "300-VW",
        scheme="300w",
        subsets={"train": 95_192, "category-1": 62_135, "category-2": 32_805, "category-3": 26_338},
        default_test="category-3",
        url="https://ibug.doc.ic.ac.uk/resources/300-VW/",
        unpack=unpack_300vw,
    ),
}
