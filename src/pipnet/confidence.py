"""What scores and spreads are worth: calibrated to the chance of an error, and to its expected size.

The peak of a landmark's score map and the disagreement of its neighbors' votes tell how sure a model is of
a landmark, but in units of their own, which differ by model and landmark. A calibration is a logistic
regression of "wrong by more than 5 % of the face" on them, and a linear one of the logarithm of the error,
both with one constant a landmark. A landmark's own score and spread tell most; those around it and those of
the whole face tell whether it is in trouble with others. It is fitted on labeled faces that the model was
not trained on (`pipnet.training.calibrate`) and travels with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

WRONG = 0.05
"""An error above this share of the face counts as wrong; a face is as large as the longer side of the tight
box of its landmarks."""
_LEAST = 1e-4
"""Spreads below this count as this."""
_AROUND = 10
"""How many landmarks are around one: those nearest to it on the mean face, itself among them."""
_COUNTS = (4, 8)
"""How many terms a calibration may have: older ones have the first four alone."""


@dataclass(frozen=True)
class Calibration:
    """Coefficients of both regressions: of the terms (see `terms`), then one constant a landmark."""

    wrong: tuple[float, ...]
    """Of the log odds that a landmark is wrong."""
    error: tuple[float, ...]
    """Of the logarithm of its error as a share of the face."""

    def chance_of_wrong(
        self,
        scores: Float32[np.ndarray, "faces landmarks"],
        vote_std: Float32[np.ndarray, "faces landmarks"],
        mean_face: Float[np.ndarray, "landmarks 2"],
    ) -> Float32[np.ndarray, "faces landmarks"]:
        """Chance that each landmark is off by more than 5 % of the face; ``mean_face`` is the model's."""
        odds = np.exp(-_apply(self.wrong, terms(scores, vote_std, mean_face)))
        return np.asarray(1 / (1 + odds), dtype=np.float32)

    def expected_error(
        self,
        scores: Float32[np.ndarray, "faces landmarks"],
        vote_std: Float32[np.ndarray, "faces landmarks"],
        mean_face: Float[np.ndarray, "landmarks 2"],
    ) -> Float32[np.ndarray, "faces landmarks"]:
        """Expected error of each landmark, as a share of the face."""
        sizes = np.exp(_apply(self.error, terms(scores, vote_std, mean_face)))
        return np.asarray(sizes.clip(0, 1), dtype=np.float32)

    def is_sound(self, landmarks: int) -> bool:
        """Whether it is of this number of landmarks, and finite."""
        both = (self.wrong, self.error)
        return all(len(c) - landmarks in _COUNTS and bool(np.isfinite(c).all()) for c in both)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Calibration:
        """From plain data."""
        return cls(*(tuple(float(v) for v in table[key]) for key in ("wrong", "error")))


def terms(
    scores: Float[np.ndarray, "faces landmarks"],
    vote_std: Float[np.ndarray, "faces landmarks"],
    mean_face: Float[np.ndarray, "landmarks 2"],
) -> Float64[np.ndarray, "terms faces landmarks"]:
    """What the regressions are of.

    Score, logarithm of the spread, its square, score times logarithm; then the mean score and the mean
    logarithm of the landmarks around each; then those of the whole face.
    """
    score = scores.astype(np.float64)
    amount = np.log(np.maximum(vote_std.astype(np.float64), _LEAST))
    around = np.linalg.norm(mean_face[:, None] - mean_face[None], axis=2).argsort(axis=1, kind="stable")
    near = around[:, :_AROUND]
    means = [part[:, near].mean(axis=2) for part in (score, amount)]
    whole = [np.broadcast_to(part.mean(axis=1, keepdims=True), part.shape) for part in (score, amount)]
    return np.stack([score, amount, amount**2, score * amount, *means, *whole])


def _apply(
    coefficients: tuple[float, ...], of_terms: Float64[np.ndarray, "terms f l"]
) -> Float64[np.ndarray, "f l"]:
    count = len(coefficients) - of_terms.shape[2]
    slopes, constants = np.array(coefficients[:count]), np.array(coefficients[count:])
    return np.asarray(np.tensordot(slopes, of_terms[:count], axes=1) + constants)
