"""COFW: occluded faces with 29 points, and COFW-68: its test faces with 68.

Pictures, boxes and points are inside two Matlab 7.3 files, ``COFW_train_color.mat`` and
``COFW_test_color.mat``. COFW-68 (github.com/golnazghiasi/cofw68-benchmark) brings ``N_points.mat`` for
the N-th test picture and ``cofw68_test_bboxes.mat``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.matlab import open_mat73, read_mat
from pipnet.errors import DataError, MissingDataError
from pipnet.geometry import Box, Image, xywh_to_xyxy
from pipnet.io.image import write_image

_FILES = {"train": ("COFW_train_color.mat", "Tr"), "test": ("COFW_test_color.mat", "T")}
_POINTS = 29


def unpack_cofw(root: Path, subset: str, pictures: Path) -> list[FaceSample]:
    """COFW ``train`` or ``test``, its pictures written into a folder as PNG.

    Raises:
        DataError: a file is missing or damaged.
        MissingExtraError: h5py is not installed.
    """
    samples = []
    for number, (image, box, phi) in enumerate(_read_part(root, subset), start=1):
        path = pictures / f"{subset}_{number:04d}.png"
        write_image(path, image)
        points = np.stack([phi[:_POINTS], phi[_POINTS : 2 * _POINTS]], axis=1)
        samples.append(
            FaceSample(
                image=path,
                points=points.astype(np.float32),
                name=path.stem,
                group=path.stem,
                box=box,
                visible=phi[2 * _POINTS :] == 0,
            )
        )
    return samples


def unpack_cofw68(root: Path, subset: str, pictures: Path) -> list[FaceSample]:
    """COFW-68: the pictures of COFW's test part with the 68 points of the benchmark.

    Raises:
        DataError: a file is missing or damaged.
        MissingExtraError: h5py or SciPy is not installed.
    """
    named = ((re.fullmatch(r"([0-9]+)_points\.mat", p.name), p) for p in root.rglob("*_points.mat"))
    files = {int(name[1]): path for name, path in named if name}
    boxes_file = next(iter(root.rglob("cofw68_test_bboxes.mat")), None)
    if boxes_file is None or not files:
        raise MissingDataError(
            f"COFW-68 needs cofw68_test_bboxes.mat and 1_points.mat, 2_points.mat, ... in {root}"
        )
    (boxes,) = read_mat(boxes_file, "bboxes")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.issubdtype(boxes.dtype, np.number):
        raise DataError(f"{boxes_file}: bboxes are {boxes.dtype} {boxes.shape}, expected numbers (faces, 4)")
    samples = []
    for number, (image, _, _) in enumerate(_read_part(root, subset), start=1):
        if number not in files or number > len(boxes):
            raise DataError(f"{root}: COFW-68 has no points or no box for test picture {number}")
        path = pictures / f"{subset}_{number:04d}.png"
        write_image(path, image)
        (points,) = read_mat(files[number], "Points")
        if points.shape != (68, 2) or not np.issubdtype(points.dtype, np.number):
            raise DataError(f"{files[number]}: points are {points.shape}, not (68, 2)")
        box = xywh_to_xyxy(boxes[number - 1].tolist())
        samples.append(FaceSample(path, points.astype(np.float32), path.stem, path.stem, box))
    return samples


def _read_part(root: Path, subset: str) -> Iterator[tuple[Image, Box, np.ndarray]]:
    """Picture, face box, and the 87 numbers of its shape: 29 x, 29 y, 29 flags of occlusion."""
    name, ending = _FILES[subset]
    path = next(iter(root.rglob(name)), root / name)
    keys = [f"{key}{ending}" for key in ("Is", "bboxes", "phis")]
    with open_mat73(path, *keys) as file:
        references = np.ravel(file[keys[0]])
        boxes, phis = file[keys[1]][()], file[keys[2]][()]
        if phis.shape != (3 * _POINTS, len(references)) or boxes.shape != (4, len(references)):
            raise DataError(f"{path}: {len(references)} pictures, boxes {boxes.shape}, shapes {phis.shape}")
        if not np.isfinite(phis).all() or not np.isfinite(boxes).all():
            raise DataError(f"{path}: a number is not finite")
        for number, reference in enumerate(references):
            image = _picture(file[reference][()], f"{path}: picture {number + 1}")
            yield image, xywh_to_xyxy(boxes[:, number].tolist()), phis[:, number]


def _picture(stored: Any, where: str) -> Image:
    """As stored, (3, width, height) or (width, height) -> RGB (height, width, 3)."""
    image = np.asarray(stored)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and len(image) != 3):
        raise DataError(f"{where}: not a picture: {image.dtype} {image.shape}")
    return np.ascontiguousarray(np.repeat(image.T[..., None], 3, 2) if image.ndim == 2 else image.T)
