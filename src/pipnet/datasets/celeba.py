"""CelebA in the wild: face boxes without landmarks, for training on unlabeled faces.

There are two lists of boxes: ``list_bbox_celeba.txt`` of CelebA itself, and ``celeba_bboxes.txt`` of PIPNet's
authors, who detected the faces anew for their training on unlabeled faces.
"""

from __future__ import annotations

from pathlib import Path

from pipnet.datasets.unlabeled import UnlabeledFace
from pipnet.errors import DataError, MissingDataError
from pipnet.geometry import Box, xywh_to_xyxy
from pipnet.io.text import read_text

FACES = 202_599
"""The published number of faces."""
AUTHORS_LIST = "celeba_bboxes.txt"
"""The list of PIPNet's authors: lines of name and the first and last pixel along each axis, xyxy."""
_CELEBAS_LIST = "list_bbox_celeba.txt"
"""CelebA's own list: a count, a header, then lines of name and x, y, width, height."""


def read_celeba(root: Path) -> list[UnlabeledFace]:
    """Return the faces of the list of boxes in a folder; of the authors' list if there are both.

    Raises:
        DataError: the list or the folder ``img_celeba`` is missing, or a line is damaged.
    """
    lists = [path for name in (AUTHORS_LIST, _CELEBAS_LIST) for path in sorted(root.rglob(name))]
    folder = next((p for p in sorted(root.rglob("img_celeba")) if p.is_dir()), None)
    if not lists or folder is None:
        raise MissingDataError(
            f"CelebA needs {AUTHORS_LIST} or {_CELEBAS_LIST} and the folder img_celeba in {root}"
        )
    path = lists[0]
    first, columns = (0, "x0, y0, x1, y1") if path.name == AUTHORS_LIST else (2, "x, y, width, height")
    faces = []
    for number, line in enumerate(read_text(path).splitlines()[first:], start=first + 1):
        cells = line.split()
        try:
            name, (a, b, c, d) = cells[0], (float(cell) for cell in cells[1:])
        except (ValueError, IndexError):
            raise DataError(f"{path}:{number}: expected a name and {columns}") from None
        box = _pixels_to_xyxy(a, b, c, d) if path.name == AUTHORS_LIST else xywh_to_xyxy((a, b, c, d))
        faces.append(UnlabeledFace(folder / name, box, name))
    return faces


def _pixels_to_xyxy(x0: float, y0: float, x1: float, y1: float) -> Box:
    """Return the box of the authors, who count both of these pixels: it is x1 - x0 + 1 wide."""
    return xywh_to_xyxy((x0, y0, x1 - x0 + 1, y1 - y0 + 1))
