"""A folder of ``.pts`` files, searched through: ``a/NAME.pts`` is a face of the picture ``a/NAME.jpg``.

Where several pictures have a name, ``a/NAME.png.pts`` is a face of one of them.

Further faces of a picture are ``NAME_face2.pts`` and so on, as ``pipnet detect --pts`` writes them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from pipnet.annotations.base import Annotations
from pipnet.annotations.collector import FaceCollector
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.pts import pts_text, read_pts
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.io.atomic import write_text
from pipnet.io.discovery import files_below


def read_pts_folder(folder: Path, finder: ImageFinder) -> Annotations:
    """The faces of a folder.

    Args:
        folder: searched through for ``.pts`` files.
        finder: its root has the pictures, in the same folders below it.

    Raises:
        DataError: there are none, one is damaged, or has no picture or several.
    """
    files = [path for path in files_below(folder) if path.suffix.lower() == ".pts"]
    collector = FaceCollector(finder)
    for path in sorted(files, key=_photo_and_face):
        collector.add(_picture(path, folder, finder), read_pts(path), str(path))
    if not files:
        raise DataError(f"{folder}: no .pts files")
    return collector.annotations(str(folder), None)


def _photo_and_face(path: Path) -> tuple[str, int]:
    """``a/NAME_face12.pts`` -> (``a/NAME``, 12), the order of the faces."""
    stem = str(path.with_suffix(""))
    further = re.fullmatch(r"(.+)_face([0-9]{1,9})", stem, re.DOTALL)
    return (further[1], int(further[2])) if further else (stem, 1)


def _picture(path: Path, folder: Path, finder: ImageFinder) -> Path:
    below = path.relative_to(folder)
    # A picture may itself be called NAME_face2.
    for stem in (str(below.with_suffix("")), _photo_and_face(below)[0]):
        picture = finder.find_stem(stem, str(path))
        if picture is not None:
            return picture
    raise DataError(f"{path}: no picture {below.with_suffix('')}.* in {finder.root}")


def write_pts_folder(folder: Path, annotations: Annotations) -> None:
    """Write a ``.pts`` file a face, in the folders its picture has below the folder of all pictures.

    Names, boxes and visibility have no place in the format.

    Raises:
        DataError: a point is unknown, or two faces would share a file.
        WriteError: it cannot be written.
    """
    pictures = [Path(os.path.abspath(sample.image)) for sample in annotations.samples]  # noqa: PTH100
    try:
        root = os.path.commonpath([picture.parent for picture in pictures])
    except ValueError:  # several drives of Windows
        raise DataError(f"{folder}: the pictures have no folder in common") from None
    faces: dict[Path, int] = {}
    files: dict[str, tuple[Path, FaceSample]] = {}
    for sample, picture in zip(annotations.samples, pictures, strict=True):
        if np.isnan(sample.points).any():
            raise DataError(f"{folder}: {sample.name} has an unknown landmark, which .pts cannot say")
        faces[picture] = number = faces.get(picture, 0) + 1
        stem = picture.stem if number == 1 else f"{picture.stem}_face{number}"
        file = folder / picture.relative_to(root).with_name(f"{stem}.pts")
        _, other = files.setdefault(str(file).casefold(), (file, sample))  # some disks know no case
        if other is not sample:
            raise DataError(f"{file}: would be of {other.name} and of {sample.name}: rename a picture")
    for file, sample in files.values():
        write_text(file, pts_text(sample.points))
