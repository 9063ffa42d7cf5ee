"""Sensitivity to the detector: the NME from boxes that are shifted, too small or too large.

Each face's true box (`CropConfig.box`) is shifted by fractions of its sides, and scaled around its center.
The model predicts from the crop of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from rich.table import Table

from pipnet.box_adapter import BoxAdapter
from pipnet.errors import DataError
from pipnet.evaluation.evaluate import LabeledImage
from pipnet.evaluation.matplotlib_figure import new_figure, save_figure
from pipnet.evaluation.metrics import bootstrap_mean, failure_rate, norm_distance, point_errors
from pipnet.geometry import box_iou
from pipnet.inference.detectors.base import Detections
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.text import counted

SHIFTS = (0.05, 0.1, 0.15, 0.2)
"""Fractions of the box's width or height."""
SCALES = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3, 1.4)
"""Sides of the box over those of the true box."""
TOLERATED = 1.1
"""The largest tolerated NME over the NME from true boxes."""
_UNIT_BOX = np.array([[0, 0, 1, 1]], np.float32)
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


class Perturbation(NamedTuple):
    """A deviation of a box from the true box."""

    direction: str
    """``left``, ``right``, ``up``, ``down`` or ``size``."""
    amount: float
    """The shift as a fraction of the side; for ``size``, the sides over those of the true box."""
    box: tuple[float, float, float, float]
    """The box (left, top, right, bottom) as fractions of the true box."""


def _perturbations() -> tuple[Perturbation, ...]:
    """Return the true box first, then all deviations."""
    shifted = [
        Perturbation(name, shift, (dx * shift, dy * shift, 1 + dx * shift, 1 + dy * shift))
        for name, (dx, dy) in _DIRECTIONS.items()
        for shift in SHIFTS
    ]
    scaled = [
        Perturbation("size", k, ((1 - k) / 2, (1 - k) / 2, (1 + k) / 2, (1 + k) / 2)) for k in (1.0, *SCALES)
    ]
    return (scaled[0], *shifted, *scaled[1:])


PERTURBATIONS = _perturbations()


def nmes_from_boxes(
    landmarker: FaceLandmarker,
    labeled: LabeledImage,
    boxes: Float32[np.ndarray, "boxes 4"],
    norm: Literal["scheme", "longer_side"] = "scheme",
) -> Float64[np.ndarray, " boxes"]:
    """Return the NME of one face from each of several boxes, as fractions; NaN if the face has no norm.

    Args:
        landmarker: the model.
        labeled: the image and the face, in the model's scheme.
        boxes: the boxes that crops are cut around (see `CropConfig.box`), in pixels of the image.
        norm: the unit of the errors: the scheme's norm, or the longer side of the tight box of the known
            landmarks (see `DatasetSpec.norm`).

    Raises:
        DataError: the face has another number of landmarks than the model.
    """
    image, sample = labeled
    scheme = landmarker.metadata.scheme
    if len(sample.points) != scheme.landmarks:
        raise DataError(f"{sample.name} has {len(sample.points)} landmarks, the model {scheme.landmarks}")
    unit_scheme = scheme if norm == "scheme" else replace(scheme, norm=norm)
    unit = norm_distance(sample.points, unit_scheme, sample.box)
    if not unit > 0:
        return np.full(len(boxes), np.nan)
    detections = Detections(boxes, np.ones(len(boxes), np.float32))
    (faces,) = landmarker.pipeline.run([image], [detections], "model")
    return np.array([np.nanmean(point_errors(points, sample.points, unit)) for points in faces.points])


def sensitivity(
    landmarker: FaceLandmarker, images: Iterable[LabeledImage]
) -> Float64[np.ndarray, "faces perturbations"]:
    """Return the NME of each face for each of `PERTURBATIONS`, as fractions, without faces that have no norm.

    Raises:
        DataError: there are no faces, or they have another number of landmarks than the model.
        BoxError: the model's crops are cut around the dataset's boxes, and there are none.
    """
    crop_config = landmarker.metadata.crop
    rows = []
    for image, sample in images:
        true_box = sample.face_box(crop_config)[None]
        boxes = np.concatenate([BoxAdapter(*change.box).apply(true_box) for change in PERTURBATIONS])
        rows.append(nmes_from_boxes(landmarker, (image, sample), boxes))
    nmes = np.array(rows).reshape(-1, len(PERTURBATIONS))
    nmes = nmes[np.isfinite(nmes).all(axis=1)]
    if not len(nmes):
        raise DataError(f"nothing to evaluate: {len(rows)} faces, none with a norm")
    return np.asarray(nmes)


