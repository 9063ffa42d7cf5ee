"""Confidence: calibrated chance that a landmark is right, and its expected error.

The peak of a landmark's score map and the spread of its neighbors' votes tell how sure a model is of a
landmark, in units that differ by model and landmark. A calibration is a logistic regression of "off by more
than 5 % of the face" on both, and a linear regression of the logarithm of the error, with one constant a
landmark. A landmark's own score and spread tell most; those around it and those of the whole face tell
whether others fail with it. It is fitted on labeled faces that the model was not trained on
(`pipnet.training.calibrate`) and travels with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

MAX_ERROR = 0.05
"""An error above this fraction of the face counts as wrong. The face's size is the longer side of the tight
box of its landmarks."""
_MIN_STD = 1e-4
_NEAREST = 10
"""Landmarks around one: the nearest on the mean face, itself among them."""
_FEATURE_COUNTS = (4, 8)
"""Features that a calibration may have; those of early models have the first four alone."""


@dataclass(frozen=True)
class Calibration:
    """Coefficients of both regressions: of the `features`, then one constant a landmark."""

    wrong: tuple[float, ...]
    """Of the log odds that a landmark is wrong."""
    error: tuple[float, ...]
    """Of the logarithm of its error as a fraction of the face."""

    def error_probability(
        self,
        scores: Float32[np.ndarray, "faces landmarks"],
        vote_std: Float32[np.ndarray, "faces landmarks"],
        mean_face: Float[np.ndarray, "landmarks 2"],
    ) -> Float32[np.ndarray, "faces landmarks"]:
        """Return the chance that each landmark is off by more than `MAX_ERROR`, by the model's mean face."""
        odds = np.exp(-_linear(self.wrong, features(scores, vote_std, mean_face)))
        return np.asarray(1 / (1 + odds), dtype=np.float32)

    def expected_error(
        self,
        scores: Float32[np.ndarray, "faces landmarks"],
        vote_std: Float32[np.ndarray, "faces landmarks"],
        mean_face: Float[np.ndarray, "landmarks 2"],
    ) -> Float32[np.ndarray, "faces landmarks"]:
        """Return the expected error of each landmark, as a fraction of the face."""
        errors = np.exp(_linear(self.error, features(scores, vote_std, mean_face)))
        return np.asarray(errors.clip(0, 1), dtype=np.float32)

    def is_valid(self, landmarks: int) -> bool:
        """Whether the calibration is of this number of landmarks, and finite."""
        return all(
            len(coefficients) - landmarks in _FEATURE_COUNTS and bool(np.isfinite(coefficients).all())
            for coefficients in (self.wrong, self.error)
        )

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Calibration:
        """Return the calibration of plain data."""
        return cls(*(tuple(float(v) for v in table[key]) for key in ("wrong", "error")))


def features(
    scores: Float[np.ndarray, "faces landmarks"],
    vote_std: Float[np.ndarray, "faces landmarks"],
    mean_face: Float[np.ndarray, "landmarks 2"],
) -> Float64[np.ndarray, "features faces landmarks"]:
    """Return the features of the regressions.

    They are the score, the logarithm of ``vote_std``, its square, score times logarithm; then the mean score
    and the mean logarithm of the landmarks around each; then those of the whole face.
    """
    score = scores.astype(np.float64)
    log_std = np.log(np.maximum(vote_std.astype(np.float64), _MIN_STD))
    nearest = np.linalg.norm(mean_face[:, None] - mean_face[None], axis=2).argsort(axis=1, kind="stable")
    nearest = nearest[:, :_NEAREST]
    local = [part[:, nearest].mean(axis=2) for part in (score, log_std)]
    of_face = [np.broadcast_to(part.mean(axis=1, keepdims=True), part.shape) for part in (score, log_std)]
    return np.stack([score, log_std, log_std**2, score * log_std, *local, *of_face])


def _linear(
    coefficients: tuple[float, ...], inputs: Float64[np.ndarray, "features f l"]
) -> Float64[np.ndarray, "f l"]:
    count = len(coefficients) - inputs.shape[2]
    slopes, constants = np.array(coefficients[:count]), np.array(coefficients[count:])
    return np.asarray(np.tensordot(slopes, inputs[:count], axes=1) + constants)
