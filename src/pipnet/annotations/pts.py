"""The ``.pts`` format of 300-W, Menpo and 300VW.

::

    version: 1
    n_points: 68
    {
    30.5 62.0
    ...
    }

Official files count pixels from 1 (Matlab). Like the original implementation and the field's published
numbers, coordinates are taken as they are written; see `pipnet.geometry` for our frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipnet.annotations.fields import FARTHEST
from pipnet.errors import DataError
from pipnet.geometry import Points
from pipnet.io.atomic import write_text


def read_pts(path: str | Path, landmarks: int | None = None) -> Points:
    """The points of a ``.pts`` file, in pixels as written.

    Args:
        path: the file.
        landmarks: how many points there must be; any number if None.

    Raises:
        DataError: missing, not text, a wrong count, or something that is not a finite number.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from None
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise DataError(f"{path}: no points between {{ and }}")
    try:
        values = np.array(text[start + 1 : end].split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if values.size % 2 or not values.size or not (np.abs(values) <= FARTHEST).all():
        raise DataError(f"{path}: points are pairs of finite numbers")
    points = values.astype(np.float32).reshape(-1, 2)
    for key, _, value in (line.partition(":") for line in text[:start].splitlines()):
        if key.strip() == "n_points" and value.strip() != str(len(points)):
            raise DataError(f"{path}: says {value.strip()} points, holds {len(points)}")
    if landmarks is not None and len(points) != landmarks:
        raise DataError(f"{path}: {len(points)} points, expected {landmarks}")
    return points


def pts_text(points: Points) -> str:
    """Points as the text of a ``.pts`` file, to a thousandth of a pixel."""
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points.tolist())
    return f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n"


def write_pts(path: str | Path, points: Points) -> None:
    """Write points as a ``.pts`` file, to a thousandth of a pixel.

    Raises:
        WriteError: it cannot be written.
    """
    write_text(Path(path), pts_text(points))
