"""Whether a confidence can be relied on: calibration, ranking, and what leaving out the least sure gains.

A reliability diagram sets what was predicted beside what was seen (DeGroot and Fienberg, 1983); its mean
distance from the diagonal is the expected calibration error (Naeini et al., 2015). The AUROC is the
chance that a wrong landmark is less sure than a right one. The risk-coverage curve is the mean error of
what is left when the least sure are left out (Geifman and El-Yaniv, 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from pipnet.evaluation.figure import new_figure, save_figure
from pipnet.evaluation.metrics import Interval

BINS = 15
DROPPED = 0.2
"""Share of the points that is left out, for the gain."""


class Judged(NamedTuple):
    """Landmarks whose truth is known, and what was predicted of them. NaN errors are of unknown ones."""

    chance: Float[np.ndarray, "faces landmarks"]
    """Said chance of being wrong."""
    expected: Float[np.ndarray, "faces landmarks"]
    """Said error."""
    errors: Float[np.ndarray, "faces landmarks"]
    """Errors, in the same unit."""
    wrong: Bool[np.ndarray, "faces landmarks"]
    """Whether they count as wrong."""

    def of(self, faces: np.ndarray) -> Judged:
        """Some of the faces."""
        return Judged(*(part[faces] for part in self))


def auroc(judged: Judged) -> float:
    """Chance that a wrong landmark is less sure than a right one; ties count half."""
    known = np.isfinite(judged.errors)
    chance, wrong = judged.chance[known], judged.wrong[known]
    _, place, counts = np.unique(chance, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return float("nan")
    return float((ranks[wrong].sum() - count * (count + 1) / 2) / (count * (len(wrong) - count)))


def diagram(judged: Judged) -> Float64[np.ndarray, "bins 3"]:
    """In bins of equal width: mean predicted chance, share that is wrong, share of all; NaN if empty."""
    known = np.isfinite(judged.errors)
    chance, wrong = judged.chance[known].astype(np.float64), judged.wrong[known]
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, chance, BINS) / count
        observed = np.bincount(place, wrong, BINS) / count
    return np.stack([predicted, observed, count / max(len(chance), 1)], axis=1)


def calibration_error(judged: Judged) -> float:
    """Mean distance between predicted and observed chances, over all landmarks."""
    predicted, observed, share = diagram(judged).T
    return float(np.nansum(share * np.abs(predicted - observed)))


def risk_coverage(judged: Judged) -> Float64[np.ndarray, " points"]:
    """Mean error of the surest 1, 2, ... landmarks."""
    known = np.isfinite(judged.errors)
    order = np.argsort(judged.expected[known], kind="stable")
    errors = judged.errors[known][order].astype(np.float64)
    return np.asarray(np.cumsum(errors) / np.arange(1, len(errors) + 1))


def gain_of_dropping(judged: Judged, share: float = DROPPED) -> float:
    """By how much the mean error falls when this share of the landmarks, the least sure, is left out."""
    risk = risk_coverage(judged)
    return float(1 - risk[max(round((1 - share) * len(risk)), 1) - 1] / risk[-1])


def interval(judged: Judged, measure: Callable[[Judged], float], draws: int = 500, seed: int = 0) -> Interval:
    """95 % bootstrap interval over faces."""
    rng = np.random.default_rng(seed)
    count = len(judged.errors)
    values = [measure(judged.of(rng.integers(0, count, count))) for _ in range(draws)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def draw_reliability(sets: Mapping[str, Judged], path: Path) -> None:
    """Reliability diagram and risk-coverage curve.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, judged in sets.items():
        predicted, observed, share = diagram(judged).T
        there = share > 0
        left.plot(predicted[there], observed[there], marker="o", markersize=4, label=name)
        risk = risk_coverage(judged)
        right.plot(100 * np.arange(1, len(risk) + 1) / len(risk), 100 * risk, label=name)
    left.set(xlabel="predicted chance of being wrong", ylabel="share that is wrong", xlim=(0, 1), ylim=(0, 1))
    right.set(
        xlabel="coverage: the surest landmarks, %", ylabel="their mean error, % of the face", ylim=(0, None)
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path)
