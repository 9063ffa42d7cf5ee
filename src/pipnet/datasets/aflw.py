"""AFLW with the 19 points of Zhu et al. (CVPR 2016): ``AFLWinfo_release.mat`` and the images.

The images may be in ``data/flickr`` (as published), ``flickr``, ``images``, or the folder itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.matlab import cell_texts, read_mat
from pipnet.errors import DataError, MissingDataError

TRAINING = 20_000
"""Number of the shuffled faces that are for training."""
_POINTS = 19
_FOLDERS = ("data/flickr", "flickr", "images", ".")


def read_aflw(root: Path, subset: str) -> list[FaceSample]:
    """Return AFLW's ``train``, ``test``, or ``frontal``, the test faces with all points visible.

    Raises:
        DataError: the file or the folder of the images is missing, or the file is damaged.
    """
    path = next(iter(root.rglob("AFLWinfo_release.mat")), root / "AFLWinfo_release.mat")
    boxes, data, masks, names, order = read_mat(path, "bbox", "data", "mask_new", "nameList", "ra")
    faces = len(boxes)
    shapes = {"bbox": (boxes, 4), "data": (data, 2 * _POINTS), "mask_new": (masks, _POINTS)}
    for key, (values, width) in shapes.items():
        numeric = values.dtype.kind in "fiub"
        if values.shape != (faces, width) or not numeric or not np.isfinite(values).all():
            raise DataError(f"{path}: {key} is {values.shape}, expected finite numbers ({faces}, {width})")
    # Matlab counts from 1.
    indices = np.ravel(order).astype(int) - 1 if order.dtype.kind in "fiu" else np.zeros(0, int)
    files = cell_texts(names, f"{path}: nameList")
    if sorted(indices) != list(range(faces)) or len(files) != faces:
        raise DataError(f"{path}: ra is not an order of the {faces} faces, or nameList has {len(files)}")
    folder = _image_folder(root, files[0])
    samples = []
    for i in indices[:TRAINING] if subset == "train" else indices[TRAINING:]:
        x0, x1, y0, y1 = boxes[i]
        sample = FaceSample(
            image=folder / files[i],
            points=data[i].reshape(2, _POINTS).T.astype(np.float32),
            name=f"{files[i]}#{i + 1}",
            group=files[i],
            box=np.array([x0, y0, x1, y1], dtype=np.float32),
            visible=masks[i] == 1,
        )
        if subset != "frontal" or masks[i].all():
            samples.append(sample)
    return samples


def _image_folder(root: Path, first: str) -> Path:
    """Return the one of the usual folders that holds the first image, or at least its subfolder."""
    for folder in _FOLDERS:
        if (root / folder / first).is_file() or (root / folder / first).parent.is_dir():
            return root / folder
    places = ", ".join(str(root / folder) for folder in _FOLDERS)
    raise MissingDataError(f"AFLW's images, such as {first}, are in none of {places}")
