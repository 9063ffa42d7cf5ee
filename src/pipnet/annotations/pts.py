"""The ``.pts`` format of 300-W, Menpo and 300-VW.

::

    version: 1
    n_points: 68
    {
    30.5 62.0
    ...
    }

Official files count pixels from 1 (Matlab). As in the original implementation and the published results, the
coordinates are used as written; see `pipnet.geometry` for our frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipnet.annotations.checked_values import MAX_COORDINATE
from pipnet.errors import DataError, one_line
from pipnet.geometry import Points
from pipnet.io.atomic import write_text
from pipnet.io.text import read_text


def read_pts(path: str | Path, landmarks: int | None = None) -> Points:
    """Return the points of a ``.pts`` file, (L, 2), in pixels as written.

    Args:
        path: the file.
        landmarks: the required number of points; any number if None.

    Raises:
        DataError: the file is missing or not text, the number of points is wrong, or a value is not a finite
            number.
    """
    text = read_text(Path(path))
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise DataError(f"{path}: no points between {{ and }}")
    try:
        values = np.array(text[start + 1 : end].split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {one_line(error)}") from None
    if values.size % 2 or not values.size or not (np.abs(values) <= MAX_COORDINATE).all():
        raise DataError(f"{path}: points are pairs of finite numbers")
    points = values.astype(np.float32).reshape(-1, 2)
    for key, _, value in (line.partition(":") for line in text[:start].splitlines()):
        if key.strip() == "n_points" and value.strip() != str(len(points)):
            raise DataError(f"{path}: n_points is {value.strip():.80}, but the file has {len(points)} points")
    if landmarks is not None and len(points) != landmarks:
        raise DataError(f"{path}: {len(points)} points, expected {landmarks}")
    return points


def write_pts(path: str | Path, points: Points) -> None:
    """Write points as a ``.pts`` file, in pixels rounded to three digits.

    Raises:
        WriteError: the file cannot be written.
    """
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points.tolist())
    write_text(Path(path), f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n")
