"""COFW: occluded faces with 29 points, and COFW-68: its test faces with 68.

Images, boxes and points are in two Matlab 7.3 files, ``COFW_train_color.mat`` and ``COFW_test_color.mat``.
COFW-68 (github.com/golnazghiasi/cofw68-benchmark) adds ``N_points.mat`` for the N-th test image and
``cofw68_test_bboxes.mat``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.matlab import read_mat, read_mat73
from pipnet.errors import DataError, MissingDataError
from pipnet.geometry import Box, Image, xywh_to_xyxy
from pipnet.io.image import write_image

_FILES = {"train": ("COFW_train_color.mat", "Tr"), "test": ("COFW_test_color.mat", "T")}
_POINTS = 29


def unpack_cofw(root: Path, subset: str, images: Path) -> list[FaceSample]:
    """Return COFW's ``train`` or ``test``, and write its images into a folder as PNG.

    Raises:
        DataError: a file is missing or damaged.
        MissingExtraError: h5py is not installed.
    """
    samples = []
    for number, (image, box, shape) in enumerate(_read_subset(root, subset), start=1):
        path = images / f"{subset}_{number:04d}.png"
        write_image(path, image)
        points = np.stack([shape[:_POINTS], shape[_POINTS : 2 * _POINTS]], axis=1).astype(np.float32)
        visible = shape[2 * _POINTS :] == 0
        samples.append(FaceSample(path, points, path.stem, path.stem, box, visible=visible))
    return samples


def unpack_cofw68(root: Path, subset: str, images: Path) -> list[FaceSample]:
    """Return the images of COFW's test subset with the 68 points of the benchmark.

    Raises:
        DataError: a file is missing or damaged.
        MissingExtraError: h5py is not installed.
    """
    matches = ((re.fullmatch(r"([0-9]+)_points\.mat", p.name), p) for p in root.rglob("*_points.mat"))
    files = {int(match[1]): path for match, path in matches if match}
    boxes_file = next(iter(root.rglob("cofw68_test_bboxes.mat")), None)
    if boxes_file is None or not files:
        raise MissingDataError(
            f"COFW-68 needs cofw68_test_bboxes.mat and 1_points.mat, 2_points.mat, ... in {root}"
        )
    (boxes,) = read_mat(boxes_file, "bboxes")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.issubdtype(boxes.dtype, np.number):
        raise DataError(f"{boxes_file}: bboxes are {boxes.dtype} {boxes.shape}, expected numbers (faces, 4)")
    samples = []
    for number, (image, _, _) in enumerate(_read_subset(root, subset), start=1):
        if number not in files or number > len(boxes):
            raise DataError(f"{root}: COFW-68 has no points or no box for test image {number}")
        path = images / f"{subset}_{number:04d}.png"
        write_image(path, image)
        (points,) = read_mat(files[number], "Points")
        if points.shape != (68, 2) or not np.issubdtype(points.dtype, np.number):
            raise DataError(f"{files[number]}: points are {points.shape}, not (68, 2)")
        box = xywh_to_xyxy(boxes[number - 1].tolist())
        samples.append(FaceSample(path, points.astype(np.float32), path.stem, path.stem, box))
    return samples


def _read_subset(root: Path, subset: str) -> Iterator[tuple[Image, Box, np.ndarray]]:
    """Yield image, face box, and the 87 numbers of a shape: 29 x, 29 y, 29 flags of occlusion."""
    name, suffix = _FILES[subset]
    path = next(iter(root.rglob(name)), root / name)
    keys = [f"{key}{suffix}" for key in ("bboxes", "phis", "Is")]
    with closing(read_mat73(path, *keys)) as arrays:
        boxes, shapes = (next(arrays, np.zeros(0)) for _ in range(2))
        faces = boxes.shape[-1] if boxes.ndim == 2 else 0
        if shapes.shape != (3 * _POINTS, faces) or boxes.shape != (4, faces):
            raise DataError(f"{path}: boxes {boxes.shape}, shapes {shapes.shape}")
        if not np.isfinite(shapes).all() or not np.isfinite(boxes).all():
            raise DataError(f"{path}: a number is not finite")
        number = 0
        for number, stored in enumerate(arrays, start=1):
            if number > faces:
                break
            image = _to_rgb(stored, f"{path}: image {number}")
            yield image, xywh_to_xyxy(boxes[:, number - 1].tolist()), shapes[:, number - 1]
        if number != faces:
            raise DataError(f"{path}: {number} images or more, {faces} boxes")


def _to_rgb(image: np.ndarray, where: str) -> Image:
    """Convert a stored image, (3, width, height) or (width, height), to RGB (height, width, 3)."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and len(image) != 3):
        raise DataError(f"{where}: not an image: {image.dtype} {image.shape}")
    return np.ascontiguousarray(np.repeat(image.T[..., None], 3, 2) if image.ndim == 2 else image.T)
