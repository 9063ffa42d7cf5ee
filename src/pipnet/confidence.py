"""Confidence: the calibrated probability that a landmark is right, and its expected error.

The score of a landmark (the peak of its score map) and the standard deviation of its neighbors' votes tell
how sure a model is of it, but their units differ by model and landmark. A calibration is two regressions on
both quantities, with one constant a landmark: a logistic regression of "off by more than 5 % of the face",
and a linear regression of the logarithm of the error. A landmark's own values count most; those of the
landmarks around it and of the whole face tell whether others fail with it. The calibration is fitted on
labeled faces that the model was not trained on (`pipnet.training.calibrate`) and stored with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

MAX_ERROR = 0.05
"""An error above this fraction of the face counts as wrong. The face's size is the longer side of the tight
box of its landmarks."""
LOW_QUALITY = 0.25
"""Faces with a lower mean confidence (`FaceLandmarks.quality`) count as low quality: their landmarks should
not be relied on."""
_MIN_STD = 1e-4
_NEAREST = 10
"""Number of landmarks around one: the nearest on the mean face, itself included."""
_FEATURE_COUNTS = (4, 8)
"""Numbers of features that a calibration may have; those of early models have only the first four."""


class ErrorEstimate(NamedTuple):
    """What a calibration says about the errors of some landmarks."""

    probability: Float32[np.ndarray, "faces landmarks"]
    """Probability that each landmark is off by more than `MAX_ERROR`."""
    expected: Float32[np.ndarray, "faces landmarks"]
    """Expected error, as a fraction of the face."""


@dataclass(frozen=True)
class Calibration:
    """Coefficients of both regressions: those of the `features`, then one constant a landmark."""

    wrong: tuple[float, ...]
    """Coefficients of the log odds that a landmark is wrong."""
    error: tuple[float, ...]
    """Coefficients of the logarithm of its error as a fraction of the face."""

    def estimate(
        self,
        scores: Float32[np.ndarray, "faces landmarks"],
        vote_std: Float32[np.ndarray, "faces landmarks"],
        mean_face: Float[np.ndarray, "landmarks 2"],
    ) -> ErrorEstimate:
        """Return both estimates of the error of each landmark, by the model's mean face."""
        inputs = features(scores, vote_std, mean_face)
        probability = 1 / (1 + np.exp(-_linear(self.wrong, inputs)))
        expected = np.exp(_linear(self.error, inputs)).clip(0, 1)
        return ErrorEstimate(probability.astype(np.float32), expected.astype(np.float32))

    def is_valid(self, landmarks: int) -> bool:
        """Whether the calibration is for this number of landmarks, and finite."""
        return all(
            len(coefficients) - landmarks in _FEATURE_COUNTS and bool(np.isfinite(coefficients).all())
            for coefficients in (self.wrong, self.error)
        )

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Calibration:
        """Return the calibration from plain data."""
        return cls(*(tuple(float(v) for v in table[key]) for key in ("wrong", "error")))


def features(
    scores: Float[np.ndarray, "faces landmarks"],
    vote_std: Float[np.ndarray, "faces landmarks"],
    mean_face: Float[np.ndarray, "landmarks 2"],
) -> Float64[np.ndarray, "features faces landmarks"]:
    """Return the features of the regressions.

    They are the score, the logarithm of ``vote_std``, its square, and the product of score and logarithm;
    then the mean score and mean logarithm of the landmarks around each one; then those of the whole face.
    """
    score = scores.astype(np.float64)
    log_std = np.log(np.maximum(vote_std.astype(np.float64), _MIN_STD))
    nearest = _nearest(mean_face)
    local = [part[:, nearest].mean(axis=2) for part in (score, log_std)]
    of_face = [np.broadcast_to(part.mean(axis=1, keepdims=True), part.shape) for part in (score, log_std)]
    return np.stack([score, log_std, log_std**2, score * log_std, *local, *of_face])


def _nearest(mean_face: Float[np.ndarray, "landmarks 2"]) -> Int64[np.ndarray, "landmarks nearest"]:
    """Return the indices of the landmarks around each one; in parts, because dense meshes take memory."""
    parts = np.array_split(mean_face, -(-len(mean_face) // 256))
    distances = (np.linalg.norm(part[:, None] - mean_face[None], axis=2) for part in parts)
    return np.concatenate([d.argsort(axis=1, kind="stable")[:, :_NEAREST] for d in distances])


def _linear(
    coefficients: tuple[float, ...], inputs: Float64[np.ndarray, "features f l"]
) -> Float64[np.ndarray, "f l"]:
    count = len(coefficients) - inputs.shape[2]
    slopes, constants = np.array(coefficients[:count]), np.array(coefficients[count:])
    # The limits change no result as float32, and keep exponentials finite.
    return np.asarray(np.tensordot(slopes, inputs[:count], axes=1) + constants).clip(-500, 500)
