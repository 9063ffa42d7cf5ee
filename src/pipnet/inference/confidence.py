"""What scores and spreads are worth: calibrated to the chance of an error, and to its expected size.

The peak of a landmark's score map and the disagreement of its neighbours' votes tell how sure a model is of
a landmark, but in units of their own, which differ by model and landmark. A calibration is a logistic
regression of "wrong by more than 5 % of the face" on them, and a linear one of the logarithm of the error,
both with one constant a landmark. It is fitted on labelled faces that the model was not trained on
(`pipnet.training.calibration`) and travels with the weights.
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
        spread: Float32[np.ndarray, "faces landmarks"],
    ) -> Float32[np.ndarray, "faces landmarks"]:
        """Chance that each landmark is off by more than 5 % of the face."""
        odds = np.exp(-_apply(self.wrong, scores, spread))
        return np.asarray(1 / (1 + odds), dtype=np.float32)

    def expected_error(
        self,
        scores: Float32[np.ndarray, "faces landmarks"],
        spread: Float32[np.ndarray, "faces landmarks"],
    ) -> Float32[np.ndarray, "faces landmarks"]:
        """Expected error of each landmark, as a share of the face."""
        return np.asarray(np.exp(_apply(self.error, scores, spread)).clip(0, 1), dtype=np.float32)

    def is_sound(self, landmarks: int) -> bool:
        """Whether it is one of so many landmarks, and finite."""
        count = len(terms(np.zeros(1), np.zeros(1))) + landmarks
        return all(len(c) == count and bool(np.isfinite(c).all()) for c in (self.wrong, self.error))

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Calibration:
        """From plain data."""
        return cls(*(tuple(float(v) for v in table[key]) for key in ("wrong", "error")))


def terms(
    scores: Float[np.ndarray, "*shape"], spread: Float[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "terms *shape"]:
    """What the regressions are of: score, logarithm of the spread, its square, and both together."""
    amount = np.log(np.maximum(spread.astype(np.float64), _LEAST))
    score = scores.astype(np.float64)
    return np.stack([score, amount, amount**2, score * amount])


def _apply(
    coefficients: tuple[float, ...], scores: Float32[np.ndarray, "f l"], spread: Float32[np.ndarray, "f l"]
) -> Float64[np.ndarray, "f l"]:
    of_terms = terms(scores, spread)
    slopes = np.array(coefficients[: len(of_terms)])
    constants = np.array(coefficients[len(of_terms) :])
    return np.asarray(np.tensordot(slopes, of_terms, axes=1) + constants)
