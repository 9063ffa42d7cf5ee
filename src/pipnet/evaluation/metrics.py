"""NME, failure rate, AUC. Errors are fractions here and percent in reports."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from pipnet.geometry import Box, tight_box
from pipnet.scheme import LandmarkScheme

THRESHOLD = 0.10
"""Faces above it count as failures; the upper end of the AUC."""
_STEPS = 1001


def norm_distance(
    points: Float[np.ndarray, "landmarks 2"], scheme: LandmarkScheme, box: Box | None = None
) -> float:
    """The unit of a face's NME, in the frame of its points.

    Either the distance of the scheme's two norm landmarks, or of the face box (the tight box of the points
    where the collection gives none) the side of a square with its area, ``"box"``, or its ``"diagonal"``; or
    the ``"longer_side"`` of the tight box of the known points, whatever box the collection gives.
    """
    if isinstance(scheme.norm, str):
        if box is None or scheme.norm == "longer_side":
            box = tight_box(points)
        x0, y0, x1, y1 = box.tolist()
        if scheme.norm == "longer_side":
            return float(max(x1 - x0, y1 - y0))
        diagonal = scheme.norm == "diagonal"
        return float(np.hypot(x1 - x0, y1 - y0) if diagonal else np.sqrt((x1 - x0) * (y1 - y0)))
    a, b = scheme.norm
    return float(np.linalg.norm(points[a] - points[b]))


def point_errors(
    predicted: Float[np.ndarray, "landmarks 2"],
    true: Float[np.ndarray, "landmarks 2"],
    norm: float,
) -> Float64[np.ndarray, " landmarks"]:
    """Distance of each predicted point from its true place, in units of the norm; NaN where unknown."""
    distance = np.linalg.norm(predicted.astype(np.float64) - true.astype(np.float64), axis=1)
    return np.asarray(distance / norm)


def failure_rate(nmes: Float[np.ndarray, " faces"], threshold: float = THRESHOLD) -> float:
    """Share of the faces with an NME above the threshold."""
    return float((nmes > threshold).mean())


def cumulative_errors(
    nmes: Float[np.ndarray, " faces"], threshold: float = THRESHOLD
) -> tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]:
    """The CED curve: 1,001 errors from 0 to the threshold, and the share of faces at or below each."""
    errors = np.linspace(0, threshold, _STEPS)
    shares = np.searchsorted(np.sort(nmes), errors, side="right") / len(nmes)
    return errors, shares


def area_under_curve(nmes: Float[np.ndarray, " faces"], threshold: float = THRESHOLD) -> float:
    """Area under the CED curve up to the threshold, as a share of the best possible; Simpson's rule."""
    _, shares = cumulative_errors(nmes, threshold)
    weights = np.full(_STEPS, 2.0)
    weights[1::2] = 4
    weights[[0, -1]] = 1
    return float((weights * shares).sum() / (3 * (_STEPS - 1)))


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def bootstrap_mean(values: Float[np.ndarray, " faces"], draws: int = 2000, seed: int = 0) -> Interval:
    """95 % bootstrap interval of the mean over faces."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))


def paired_gain(
    before: Float[np.ndarray, " faces"], after: Float[np.ndarray, " faces"], draws: int = 4000, seed: int = 0
) -> tuple[float, Interval]:
    """How much lower the mean is after than before, in percent of the one before.

    Args:
        before: an error of each face.
        after: another error of the same faces.
        draws: bootstrap samples of the faces, the same of both.
        seed: of the draws.

    Returns:
        The gain, and its 95 % bootstrap interval.
    """
    rng = np.random.default_rng(seed)
    picks = (rng.integers(0, len(before), len(before)) for _ in range(draws))
    low, high = np.percentile([100 * (1 - after[p].mean() / before[p].mean()) for p in picks], [2.5, 97.5])
    return float(100 * (1 - after.mean() / before.mean())), Interval(float(low), float(high))
