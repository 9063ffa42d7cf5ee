"""Reliability of the confidence: calibration, ranking, and the gain of leaving out doubtful landmarks.

A reliability diagram compares predicted probabilities with observed frequencies (DeGroot and Fienberg, 1983).
Its mean distance from the diagonal is the expected calibration error (Naeini et al., 2015). The AUROC is the
probability that a wrong landmark has a lower confidence than a right one. The risk-coverage curve is the mean
error of the landmarks that remain when the least confident ones are left out (Geifman and El-Yaniv, 2017).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipnet.evaluation.metrics import Interval, bootstrap
from pipnet.io.atomic import atomic_write

sys.path.append(str(Path(__file__).parents[2]))
from _common import COLORS, label_line, new_figure

BINS = 15
DROPPED = 0.2
"""Share of the landmarks that is left out for `gain_of_dropping`."""


class ReliabilityData(NamedTuple):
    """Predicted and true errors of landmarks, all (faces, landmarks); NaN where the truth is unknown."""

    error_probability: np.ndarray
    """Predicted probability of being wrong."""
    expected_error: np.ndarray
    """Predicted error."""
    errors: np.ndarray
    """True errors, in the same unit."""
    wrong: np.ndarray
    """Whether the landmarks are wrong."""

    def select(self, faces: np.ndarray) -> ReliabilityData:
        """Return the faces at the given indices."""
        return ReliabilityData(*(values[faces] for values in self))


def auroc(data: ReliabilityData) -> float:
    """Return the probability that a wrong landmark is less confident than a right one; ties count half.

    NaN if all landmarks are right, or all are wrong.
    """
    known = np.isfinite(data.errors)
    probability, wrong = data.error_probability[known], data.wrong[known]
    _, inverse, counts = np.unique(probability, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return float("nan")
    return float((ranks[wrong].sum() - count * (count + 1) / 2) / (count * (len(wrong) - count)))


def reliability_diagram(data: ReliabilityData) -> np.ndarray:
    """Return the mean predicted probability, share of wrong landmarks and share of all landmarks by bin.

    The result is (bins, 3). The bins have equal widths. The first two values of an empty bin are NaN.
    """
    known = np.isfinite(data.errors)
    probability, wrong = data.error_probability[known].astype(np.float64), data.wrong[known]
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(bins, probability, BINS) / count
        observed = np.bincount(bins, wrong, BINS) / count
    return np.stack([predicted, observed, count / max(len(probability), 1)], axis=1)


def calibration_error(data: ReliabilityData) -> float:
    """Return the mean distance between predicted probability and observed frequency, over all landmarks."""
    predicted, observed, share = reliability_diagram(data).T
    return float(np.nansum(share * np.abs(predicted - observed)))


def risk_coverage(data: ReliabilityData) -> np.ndarray:
    """Return the mean error of the 1, 2, ... most confident landmarks."""
    known = np.isfinite(data.errors)
    order = np.argsort(data.expected_error[known], kind="stable")
    errors = data.errors[known][order].astype(np.float64)
    return np.asarray(np.cumsum(errors) / np.arange(1, len(errors) + 1))


def gain_of_dropping(data: ReliabilityData) -> float:
    """Return by which fraction the mean error falls if the least confident landmarks are left out."""
    risk = risk_coverage(data)
    return float(1 - risk[max(round((1 - DROPPED) * len(risk)), 1) - 1] / risk[-1])


def bootstrap_interval(
    data: ReliabilityData, measure: Callable[[ReliabilityData], float], draws: int = 500
) -> Interval:
    """Return the 95 % bootstrap interval of a measure over faces."""
    return bootstrap(lambda faces: measure(data.select(faces)), len(data.errors), draws)


def save_reliability(datasets: Mapping[str, ReliabilityData], path: Path) -> None:
    """Write the errors of all landmarks of datasets by name, in half precision."""
    arrays = {
        f"{name}/{field}": values.astype(bool if field == "wrong" else np.float16)
        for name, data in datasets.items()
        for field, values in data._asdict().items()
    }
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_reliability(path: Path) -> dict[str, ReliabilityData]:
    """Return the datasets of `save_reliability`."""
    with np.load(path) as arrays:
        names = dict.fromkeys(key.rpartition("/")[0] for key in arrays.files)
        return {
            name: ReliabilityData(*(arrays[f"{name}/{field}"] for field in ReliabilityData._fields))
            for name in names
        }


def draw_reliability(datasets: Mapping[str, ReliabilityData], path: Path) -> None:
    """Draw the reliability diagram and the risk-coverage curve of datasets by name, at most five.

    Raises:
        MissingExtraError: matplotlib is not installed.
        WriteError: the figure cannot be written.
    """
    with new_figure(path, 10, 4.2, columns=2) as (left, right):
        left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for i, (name, data) in enumerate(datasets.items()):
            color = COLORS[i]
            predicted, observed, share = reliability_diagram(data).T
            filled = share > 0
            left.plot(predicted[filled], observed[filled], marker="o", markersize=4, color=color)
            left.text(0.03, 0.95 - 0.06 * i, name, color=color, transform=left.transAxes, fontsize=9)
            risk = 100 * risk_coverage(data)
            right.plot(100 * np.arange(1, len(risk) + 1) / len(risk), risk, color=color)
            label_line(right, 101, risk[-1], name, color)
        left.set(xlabel="predicted error probability", ylabel="share of wrong landmarks")
        left.set(xlim=(0, 1), ylim=(0, 1))
        right.set(xlabel="coverage: most confident landmarks, %", ylabel="mean error, % of the face")
        right.set(xlim=(0, 128), xticks=range(0, 101, 20), ylim=(0, None))
