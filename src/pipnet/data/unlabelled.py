"""Faces that nobody labelled: a picture and, where known, a box. They are what self-training learns from."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.errors import DataError
from pipnet.geometry import Box, xywh_to_xyxy


@dataclass(frozen=True, eq=False)
class UnlabelledFace:
    """A face in a picture, without landmarks."""

    image: Path
    """Where the picture is."""
    box: Box
    """Whatever box it came with, xyxy in pixels of the picture."""
    name: str
    """Unique in its collection."""


def read_boxes(path: Path) -> list[UnlabelledFace]:
    """The faces of a ``boxes.csv``: ``image,x,y,w,h`` in pixels, the picture relative to the file.

    Raises:
        DataError: missing, not such a table, or a box that is empty or not finite.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    faces = []
    for number, row in enumerate(rows, start=2):
        try:
            x, y, w, h = (float(row[key]) for key in ("x", "y", "w", "h"))
            image = row["image"]
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{path}:{number}: expected image,x,y,w,h") from None
        if not np.isfinite([x, y, w, h]).all() or min(w, h) <= 0 or not image:
            raise DataError(f"{path}:{number}: the box is empty or not finite")
        faces.append(UnlabelledFace(path.parent / image, xywh_to_xyxy((x, y, w, h)), f"{image}#{number}"))
    if not faces:
        raise DataError(f"{path}: no faces")
    return faces


def write_boxes(path: Path, faces: Sequence[UnlabelledFace]) -> None:
    """The inverse of `read_boxes`; pictures are named relative to the file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "x", "y", "w", "h"])
        for face in faces:
            x0, y0, x1, y1 = (round(float(v), 2) for v in face.box)
            name = Path(os.path.relpath(face.image, path.parent)).as_posix()
            table.writerow([name, x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)])
    partial.replace(path)
