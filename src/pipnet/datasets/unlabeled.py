"""Unlabeled faces: an image and, where known, a box. Self-training learns from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.datasets.bundle import UNLABELED, is_bundle, unpack_bundle
from pipnet.errors import DataError
from pipnet.geometry import Box, xywh_to_xyxy
from pipnet.io.csv_file import CsvReader, write_csv_file
from pipnet.io.discovery import images_below
from pipnet.io.text import is_file, read_text, relative_name
from pipnet.video.reader import VIDEO_SUFFIXES
from pipnet.video.sampling import sample_frames

BOXES = "boxes.csv"
"""The table in a folder of faces."""
BOX_FORMATS = ("face", "landmarks", "region", "crop")
"""Box formats of unlabeled faces: ``face``, forehead to chin; ``landmarks``, tight around them (the faces of
v1's protocols, which are labeled ones); ``region``, an area in which a detector searches for the face;
``crop``, what the crop shows, kept in every round (the papers). Any other is a box format that a model was
fitted to, see ``pipnet detector fit``."""
_FORMAT_1 = {"rough": "region", "whole": "full_image"}
"""Names of box formats in tables of format 1, where the column is called ``kind``."""


@dataclass(frozen=True, eq=False)
class UnlabeledFace:
    """A face in an image, without landmarks."""

    image: Path
    """The path of the image."""
    box: Box | None
    """A box, xyxy in pixels of the image; None: the full image is searched for faces."""
    name: str
    """Unique in its dataset."""
    box_format: str | None = None
    """What the box means, where the table states it."""


def load_unlabeled(path: Path, frames: Path) -> list[UnlabeledFace]:
    """Return the faces, or the images to search for faces, of a path.

    Args:
        path: a ``boxes.csv`` (see `read_boxes`), or a folder or a bundle that holds one; any other folder of
            images, which is searched with its subfolders; a ``.txt`` list with one image per line, relative
            to it; or a video.
        frames: the folder into which one frame per second of a video is written.

    Raises:
        DataError: the path does not exist or holds no images, or the table is invalid.
        VideoError: the video cannot be read.
    """
    if is_bundle(path):
        table = unpack_bundle(path) / UNLABELED / BOXES
        if not table.is_file():
            raise DataError(f"{path}: no unlabeled faces in this bundle (pipnet data bundle --unlabeled)")
        return read_boxes(table)
    if path.suffix.lower() == ".csv":
        return read_boxes(path)
    if path.is_dir() and (path / BOXES).is_file():
        return read_boxes(path / BOXES)
    if path.is_dir():
        images = [*images_below(path)]
    elif path.suffix.lower() == ".txt":
        images = [path.parent / line for line in read_text(path).splitlines() if line.strip()]
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        images = sample_frames(path, frames)
    else:
        raise DataError(f"{path}: not a folder of images, a boxes.csv, a .txt list or a video")
    if not images:
        raise DataError(f"{path}: no images")
    return [UnlabeledFace(image, None, os.path.relpath(image, path.parent)) for image in images]


def read_boxes(path: Path, folder: Path | None = None) -> list[UnlabeledFace]:
    """Return the faces of a ``boxes.csv``: ``image,x,y,w,h`` in pixels, images next to it or in ``images/``.

    An image without numbers is searched for faces. The optional column ``box_format`` states what each box
    means, see `BOX_FORMATS`. Other columns are ignored.

    Args:
        path: the table.
        folder: where to look for images that are not next to the table.

    Raises:
        DataError: the table is missing or invalid, or a box is empty or not finite.
    """
    folders = [path.parent, path.parent / "images", *([folder] if folder else [])]
    faces = []
    for number, (where, row) in enumerate(CsvReader(path).records(), start=2):
        try:
            sides = [row[key] for key in ("x", "y", "w", "h")]
            x, y, w, h = (float(side) for side in sides) if any(sides) else (0.0, 0.0, 1.0, 1.0)
            name = row["image"]
        except (KeyError, ValueError):
            raise DataError(f"{where}: expected image,x,y,w,h") from None
        if not np.isfinite([x, y, w, h]).all() or min(w, h) <= 0 or not name:
            raise DataError(f"{where}: the box is empty or not finite, or the image is missing")
        image = next((f / name for f in folders if is_file(f / name)), path.parent / name)
        box = xywh_to_xyxy((x, y, w, h)) if any(sides) else None
        box_format = row.get("box_format") or row.get("kind") or None
        box_format = _FORMAT_1.get(box_format or "", box_format)
        faces.append(UnlabeledFace(image, box, f"{name}#{number}", box_format))
    if not faces:
        raise DataError(f"{path}: no faces")
    return faces


def write_boxes(path: Path, faces: Sequence[UnlabeledFace]) -> None:
    """Write a ``boxes.csv`` for `read_boxes`, atomically; images are named relative to the file.

    Raises:
        WriteError: the file cannot be written.
    """

    def rows() -> Iterator[list[object]]:
        for face in faces:
            numbers: list[object] = [""] * 4
            if face.box is not None:
                x0, y0, x1, y1 = (round(float(v), 2) for v in face.box)
                numbers = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            yield [relative_name(face.image, path.parent), *numbers, face.box_format or ""]

    write_csv_file(path, ["image", "x", "y", "w", "h", "box_format"], rows())
