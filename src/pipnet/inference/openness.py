"""How far eyes and mouth are open, for blinks, yawns and speech."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

_RIGHT_EYE, _LEFT_EYE, _INNER_LIPS = range(36, 42), range(42, 48), range(60, 68)
"""Landmarks of 300-W's 68; each ring starts at a corner, then its upper side, the other corner, its lower
side."""


class Openness(NamedTuple):
    """How far the eyes and the mouth of each face are open. Left and right are the person's."""

    left_eye: Float32[np.ndarray, " faces"]
    """Height over width of the eye (the eye aspect ratio, EAR), about 0.3 for open eyes. It differs by person
    and head pose, and closed eyes do not reach 0: compare it with the median of the same person, see
    ``examples/blink_counter.py``."""
    right_eye: Float32[np.ndarray, " faces"]
    """The same of the right eye."""
    mouth: Float32[np.ndarray, " faces"]
    """Height over width of the opening between the lips (the mouth aspect ratio, MAR): 0 closed."""
    left_eye_confidence: Float32[np.ndarray, " faces"]
    """Mean `confidence` of the eye's landmarks; NaN if the model is not calibrated."""
    right_eye_confidence: Float32[np.ndarray, " faces"]
    """The same of the right eye."""
    mouth_confidence: Float32[np.ndarray, " faces"]
    """The same of the inner lips."""


def openness(
    points: Float32[np.ndarray, "faces 68 2"], confidence: Float32[np.ndarray, "faces 68"]
) -> Openness:
    """Return how far eyes and mouth are open, from 300-W's 68 landmarks."""
    rings = (_LEFT_EYE, _RIGHT_EYE, _INNER_LIPS)
    return Openness(
        *(_aspect_ratio(points[:, ring]) for ring in rings),
        *(confidence[:, ring].mean(axis=1) for ring in rings),
    )


def _aspect_ratio(ring: Float[np.ndarray, "faces n 2"]) -> Float32[np.ndarray, " faces"]:
    """Return mean height over width of rings that start at a corner (Soukupova and Cech, CVWW 2016)."""
    half = ring.shape[1] // 2
    upper, lower = ring[:, 1:half], ring[:, :half:-1]
    height = np.linalg.norm(upper - lower, axis=2).mean(axis=1)
    width = np.linalg.norm(ring[:, half] - ring[:, 0], axis=1)
    return np.asarray(height / np.maximum(width, np.finfo(np.float32).tiny), dtype=np.float32)
