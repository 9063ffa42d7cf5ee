"""A folder of ``.pts`` files with all its subfolders: ``a/NAME.pts`` is a face of the image ``a/NAME.jpg``.

If several images share a name, ``a/NAME.png.pts`` is a face of one of them. Further faces of an image are
``NAME_face2.pts`` and so on, as written by ``pipnet detect --pts``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from pipnet.annotations.annotation_set import Annotations
from pipnet.annotations.face_collector import FaceCollector
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.pts import read_pts, write_pts
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.io.discovery import files_below


def read_pts_folder(folder: Path, finder: ImageFinder) -> Annotations:
    """Return the faces of a folder.

    Args:
        folder: searched for ``.pts`` files, with all its subfolders.
        finder: its root holds the images, in the same subfolders.

    Raises:
        DataError: no ``.pts`` files; or one is invalid, or has no image or several.
    """
    files = [path for path in files_below(folder) if path.suffix.lower() == ".pts"]
    if not files:
        raise DataError(f"{folder}: no .pts files")
    collector = FaceCollector(finder)
    for path in sorted(files, key=_stem_and_number):
        collector.add(_image(path, folder, finder), read_pts(path), str(path))
    return collector.finish(str(folder), None)


def _stem_and_number(path: Path) -> tuple[str, int]:
    """Return the image's stem and the number of the face: ``a/NAME_face12.pts`` -> (``a/NAME``, 12)."""
    stem = str(path.with_suffix(""))
    match = re.fullmatch(r"(.+)_face([0-9]{1,9})", stem, re.DOTALL)
    return (match[1], int(match[2])) if match else (stem, 1)


def _image(path: Path, folder: Path, finder: ImageFinder) -> Path:
    relative = path.relative_to(folder)
    # The image itself may be called NAME_face2.
    for stem in (str(relative.with_suffix("")), _stem_and_number(relative)[0]):
        image = finder.find_stem(stem, str(path))
        if image is not None:
            return image
    raise DataError(f"{path}: no image {relative.with_suffix('')}.* in {finder.root}")


def write_pts_folder(folder: Path, annotations: Annotations) -> None:
    """Write one ``.pts`` file per face, in the same subfolders as the images.

    The format has no place for names, boxes and visibility.

    Raises:
        DataError: a point is unknown, or two faces would have the same file.
        WriteError: a file cannot be written.
    """
    images = [Path(os.path.abspath(sample.image)) for sample in annotations.samples]  # noqa: PTH100
    try:
        root = os.path.commonpath([image.parent for image in images])
    except ValueError:  # several drives of Windows
        raise DataError(f"{folder}: the images have no folder in common") from None
    faces: dict[Path, int] = {}
    files: dict[str, tuple[Path, FaceSample]] = {}
    for sample, image in zip(annotations.samples, images, strict=True):
        if np.isnan(sample.points).any():
            raise DataError(
                f"{folder}: {sample.name} has an unknown landmark, which .pts files cannot express"
            )
        faces[image] = number = faces.get(image, 0) + 1
        stem = image.stem if number == 1 else f"{image.stem}_face{number}"
        file = folder / image.relative_to(root).with_name(f"{stem}.pts")
        _, other = files.setdefault(str(file).casefold(), (file, sample))  # some disks ignore case
        if other is not sample:
            raise DataError(f"{file}: is the file of {other.name} and of {sample.name}: rename an image")
    for file, sample in files.values():
        write_pts(file, sample.points)
