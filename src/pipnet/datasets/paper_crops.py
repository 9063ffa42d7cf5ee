"""The papers' crops of each dataset's faces, where they differ from dataset to dataset.

A recipe has one crop for all faces. In the papers' trainings across datasets each dataset has its own: v1
(arXiv 2020) cuts around the landmark box with a scale for each dataset, and IJCV's GSSL (2021, generalizable
semi-supervised learning) around the given box, whose top it moves down for WFLW and CelebA. Unlabeled faces
keep their crop in every round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.box_adapter import BoxAdapter
from pipnet.datasets.celeba import read_celeba
from pipnet.datasets.load import load_samples, recognize_dataset
from pipnet.datasets.registry import DatasetSpec
from pipnet.datasets.unlabeled import UnlabeledFace
from pipnet.errors import DataError
from pipnet.geometry import Box, CropConfig, tight_box

PaperCrops = Literal["none", "v1", "gssl"]
"""``none``: the recipe's or model's crop for every dataset; ``v1``, ``gssl``: the crops of this paper."""
CELEBA_GSSL = BoxAdapter(-0.1, 0.15, 1.1, 1.1)
"""From a box of the authors' ``celeba_bboxes.txt`` to GSSL's crop."""


def keep_paper_crops(
    samples: Sequence[FaceSample], spec: DatasetSpec, crops: PaperCrops, crop_config: CropConfig
) -> list[FaceSample]:
    """Return labeled faces whose crop is a paper's crop of their dataset.

    Args:
        samples: the faces.
        spec: their dataset.
        crops: the paper; with ``none`` the faces are returned as they are.
        crop_config: the recipe's or the model's crop, to which the box of each face is fitted.

    Raises:
        DataError: the paper has no crop for this dataset.
        BoxError: the dataset has no box for a face.
    """
    if crops == "none":
        return list(samples)
    return [
        replace(sample, crop_box=crop_config.face_box_of(_paper_region(sample, spec, crops)))
        for sample in samples
    ]


def _paper_region(sample: FaceSample, spec: DatasetSpec, crops: Literal["v1", "gssl"]) -> Box:
    """Return what a paper's crop of a face shows, also beyond the image, xyxy in pixels."""
    if crops == "gssl" and spec.gssl_crop is None:
        raise DataError(f"{spec.title} has no crop in IJCV's learning across datasets (paper crops 'gssl')")
    crop_config = spec.v1_crop if crops == "v1" else spec.official_crop
    if crop_config.box == "dataset":
        box = crop_config.face_box(sample.points, sample.box)
    else:
        box = tight_box(sample.points) if sample.source_box is None else sample.source_box
    if crops == "v1":
        return replace(crop_config, clip=False).region(box, 1, 1)
    assert spec.gssl_crop is not None
    return np.asarray(spec.gssl_crop.apply(box[None])[0])


def without_label(sample: FaceSample, crop_config: CropConfig) -> UnlabeledFace:
    """Return a labeled face without its label: with its landmark box, or with its crop where it keeps one.

    Args:
        sample: the face.
        crop_config: the recipe's crop.
    """
    if sample.crop_box is None:
        return UnlabeledFace(sample.image, tight_box(sample.points), sample.name, "landmarks")
    region = replace(crop_config, clip=False).region(sample.crop_box, 1, 1)
    return UnlabeledFace(sample.image, region, sample.name, "crop")


def unlabeled_faces_of(root: Path, subset: str | None, crops: PaperCrops) -> list[UnlabeledFace]:
    """Return the faces of a dataset, or of CelebA, without labels.

    Args:
        root: a dataset in its official layout or prepared, or the folder of CelebA.
        subset: the subset of a dataset; its training subset if None.
        crops: the paper whose crops the faces keep; ``none``: their landmark boxes, and CelebA's face boxes.

    Raises:
        DataError: there is no such dataset or subset, or the paper has no crop for it.
    """
    if root.is_dir() and any(root.rglob("*celeba*.txt")):
        return _celeba_faces(root, crops)
    if recognize_dataset(root) is None:
        raise DataError(f"{root}: neither a dataset nor CelebA")
    samples, _, spec = load_samples(root, subset)
    crop_config = CropConfig(scale=1.0, square=False)
    return [without_label(s, crop_config) for s in keep_paper_crops(samples, spec, crops, crop_config)]


def _celeba_faces(root: Path, crops: PaperCrops) -> list[UnlabeledFace]:
    faces = read_celeba(root)
    if crops == "none":
        return faces
    if crops == "v1":
        raise DataError("CelebA has no crop in arXiv v1 (paper crops 'v1')")
    if not any(root.rglob("celeba_bboxes.txt")):
        raise DataError(f"{root}: paper crops 'gssl' are of the authors' boxes: celeba_bboxes.txt is missing")
    boxes = CELEBA_GSSL.apply(np.array([face.box for face in faces], np.float32).reshape(-1, 4))
    return [replace(face, box=box, box_format="crop") for face, box in zip(faces, boxes, strict=True)]
