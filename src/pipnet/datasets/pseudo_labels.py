"""Landmarks that a model found on faces nobody labeled, as a table that anyone can open.

One row a face: the picture, the mean score of its landmarks, the mean spread of the neighbors' votes and the
mean disagreement of the views or teachers (both in percent of the crop), then x and y of each landmark in
pixels, and where several teachers labeled it, the loss weight of each landmark.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.io.atomic import atomic_write

_QUALITY = ("score", "vote_std", "tta_std")


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """A face with the landmarks that a model found, and how good they may be."""

    face: FaceSample
    score: float
    """Mean peak of the score maps, in [0, 1]."""
    vote_std: float
    """Mean disagreement of the neighbors' votes, in percent of the crop."""
    tta_std: float
    """Mean disagreement of the views, or of several teachers, in percent of the crop; 0 for one."""
    weights: Float32[np.ndarray, " landmarks"] | None = None
    """Loss weight of each landmark in (0, 1]; None: all 1."""


def write_pseudo_labels(path: Path, labels: Sequence[PseudoLabel]) -> None:
    """Write a table; whole or not at all. Pictures are named relative to it.

    Raises:
        DataError: there are none.
        WriteError: it cannot be written.
    """
    if not labels:
        raise DataError(f"{path}: no pseudo-labels to write")
    landmarks = len(labels[0].face.points)
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        title = ["image", "name", *_QUALITY, *(f"{a}{i}" for i in range(landmarks) for a in "xy")]
        weighted = labels[0].weights is not None
        table.writerow([*title, *(f"w{i}" for i in range(landmarks) if weighted)])
        for label in labels:
            image = Path(os.path.relpath(label.face.image.resolve(), path.parent.resolve())).as_posix()
            quality = [round(float(getattr(label, key)), 5) for key in _QUALITY]
            points = np.round(label.face.points.ravel().astype(np.float64), 3).tolist()
            weights = [] if label.weights is None else np.round(label.weights.astype(np.float64), 3).tolist()
            table.writerow([image, label.face.name, *quality, *points, *weights])


def is_pseudo_labels(path: Path) -> bool:
    """Whether a file is such a table, by its first words."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    title = ",".join(["image", "name", *_QUALITY, ""]).encode()
    with path.open("rb") as file:
        return file.read(len(title)) == title


def read_pseudo_labels(path: Path) -> list[PseudoLabel]:
    """The inverse of `write_pseudo_labels`.

    Raises:
        DataError: missing, or not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            title, *rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path}: no table of pseudo-labels: {error}") from None
    landmarks = sum(word.startswith("x") for word in title)
    known = [5 + 2 * landmarks, 5 + 3 * landmarks]
    if title[:5] != ["image", "name", *_QUALITY] or not landmarks or len(title) not in known or not rows:
        raise DataError(f"{path}: no table of pseudo-labels: it begins with {', '.join(title[:5]):.80}")
    return [_read_row(row, path, number, len(title), landmarks) for number, row in enumerate(rows, start=2)]


def _read_row(row: list[str], path: Path, number: int, width: int, landmarks: int) -> PseudoLabel:
    try:
        values = np.array(row[2:], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}:{number}: {error}") from None
    if len(row) != width or not np.isfinite(values).all():
        raise DataError(f"{path}:{number}: expected {width - 2} finite numbers")
    coordinates, weights = np.split(values[3:], [2 * landmarks])
    if not ((weights > 0) & (weights <= 1)).all():
        raise DataError(f"{path}:{number}: a weight is not in (0, 1]")
    face = FaceSample(path.parent / row[0], coordinates.reshape(-1, 2).astype(np.float32), row[1], row[0])
    score, vote_std, tta_std = values[:3].tolist()
    return PseudoLabel(face, score, vote_std, tta_std, weights.astype(np.float32) if len(weights) else None)
