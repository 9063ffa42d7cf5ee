"""Landmarks that users bring: the formats they are labeled, kept and exchanged in.

A set may have any number of landmarks, the same for each face. A module a format; what they share is
the set (`annotations`), its making (`collector`), pictures by name (`pictures`) and distrust (`fields`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from pipnet.annotations.base import Annotations
from pipnet.annotations.coco import read_coco, write_coco
from pipnet.annotations.csv_table import read_csv, write_csv
from pipnet.annotations.cvat import read_cvat, write_cvat
from pipnet.annotations.fields import read_json
from pipnet.annotations.files import is_file, is_folder
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.label_studio import read_label_studio, write_label_studio
from pipnet.annotations.pts_folder import read_pts_folder, write_pts_folder
from pipnet.errors import DataError

__all__ = ["Annotations", "ImageFinder", "Kind", "read_annotations", "write_annotations"]

Kind = Literal["coco", "cvat", "label-studio", "pts", "csv"]
"""What can be written."""

_KINDS: dict[str, Kind] = {".json": "coco", ".xml": "cvat", ".csv": "csv", "": "pts"}
_SAY_SUBSETS: tuple[Kind, ...] = ("coco", "csv")
"""Those that say to what parts a face belongs, and of which photo it is."""
_SAY_BOXES: tuple[Kind, ...] = ("coco", "csv", "label-studio")
_SAY_VISIBLE: tuple[Kind, ...] = ("coco", "cvat")
_SAY_NAMES: tuple[Kind, ...] = ("coco", "csv", "cvat", "label-studio")
_WRITERS: dict[Kind, Callable[[Path, Annotations], None]] = {
    "coco": write_coco,
    "cvat": write_cvat,
    "label-studio": write_label_studio,
    "pts": write_pts_folder,
    "csv": write_csv,
}


def read_annotations(path: Path, images: Path | None = None) -> Annotations:
    """The faces of an annotation file or a folder of ``.pts`` files.

    What it is shows in its ending: ``.csv``, ``.xml`` (CVAT) or ``.json`` (COCO or Label Studio, by
    what is in it).

    Args:
        path: the file or folder.
        images: the folder of its pictures; the file's own if None.

    Raises:
        DataError: it is not what it should be, or a picture it names is not there or not to be told
            from others; file and place are named.
    """
    folder = is_folder(path)
    if not folder and not is_file(path):
        raise DataError(f"{path}: no such file")
    if images is not None and not is_folder(images):
        raise DataError(f"{images}: no such folder of pictures")
    finder = ImageFinder(images or (path if folder else path.parent))
    if folder:
        return read_pts_folder(path, finder)
    ending = path.suffix.lower()
    if ending == ".csv":
        return read_csv(path, finder)
    if ending == ".xml":
        return read_cvat(path, finder)
    if ending == ".json":
        content = read_json(path)
        read = read_label_studio if isinstance(content, list) else read_coco
        return read(path, content, finder)
    raise DataError(
        f"{path}: annotations are .json (COCO, Label Studio), .xml (CVAT), .csv, or a .pts folder"
    )


def write_annotations(path: Path, annotations: Annotations, kind: Kind | None = None) -> None:
    """Write faces in a format. A file is whole or not there; one that is there is replaced.

    Args:
        path: the file, or the folder for ``.pts`` files.
        annotations: the faces.
        kind: the format; by the ending if None: COCO for ``.json``, ``.pts`` files without one.

    Raises:
        DataError: the format is unknown or cannot express a face, or to what part it belongs.
        WriteError: the file cannot be written.
        ImageError: a picture cannot be opened to see its size, which most formats hold.
    """
    if kind is None:
        kind = "pts" if is_folder(path) else _KINDS.get(path.suffix.lower())
    if kind not in _WRITERS:
        raise DataError(f"{path}: not .json, .xml or .csv; or name a kind: {', '.join(get_args(Kind))}")
    annotations.check(str(path))
    _check_loss(path, annotations, kind)
    _WRITERS[kind](path, annotations)


def _check_loss(path: Path, annotations: Annotations, kind: Kind) -> None:
    """Refuse to lose what is to be trained on; of anything else that a format has no place for, say it."""
    subsets = sorted({name for sample in annotations.samples for name in sample.attributes})
    split = [name for name in subsets if name in ("train", "test")]
    if split and kind not in _SAY_SUBSETS:
        raise DataError(
            f"{path}: {kind} has no place for what part a face is of ({', '.join(split)}): write COCO or CSV"
        )
    lost = []
    if kind not in _SAY_SUBSETS:
        lost += subsets + ["which pictures are of one photo"] * annotations.shares_photos
    if kind not in _SAY_BOXES and any(sample.box is not None for sample in annotations.samples):
        lost.append("boxes")
    seen = [sample.visible for sample in annotations.samples if sample.visible is not None]
    if kind not in _SAY_VISIBLE and not all(visible.all() for visible in seen):
        lost.append("which landmarks are hidden")
    if kind not in _SAY_NAMES and annotations.names:
        lost.append("the landmarks' names")
    if lost:
        print(f"{path}: left out, as {kind} cannot say it: {', '.join(lost)}", file=sys.stderr)  # noqa: T201
