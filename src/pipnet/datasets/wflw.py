"""WFLW: 98 points, listed in two text files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, MissingDataError
from pipnet.io.text import read_text

ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


def read_wflw(root: Path, subset: str) -> list[FaceSample]:
    """Return WFLW's ``train``, ``test``, or the test faces with one attribute, such as ``pose``.

    Raises:
        MissingDataError: the list is missing.
        DataError: a line of it is damaged.
    """
    split = "train" if subset == "train" else "test"
    path = root / "WFLW_annotations/list_98pt_rect_attr_train_test" / f"list_98pt_rect_attr_{split}.txt"
    if not path.is_file():
        raise MissingDataError(f"WFLW {subset!r} needs the file {path}")
    lines = enumerate(read_text(path).splitlines(), start=1)
    samples = [_read_line(root, line, f"{path}:{number}", number) for number, line in lines if line.strip()]
    return [s for s in samples if subset in ("train", "test") or subset in s.attributes]


def _read_line(root: Path, line: str, where: str, number: int) -> FaceSample:
    """Read a line: 196 coordinates, a box, six attribute flags, the path of the image."""
    cells = line.split(maxsplit=206)
    try:
        values = np.array(cells[:206], dtype=np.float32)
        image = cells[206].strip()
    except (ValueError, IndexError):
        raise DataError(f"{where}: expected 206 numbers and a path") from None
    if not np.isfinite(values).all():
        raise DataError(f"{where}: a number is not finite")
    return FaceSample(
        image=root / "WFLW_images" / image,
        points=values[:196].reshape(98, 2),
        name=f"{image}#{number}",
        group=re.sub(r"^\d+_", "", Path(image).stem),
        box=values[196:200],
        attributes=frozenset(a for a, flag in zip(ATTRIBUTES, values[200:], strict=True) if flag),
    )
