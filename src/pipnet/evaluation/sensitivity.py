"""How exact a detector must be: the error of landmarks found from boxes that are not quite the true ones.

Each face's true box (`CropConfig.box`) is shifted by shares of its sides, and grown or shrunk around its
center; the model is shown the crop of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from rich.table import Table

from pipnet.box_adapter import BoxAdapter
from pipnet.errors import DataError
from pipnet.evaluation.evaluate import LabeledPicture
from pipnet.evaluation.figure import new_figure, save_figure
from pipnet.evaluation.metrics import bootstrap_mean, failure_rate, norm_distance, point_errors
from pipnet.geometry import box_iou
from pipnet.inference.detectors.base import Detections
from pipnet.inference.landmarker import FaceLandmarker

SHIFTS = (0.05, 0.1, 0.15, 0.2)
"""Shares of the box's width or height."""
SCALES = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3, 1.4)
"""Sides of the box, in true ones."""
TOLERATED = 1.1
"""The error that counts as still good, in errors from true boxes."""
_WHOLE = np.array([[0, 0, 1, 1]], np.float32)
_WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


class Change(NamedTuple):
    """One way in which a box is not the true one."""

    way: str
    """``left``, ``right``, ``up``, ``down`` or ``size``."""
    by: float
    """The share of a side by which it is shifted, or its sides in true ones."""
    box: tuple[float, float, float, float]
    """What it is, as fractions (left, top, right, bottom) of the true box."""


def _changes() -> tuple[Change, ...]:
    """The true box, then all that is done to it."""
    moved = [
        Change(way, by, (dx * by, dy * by, 1 + dx * by, 1 + dy * by))
        for way, (dx, dy) in _WAYS.items()
        for by in SHIFTS
    ]
    sized = [Change("size", k, ((1 - k) / 2, (1 - k) / 2, (1 + k) / 2, (1 + k) / 2)) for k in (1.0, *SCALES)]
    return (sized[0], *moved, *sized[1:])


CHANGES = _changes()


def nmes_from_boxes(
    landmarker: FaceLandmarker, picture: LabeledPicture, boxes: Float32[np.ndarray, "boxes 4"]
) -> Float64[np.ndarray, " boxes"]:
    """NME of one face from each of several boxes, as fractions; NaN where the face has no norm.

    Args:
        landmarker: the model.
        picture: the face, in the model's scheme.
        boxes: what crops are cut around (see `CropConfig.box`), in pixels of the picture.

    Raises:
        DataError: the face has another number of landmarks than the model.
    """
    image, sample = picture
    scheme = landmarker.model.metadata.scheme
    if len(sample.points) != scheme.landmarks:
        raise DataError(f"{sample.name} has {len(sample.points)} landmarks, the model {scheme.landmarks}")
    norm = norm_distance(sample.points, scheme, sample.box)
    if not norm > 0:
        return np.full(len(boxes), np.nan)
    given = Detections(boxes, np.ones(len(boxes), np.float32))
    (found,) = landmarker.pipeline.run([image], [given], "model")
    return np.array([np.nanmean(point_errors(points, sample.points, norm)) for points in found.points])


def sensitivity(
    landmarker: FaceLandmarker, pictures: Iterable[LabeledPicture]
) -> Float64[np.ndarray, "faces changes"]:
    """NME of each face from each of `CHANGES`, as fractions; faces without a norm are left out.

    Raises:
        DataError: there are no faces, or they have another number of landmarks than the model.
        BoxError: the model's crops are cut around the collection's boxes, and there are none.
    """
    rule = landmarker.model.metadata.crop
    rows = []
    for image, sample in pictures:
        true = rule.face_box(sample.points, sample.box)[None]
        boxes = np.concatenate([BoxAdapter(*change.box).apply(true) for change in CHANGES])
        rows.append(nmes_from_boxes(landmarker, (image, sample), boxes))
    nmes = np.array(rows).reshape(-1, len(CHANGES))
    nmes = nmes[np.isfinite(nmes).all(axis=1)]
    if not len(nmes):
        raise DataError(f"nothing to measure: {len(rows)} faces, none with a norm")
    return np.asarray(nmes)


def summary(nmes: Float64[np.ndarray, "faces changes"]) -> dict[str, Any]:
    """Plain data for reports, errors in percent: a row a change, and what is tolerated.

    ``tolerated`` holds the largest shift each way, and the smallest and largest size, at which the NME is at
    most `TOLERATED` times that from true boxes; read between what was measured, None where it is beyond.
    """
    rows = []
    for change, errors in zip(CHANGES, nmes.T, strict=True):
        overlap = box_iou(_WHOLE, np.array(change.box, np.float32))[0]
        rows.append(
            {
                "way": change.way,
                "by": change.by,
                "overlap": round(float(overlap), 4),
                "nme": round(100 * float(errors.mean()), 4),
                "nme_ci": [round(100 * end, 4) for end in bootstrap_mean(errors)],
                "fr10": round(100 * failure_rate(errors), 4),
            }
        )
    curves = _curves(rows)
    sizes = curves.pop("size")
    true = next(i for i, (by, _) in enumerate(sizes) if by == 1)
    tolerated = {way: _reach(curve) for way, curve in curves.items()}
    tolerated |= {"smaller": _reach(sizes[true::-1]), "larger": _reach(sizes[true:])}
    return {"faces": len(nmes), "tolerated": tolerated, "rows": rows}


def _curves(rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Each way's (by, NME), in order; shifts begin at none."""
    curves = {
        way: sorted((row["by"], row["nme"]) for row in rows if row["way"] == way) for way in (*_WAYS, "size")
    }
    true = dict(curves["size"])[1.0]
    return {way: curve if way == "size" else [(0.0, true), *curve] for way, curve in curves.items()}


def _reach(curve: list[tuple[float, float]]) -> float | None:
    """How far one may go along a curve from the true box."""
    limit = TOLERATED * curve[0][1]
    for (near, low), (far, high) in pairwise(curve):
        if high > limit:
            return round(near + (far - near) * (limit - low) / (high - low), 3)
    return None


def sensitivity_table(facts: Mapping[str, Any], title: str) -> Table:
    """A summary as a table: a row a change."""
    table = Table(title=title, caption=f"{facts['faces']} faces; errors in % of the norm")
    for column in ("box", "overlap", "NME", "95 % interval", "failures above 10 %"):
        table.add_column(column, justify="left" if column == "box" else "right")
    for row in facts["rows"]:
        name = f"{row['by']:g} x" if row["way"] == "size" else f"{100 * row['by']:g} % {row['way']}"
        interval = "{:.2f} to {:.2f}".format(*row["nme_ci"])
        table.add_row(name, f"{row['overlap']:.2f}", f"{row['nme']:.2f}", interval, f"{row['fr10']:.2f}")
    return table


def plot_sensitivity(facts: Mapping[str, Any], path: Path) -> None:
    """Draw the NME of a summary over shifts and over sizes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    for way, curve in _curves(facts["rows"]).items():
        by, nmes = np.array(curve).T
        if way == "size":
            right.plot(by, nmes, marker="o", markersize=4)
            limit = TOLERATED * nmes[by == 1][0]
        else:
            left.plot(100 * by, nmes, marker="o", markersize=4, label=way)
    left.set(xlabel="shift, % of the box's side", ylabel="NME, %", ylim=(0, None))
    right.set(xlabel="side of the box, in true ones")
    for axes in (left, right):
        axes.axhline(limit, color="0.6", linestyle="--", label=f"{100 * (TOLERATED - 1):.0f} % more error")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    save_figure(figure, path)
