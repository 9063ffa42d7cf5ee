"""Faces that nobody labeled: a picture and, where known, a box. They are what self-training learns from."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.annotations.files import is_file, read_text, relative_name
from pipnet.errors import DataError
from pipnet.geometry import Box, xywh_to_xyxy
from pipnet.io.atomic import atomic_write
from pipnet.io.discovery import files_below
from pipnet.io.image import IMAGE_SUFFIXES
from pipnet.video.reader import VIDEO_SUFFIXES
from pipnet.video.sampling import sample_frames

BOXES = "boxes.csv"
"""The table of a folder of faces."""
BOX_FORMATS = ("face", "landmarks", "region")
"""Box formats of unlabeled faces: ``face``, forehead to chin; ``landmarks``, tight around them (v1's protocols,
whose unlabeled faces are labeled ones); ``region``, a place in which a detector looks for the face. Any other
is one that a model was fitted to, see ``pipnet detector fit``."""
_FORMAT_1 = {"rough": "region", "whole": "full_image"}
"""Names of box formats in tables of format 1, whose column is called ``kind``."""


@dataclass(frozen=True, eq=False)
class UnlabeledFace:
    """A face in a picture, without landmarks."""

    image: Path
    """Where the picture is."""
    box: Box | None
    """Whatever box it came with, xyxy in pixels of the picture; None: the whole picture is to be searched."""
    name: str
    """Unique in its collection."""
    box_format: str | None = None
    """What its box means, where its table says so."""


def load_unlabeled(path: Path, frames: Path) -> list[UnlabeledFace]:
    """The faces, or pictures to search for faces, that a path names.

    Args:
        path: a ``boxes.csv`` (see `read_boxes`), a folder with one in it, any other folder of pictures, which
            is searched through, a ``.txt`` list with a picture a line, relative to it, or a video.
        frames: folder into which a frame of each second of a video is written.

    Raises:
        DataError: no such path, nothing in it, or a damaged table.
        VideoError: a video that cannot be read.
    """
    if path.suffix.lower() == ".csv":
        return read_boxes(path)
    if path.is_dir() and (path / BOXES).is_file():
        return read_boxes(path / BOXES)
    if path.is_dir():
        pictures = [p for p in files_below(path) if p.suffix.lower() in IMAGE_SUFFIXES]
    elif path.suffix.lower() == ".txt":
        pictures = [path.parent / line for line in read_text(path).splitlines() if line.strip()]
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        pictures = sample_frames(path, frames)
    else:
        raise DataError(f"{path}: not a folder of pictures, a boxes.csv, a .txt list or a video")
    if not pictures:
        raise DataError(f"{path}: no pictures")
    return [UnlabeledFace(picture, None, os.path.relpath(picture, path.parent)) for picture in pictures]


def read_boxes(path: Path, folder: Path | None = None) -> list[UnlabeledFace]:
    """The faces of a ``boxes.csv``: ``image,x,y,w,h`` in pixels, pictures beside it or in ``images/``.

    A picture without numbers is searched for faces. A sixth column, ``box_format``, may say what each
    box means, see `BOX_FORMATS`. Other columns are left alone.

    Args:
        path: the table.
        folder: where pictures are looked for that are not beside the table.

    Raises:
        DataError: missing, not such a table, or a box that is empty or not finite.
    """
    folders = [path.parent, path.parent / "images", *([folder] if folder else [])]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    faces = []
    for number, row in enumerate(rows, start=2):
        try:
            sides = [row[key] for key in ("x", "y", "w", "h")]
            x, y, w, h = (float(side) for side in sides) if any(sides) else (0.0, 0.0, 1.0, 1.0)
            image = row["image"]
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{path}:{number}: expected image,x,y,w,h") from None
        if not np.isfinite([x, y, w, h]).all() or min(w, h) <= 0 or not image:
            raise DataError(f"{path}:{number}: the box is empty or not finite")
        box = xywh_to_xyxy((x, y, w, h)) if any(sides) else None
        picture = next((f / image for f in folders if is_file(f / image)), path.parent / image)
        faces.append(UnlabeledFace(picture, box, f"{image}#{number}", _box_format(row)))
    if not faces:
        raise DataError(f"{path}: no faces")
    return faces


def _box_format(row: dict[str, str]) -> str | None:
    """Return the box format of a row, also of a table of format 1."""
    name = row.get("box_format") or row.get("kind") or None
    return _FORMAT_1.get(name, name) if name else None


def write_boxes(path: Path, faces: Sequence[UnlabeledFace]) -> None:
    """The inverse of `read_boxes`; pictures are named relative to the file, which is whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "x", "y", "w", "h", "box_format"])
        for face in faces:
            name = relative_name(face.image, path.parent)
            numbers: list[float | str] = ["", "", "", ""]
            if face.box is not None:
                x0, y0, x1, y1 = (round(float(v), 2) for v in face.box)
                numbers = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            table.writerow([name, *numbers, face.box_format or ""])
