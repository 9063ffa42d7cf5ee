"""Steady landmarks: the One-Euro filter (Casiez, Roussel, Vogel, CHI 2012), on a face's pose and shape apart.

The filter is a low pass whose cut-off frequency rises with speed: what stands still is held still, what moves
is followed. A head moves as a whole, and all landmarks together tell well how (their errors average out), so
its pose is hardly smoothed and does not lag. What remains, the shape within the face, moves little and is
smoothed more. Speeds are in face sizes a second, so that settings hold for faces of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64

from pipnet.errors import PipnetError
from pipnet.geometry import affine, similarity


@dataclass(frozen=True)
class OneEuro:
    """Settings of one filter."""

    cutoff: float
    """Cut-off frequency of what stands still, in Hz: lower is steadier and slower to follow."""
    beta: float
    """How much the cut-off frequency rises for each face size a second of speed."""
    speed_cutoff: float = 3.0
    """Cut-off frequency of the measured speed itself, in Hz."""

    def __post_init__(self) -> None:
        if not (self.cutoff > 0 and self.beta >= 0 and self.speed_cutoff > 0):
            raise PipnetError("smoothing needs cut-off frequencies above 0 and a beta of at least 0")


@dataclass(frozen=True)
class Smoothing:
    """Settings for a face."""

    pose: OneEuro = OneEuro(1.0, 8.0)
    """Of where the face is, how large and how turned in the picture."""
    shape: OneEuro = OneEuro(1.0, 10.0)
    """Of the landmarks within the face."""


class OneEuroFilter:
    """The filter of some points, all at once."""

    def __init__(self, settings: OneEuro) -> None:
        self.settings = settings
        self._time = 0.0
        self._points: Float64[np.ndarray, "points 2"] | None = None
        self._speed: Float64[np.ndarray, "points 2"] | None = None

    def __call__(
        self, points: Float[np.ndarray, "points 2"], time: float, size: float
    ) -> Float64[np.ndarray, "points 2"]:
        """The next points, smoothed.

        Args:
            points: in any unit.
            time: seconds; later than the last.
            size: of the face in that unit, to measure speeds in.
        """
        if self._points is None or self._speed is None:
            self._time, self._points, self._speed = time, points.astype(np.float64), np.zeros(points.shape)
            return self._points.copy()
        step, settings = time - self._time, self.settings
        speed = (points - self._points) / (step * size)
        self._speed += _weight(np.asarray(settings.speed_cutoff), step) * (speed - self._speed)
        # One cut-off a point, from the length of its velocity: x and y are not told apart.
        cutoff = settings.cutoff + settings.beta * np.linalg.norm(self._speed, axis=1, keepdims=True)
        self._points += _weight(cutoff, step) * (points - self._points)
        self._time = time
        return self._points.copy()


class FaceSmoother:
    """The filters of one face."""

    def __init__(self, settings: Smoothing, mean_face: Float[np.ndarray, "landmarks 2"]) -> None:
        """Start with nothing.

        Args:
            settings: of both filters.
            mean_face: the model's; poses are similarities from it. Its own size and place do not matter.
        """
        self._pose, self._shape = OneEuroFilter(settings.pose), OneEuroFilter(settings.shape)
        centred = mean_face - mean_face.mean(axis=0)
        self._mean = centred / np.ptp(centred, axis=0).max()
        self._time: float | None = None
        self._last: Float32[np.ndarray, "landmarks 2"] | None = None

    def __call__(
        self, points: Float32[np.ndarray, "landmarks 2"], time: float
    ) -> Float32[np.ndarray, "landmarks 2"]:
        """The next frame's landmarks, smoothed.

        Args:
            points: in pixels of the picture.
            time: seconds; a frame that is no later than the last one changes nothing.
        """
        if self._last is not None and self._time is not None and time <= self._time:
            return self._last
        self._time = time
        pose = similarity(self._mean, points)
        size = max(float(np.sqrt(abs(np.linalg.det(pose[:, :2])))), 1e-6)
        steady = similarity(_ENDS, self._pose(affine(_ENDS, pose), time, size))
        back = np.asarray(cv2.invertAffineTransform(pose), dtype=np.float64)
        shape = self._shape(affine(points, back), time, 1.0)
        self._last = affine(shape, steady).astype(np.float32)
        return self._last


_ENDS = np.array([[-0.5, 0.0], [0.5, 0.0]])
"""Two points of the mean face, from ear to ear, that stand for its pose."""


def _weight(cutoff: Float64[np.ndarray, "..."], step: float) -> Float64[np.ndarray, "..."]:
    """How much of the way to the new value is gone in a step of so many seconds."""
    ratio = 2 * np.pi * cutoff * step
    return np.asarray(ratio / (ratio + 1))
