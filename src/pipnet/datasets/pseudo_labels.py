"""Pseudo-labels: landmarks that a model or several teachers predicted on unlabeled faces, as a CSV table.

One row per face: the image, its name, the mean score of its landmarks, the mean standard deviation of the
neighbors' votes and that of the predictions that the label is a mean of (augmented crops or teachers), both
in percent of the crop, then x and y of each landmark in pixels, for labels of several teachers the loss
weight of each landmark, the standard deviation of each landmark's predictions, and for faces that keep their
crop the box that it is cut around.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, one_line
from pipnet.io.csv_file import CsvReader, write_csv_file
from pipnet.io.regular_file import typed_errors

LABELING_RECORD = "labeling.json"
"""File beside a table that says how its faces were labeled."""
_QUALITY = ("mean_score", "vote_std", "label_std")
_HEADER = ["image", "name", *_QUALITY]
_MIN_WEIGHT = 0.001
"""Minimum loss weight that is written, with three digits: one of 0 is refused when the table is read."""
_CROP_BOX = ["box_x0", "box_y0", "box_x1", "box_y1"]
_FORMAT_1_HEADER = ["image", "name", "score", "spread", "disagreement"]


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """A face with predicted landmarks, and their estimated quality."""

    sample: FaceSample
    mean_score: float
    """Mean peak of the score maps, in [0, 1]."""
    vote_std: float
    """Mean standard deviation of the neighbors' votes, in percent of the crop."""
    label_std: float
    """Mean standard deviation of the predictions that the label is a mean of (augmented crops or teachers),
    in percent of the crop; 0 for a single prediction."""
    weights: Float32[np.ndarray, " landmarks"] | None = None
    """Loss weight of each landmark in (0, 1]; None: all 1."""
    landmark_std: Float32[np.ndarray, " landmarks"] | None = None
    """Standard deviation of each landmark's predictions, in percent of the crop: the larger one of the
    neighbors' votes and of the predictions that the label is a mean of. None: not known."""


def write_pseudo_labels(path: Path, labels: Sequence[PseudoLabel]) -> None:
    """Write a table atomically. Images are named relative to it.

    Raises:
        DataError: there are no labels.
        WriteError: the file cannot be written.
    """
    if not labels:
        raise DataError(f"{path}: no pseudo-labels to write")
    indices = range(len(labels[0].sample.points))
    header = [*_HEADER, *(f"{axis}{i}" for i in indices for axis in "xy")]
    header += [f"w{i}" for i in indices if labels[0].weights is not None]
    header += [f"std{i}" for i in indices if labels[0].landmark_std is not None]
    keep_crops = any(label.sample.crop_box is not None for label in labels)
    header += _CROP_BOX if keep_crops else []

    def rows() -> Iterator[list[object]]:
        for label in labels:
            image = Path(os.path.relpath(label.sample.image.resolve(), path.parent.resolve())).as_posix()
            quality = [round(float(getattr(label, key)), 5) for key in _QUALITY]
            points = np.round(label.sample.points.ravel().astype(np.float64), 3).tolist()
            weights = None if label.weights is None else np.maximum(label.weights, _MIN_WEIGHT)
            more = [
                values.astype(np.float64) for values in (weights, label.landmark_std) if values is not None
            ]
            numbers = [number for values in more for number in np.round(values, 3).tolist()]
            yield [image, label.sample.name, *quality, *points, *numbers, *_crop_box(label, keep_crops)]

    write_csv_file(path, header, rows())


def _crop_box(label: PseudoLabel, has_columns: bool) -> Sequence[object]:
    """Return the cells of the box that a face's crop is cut around; empty for a face that keeps none."""
    if label.sample.crop_box is not None:
        box: list[float] = np.round(label.sample.crop_box.astype(np.float64), 3).tolist()
        return box
    return [""] * len(_CROP_BOX) * has_columns


def is_pseudo_labels(path: Path) -> bool:
    """Return whether a file is a table of pseudo-labels, by the start of its header."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(80)
    return any(start.startswith(",".join([*header, ""]).encode()) for header in (_HEADER, _FORMAT_1_HEADER))


def read_pseudo_labels(path: Path) -> list[PseudoLabel]:
    """Return the labels of a table, also of format 1, where the columns have other names.

    Raises:
        DataError: missing or not a table of pseudo-labels.
    """
    table = CsvReader(path)
    has_boxes = table.header[-len(_CROP_BOX) :] == _CROP_BOX
    width = len(table.header) - len(_CROP_BOX) * has_boxes
    landmarks, weights, stds = (
        sum(title.rstrip("0123456789") == prefix for title in table.header) for prefix in ("x", "w", "std")
    )
    is_valid = table.header[:5] in (_HEADER, _FORMAT_1_HEADER) and {weights, stds} <= {0, landmarks}
    if not is_valid or not landmarks or width != 5 + 2 * landmarks + weights + stds:
        raise DataError(
            f"{path}: not a table of pseudo-labels: it starts with {', '.join(table.header[:5]):.80}"
        )
    layout = _Layout(width, len(table.header), landmarks, weights)
    labels = [_read_row(path, row, where, layout) for where, row in table]
    if not labels:
        raise DataError(f"{path}: no pseudo-labels in this table")
    return labels


def licenses_of_labels(path: Path) -> list[str]:
    """Return the licenses of the networks that labeled a table's faces, from the record beside it.

    Returns:
        ``["unknown"]`` without a record.

    Raises:
        DataError: the record is damaged.
    """
    record = path.with_name(LABELING_RECORD)
    if not record.is_file():
        return ["unknown"]
    with typed_errors(DataError, f"{record}: not a record of a labeling"):
        table = json.loads(record.read_bytes())
        licenses = [str(teacher.get("license", "unknown")) for teacher in table.get("teachers", [{}])]
    return list(dict.fromkeys(licenses))


class _Layout(NamedTuple):
    """The columns of a table."""

    width: int
    """Number of columns without the box of the crop."""
    full_width: int
    """Number of columns with it."""
    landmarks: int
    weights: int
    """Number of columns with the weight of a landmark: none or one for each."""


def _read_row(path: Path, row: list[str], where: str, layout: _Layout) -> PseudoLabel:
    """Return a row of the table."""
    width, full_width, landmarks, weight_count = layout
    row, box = row[:width], row[width:]
    try:
        values = np.array(row[2:], dtype=np.float64)
        crop_box = np.array(box, dtype=np.float32) if any(box) else None
    except ValueError as error:
        raise DataError(f"{where}: {one_line(error)}") from None
    if len(row) + len(box) != full_width or not np.isfinite(values).all():
        raise DataError(f"{where}: expected {width - 2} finite numbers")
    if crop_box is not None and not (np.isfinite(crop_box).all() and (crop_box[2:] > crop_box[:2]).all()):
        raise DataError(f"{where}: the box of the crop has no width or no height")
    ends = np.cumsum([3, 2 * landmarks, weight_count])
    quality, coordinates, weights, stds = np.split(values, ends)
    if not ((weights > 0) & (weights <= 1)).all():
        raise DataError(f"{where}: a weight is not in (0, 1]")
    points = coordinates.reshape(-1, 2).astype(np.float32)
    sample = FaceSample(path.parent / row[0], points, row[1], row[0], crop_box=crop_box)
    mean_score, vote_std, label_std = quality.tolist()
    loss_weights, landmark_std = (part.astype(np.float32) if len(part) else None for part in (weights, stds))
    return PseudoLabel(sample, mean_score, vote_std, label_std, loss_weights, landmark_std)
