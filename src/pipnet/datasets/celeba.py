"""CelebA in the wild: face boxes without landmarks, for training on unlabeled faces."""

from __future__ import annotations

from pathlib import Path

from pipnet.datasets.unlabeled import UnlabeledFace
from pipnet.errors import DataError, MissingDataError
from pipnet.geometry import xywh_to_xyxy
from pipnet.io.text import read_text

FACES = 202_599
"""The published number of faces."""


def read_celeba(root: Path) -> list[UnlabeledFace]:
    """Return the faces of ``list_bbox_celeba.txt``: a count, a header, then lines of name and x, y, w, h.

    Raises:
        DataError: the list or the folder ``img_celeba`` is missing, or a line is damaged.
    """
    path = next(iter(sorted(root.rglob("list_bbox_celeba.txt"))), None)
    folder = next((p for p in sorted(root.rglob("img_celeba")) if p.is_dir()), None)
    if path is None or folder is None:
        raise MissingDataError(
            f"CelebA needs list_bbox_celeba.txt and the folder img_celeba (in the wild) in {root}"
        )
    faces = []
    for number, line in enumerate(read_text(path).splitlines()[2:], start=3):
        cells = line.split()
        try:
            name, (x, y, w, h) = cells[0], (float(cell) for cell in cells[1:])
        except (ValueError, IndexError):
            raise DataError(f"{path}:{number}: expected a name and x, y, width, height") from None
        faces.append(UnlabeledFace(folder / name, xywh_to_xyxy((x, y, w, h)), name))
    return faces
