"""Steady landmarks of a camera, which must be given at once: pose and shape are smoothed apart.

A head moves as a whole, and goes on as it moved: its pose is predicted from its speed and corrected by what
is found, an alpha-beta filter. How much it is corrected depends on the mean of the last errors of the
prediction (Trigg and Leach, 1967): noise, and cameras that show a frame twice, err to and fro, which averages
out; a head that speeds up or stops errs in one direction for some frames and is soon followed. So there is
hardly any lag.

What remains, the shape within the face, moves little, and comes back: the One-Euro filter (Casiez, Roussel,
Vogel, CHI 2012), a low pass whose cut-off frequency rises with speed. Errors and speeds are in face sizes, so
that settings hold for faces of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64

from pipnet.errors import PipnetError
from pipnet.geometry import affine, similarity


@dataclass(frozen=True)
class AlphaBetaConfig:
    """Settings of the filter of the pose. Shares are those of a 25th of a second."""

    rest: float = 0.25
    """Share of an error that is corrected where nothing surprises: lower is steadier."""
    surprise: float = 0.04
    """Mean error at which half of what is left is corrected too, in face sizes."""
    memory: float = 0.3
    """Share that the newest error has in that mean."""
    farthest: float = 0.04
    """The smoothed pose is never farther from the one found than this, in face sizes."""

    def __post_init__(self) -> None:
        if not (0 < self.rest <= 1 and 0 < self.memory <= 1 and self.surprise > 0 and self.farthest >= 0):
            raise PipnetError(
                "smoothing needs shares in (0, 1], a surprise above 0, a farthest of at least 0"
            )


@dataclass(frozen=True)
class OneEuroConfig:
    """Settings of the filter of the shape."""

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
class CausalSmoother:
    """Settings for a face."""

    pose: AlphaBetaConfig = AlphaBetaConfig()
    """Of where the face is, how large and how turned in the picture."""
    shape: OneEuroConfig = OneEuroConfig(0.5, 5.0)
    """Of the landmarks within the face."""


class AlphaBetaFilter:
    """An alpha-beta filter of some points that move together."""

    def __init__(self, settings: AlphaBetaConfig) -> None:
        self.settings = settings
        self._time = 0.0
        self._points: Float64[np.ndarray, "points 2"] | None = None
        self._speed = self._error = np.zeros((0, 2))
        self._swing = 0.0

    def __call__(
        self, points: Float[np.ndarray, "points 2"], time: float, size: float
    ) -> Float64[np.ndarray, "points 2"]:
        """The next points, smoothed.

        Args:
            points: in any unit.
            time: seconds; later than the last.
            size: of the face in that unit, to measure errors in.
        """
        if self._points is None:
            self._time, self._points = time, points.astype(np.float64)
            self._speed = self._error = np.zeros(points.shape)
            return self._points.copy()
        step, settings = time - self._time, self.settings
        expected = self._points + self._speed * step
        error = points - expected
        memory, rest = _share(settings.memory, step), _share(settings.rest, step)
        self._error = self._error + memory * (error - self._error)
        self._swing += memory * (_length(error) - self._swing)
        surprise = (_length(self._error) + _TO_AND_FRO * self._swing) / (size * settings.surprise)
        alpha = rest + (1 - rest) / (1 + max(surprise, 1e-6) ** -_STEEP)
        self._speed = self._speed + _DAMPING * alpha**2 / (2 - alpha) * error / step
        behind = (1 - alpha) * error
        self._points = points - behind * min(1.0, settings.farthest * size / max(_length(behind), 1e-9))
        self._time = time
        return self._points.copy()


class OneEuroFilter:
    """The filter of some points, all at once."""

    def __init__(self, settings: OneEuroConfig) -> None:
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

    def __init__(self, settings: CausalSmoother, mean_face: Float[np.ndarray, "landmarks 2"]) -> None:
        """Start with nothing.

        Args:
            settings: of both filters.
            mean_face: the model's; poses are similarities from it. Its own size and place do not matter.
        """
        self._pose, self._shape = AlphaBetaFilter(settings.pose), OneEuroFilter(settings.shape)
        centerd = mean_face - mean_face.mean(axis=0)
        self._mean = centerd / np.ptp(centerd, axis=0).max()
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
_STEEP = 3
"""How suddenly surprise takes over."""
_TO_AND_FRO = 0.4
"""What errors that average out count all the same: without it the filter's own swinging would go unseen."""
_DAMPING = 1.4
"""Gain of the speed, over the one that just does not swing (Benedict and Bordner, 1962)."""


def _length(moves: Float64[np.ndarray, "points 2"]) -> float:
    """How far points move on the mean."""
    return float(np.linalg.norm(moves, axis=1).mean())


def _share(of_a_25th: float, step: float) -> float:
    """The share of a step of so many seconds."""
    return 1 - float((1 - of_a_25th) ** (25 * step))


def _weight(cutoff: Float64[np.ndarray, "..."], step: float) -> Float64[np.ndarray, "..."]:
    """How much of the way to the new value is gone in a step of so many seconds."""
    ratio = 2 * np.pi * cutoff * step
    return np.asarray(ratio / (ratio + 1))
