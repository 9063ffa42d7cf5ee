"""Normalized mean error (NME), failure rate, cumulative error distribution (CED), area under curve (AUC).

Errors are fractions of the norm here, and percent in reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64

from pipnet.geometry import Box, tight_box
from pipnet.scheme import LandmarkScheme

THRESHOLD = 0.10
"""Faces with a larger NME count as failures. It is also the upper end of the AUC."""
_STEPS = 1001


def norm_distance(
    points: Float[np.ndarray, "landmarks 2"], scheme: LandmarkScheme, box: Box | None = None
) -> float:
    """Return the length that a face's errors are divided by, in the frame of its points.

    Args:
        points: the true landmarks; NaN where unknown.
        scheme: its ``norm`` is either a pair of landmarks, whose distance is returned, or a name: ``"box"``,
            the side of a square with the area of the face box; ``"diagonal"``, that of the face box;
            ``"longer_side"``, that of the tight box of the known points.
        box: the face box of the dataset, in the same frame; None: the tight box of the points.
    """
    if isinstance(scheme.norm, str):
        if box is None or scheme.norm == "longer_side":
            box = tight_box(points)
        x0, y0, x1, y1 = box.tolist()
        width, height = x1 - x0, y1 - y0
        if scheme.norm == "longer_side":
            return float(max(width, height))
        return float(np.hypot(width, height) if scheme.norm == "diagonal" else np.sqrt(width * height))
    a, b = scheme.norm
    return float(np.linalg.norm(points[a] - points[b]))


def point_errors(
    predicted: Float[np.ndarray, "landmarks 2"],
    true: Float[np.ndarray, "landmarks 2"],
    norm: float,
) -> Float64[np.ndarray, " landmarks"]:
    """Return the distance of each predicted from the true point, over the norm; NaN where it is unknown."""
    distance = np.linalg.norm(predicted.astype(np.float64) - true.astype(np.float64), axis=1)
    return np.asarray(distance / norm)


def failure_rate(nmes: Float[np.ndarray, " faces"]) -> float:
    """Return the share of the faces with an NME above `THRESHOLD`."""
    return float((nmes > THRESHOLD).mean())


def cumulative_errors(
    nmes: Float[np.ndarray, " faces"],
) -> tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]:
    """Return the CED curve: 1,001 errors from 0 to `THRESHOLD`, and the share of faces at or below each."""
    errors = np.linspace(0, THRESHOLD, _STEPS)
    shares = np.searchsorted(np.sort(nmes), errors, side="right") / len(nmes)
    return errors, shares


def area_under_curve(nmes: Float[np.ndarray, " faces"]) -> float:
    """Return the area under the CED curve, 1 for a perfect model, by Simpson's rule."""
    _, shares = cumulative_errors(nmes)
    weights = np.full(_STEPS, 2.0)
    weights[1::2] = 4
    weights[[0, -1]] = 1
    return float((weights * shares).sum() / (3 * (_STEPS - 1)))


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def bootstrap(measure: Callable[[Int64[np.ndarray, " faces"]], float], faces: int, draws: int) -> Interval:
    """Return the 95 % bootstrap interval of a quantity over faces.

    Args:
        measure: returns the quantity for the faces at the given indices, which may repeat. Draws for which
            it is undefined (NaN) do not count.
        faces: the number of faces.
        draws: the number of bootstrap samples.
    """
    rng = np.random.default_rng(0)
    values = [measure(rng.integers(0, faces, faces)) for _ in range(draws)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def bootstrap_mean(values: Float[np.ndarray, " faces"]) -> Interval:
    """Return the 95 % bootstrap interval of the mean over faces."""
    return bootstrap(lambda faces: float(values[faces].mean()), len(values), 2000)


def paired_gain(
    before: Float[np.ndarray, " faces"], after: Float[np.ndarray, " faces"]
) -> tuple[float, Interval]:
    """Return by how many percent the mean is lower after than before, and the 95 % bootstrap interval.

    Args:
        before: an error of each face.
        after: another error of the same faces. Each bootstrap sample takes the same faces of both.
    """

    def gain(faces: Int64[np.ndarray, " faces"] | slice) -> float:
        return float(100 * (1 - after[faces].mean() / before[faces].mean()))

    return gain(slice(None)), bootstrap(gain, len(before), 4000)