def summary(nmes: Float64[np.ndarray, "faces perturbations"]) -> dict[str, Any]:
    """Return the metrics as plain data, in percent: a row a perturbation, and the tolerated deviations.

    ``tolerated`` has the largest shift in each direction, and the smallest and largest size, for which the
    NME is at most `TOLERATED` times that from true boxes. Values are interpolated; None means that the limit
    is beyond the measured deviations.
    """
    rows = [
        {
            "direction": change.direction,
            "amount": change.amount,
            "iou": round(float(box_iou(_UNIT_BOX, np.array(change.box, np.float32))[0]), 4),
            "nme": round(100 * float(errors.mean()), 4),
            "nme_ci": [round(100 * end, 4) for end in bootstrap_mean(errors)],
            "fr10": round(100 * failure_rate(errors), 4),
        }
        for change, errors in zip(PERTURBATIONS, nmes.T, strict=True)
    ]
    curves = _curves(rows)
    sizes = curves.pop("size")
    true_size = [size for size, _ in sizes].index(1)
    tolerated = {direction: _tolerated(curve) for direction, curve in curves.items()}
    tolerated |= {"smaller": _tolerated(sizes[true_size::-1]), "larger": _tolerated(sizes[true_size:])}
    return {"faces": len(nmes), "tolerated": tolerated, "rows": rows}


def _curves(rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return (amount, NME) of each direction by ascending amount; shifts start at 0."""
    curves = {
        direction: sorted((row["amount"], row["nme"]) for row in rows if row["direction"] == direction)
        for direction in (*_DIRECTIONS, "size")
    }
    true_nme = dict(curves["size"])[1.0]
    return {name: curve if name == "size" else [(0.0, true_nme), *curve] for name, curve in curves.items()}


def _tolerated(curve: list[tuple[float, float]]) -> float | None:
    """Return the interpolated amount at which a curve that starts at the true box exceeds the limit."""
    limit = TOLERATED * curve[0][1]
    for (near, low), (far, high) in pairwise(curve):
        if high > limit:
            return round(near + (far - near) * (limit - low) / (high - low), 3)
    return None


def sensitivity_table(facts: Mapping[str, Any], title: str) -> Table:
    """Return a summary as a table: a row a perturbation."""
    table = Table(title=title, caption=f"{counted(facts['faces'], 'face')}; errors in % of the norm")
    for column in ("box", "IoU", "NME", "95 % interval", "failures above 10 %"):
        table.add_column(column, justify="left" if column == "box" else "right")
    for row in facts["rows"]:
        direction, amount = row["direction"], row["amount"]
        name = f"{amount:g} x" if direction == "size" else f"{100 * amount:g} % {direction}"
        interval = "{:.2f} to {:.2f}".format(*row["nme_ci"])
        table.add_row(name, f"{row['iou']:.2f}", f"{row['nme']:.2f}", interval, f"{row['fr10']:.2f}")
    return table


def plot_sensitivity(facts: Mapping[str, Any], path: Path) -> None:
    """Draw the NME of a summary over shifts and over sizes.

    Raises:
        MissingExtraError: matplotlib is not installed.
        WriteError: the figure cannot be written.
    """
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    for direction, curve in _curves(facts["rows"]).items():
        amounts, nmes = np.array(curve).T
        if direction == "size":
            right.plot(amounts, nmes, marker="o", markersize=4)
            limit = TOLERATED * nmes[amounts == 1][0]
        else:
            left.plot(100 * amounts, nmes, marker="o", markersize=4, label=direction)
    left.set(xlabel="shift, % of the box's side", ylabel="NME, %", ylim=(0, None))
    right.set(xlabel="side of the box over the true one")
    for axes in (left, right):
        axes.axhline(limit, color="0.6", linestyle="--", label=f"{100 * (TOLERATED - 1):.0f} % more error")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    save_figure(figure, path)
