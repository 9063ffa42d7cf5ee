"""Smoothing of landmarks with earlier frames only, as for a camera. Pose and shape are smoothed separately.

A head moves as a rigid body with inertia. Its pose is predicted from its velocity and corrected by the
measured pose: an alpha-beta filter. The gain of the correction depends on the mean of the recent prediction
errors (Trigg and Leach, 1967). Noise, and cameras that repeat frames, cause errors of alternating direction,
which average out. A head that accelerates or stops causes errors in one direction, and the filter follows
within a few frames. Therefore there is hardly any lag.

The remaining movement, of the shape within the face, is small. It is smoothed by the One-Euro filter (Casiez,
Roussel, Vogel, CHI 2012), a low-pass filter with a cutoff frequency that rises with velocity. Errors and
velocities are in face sizes, so that the settings apply to faces of any size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from pipnet.errors import PipnetError
from pipnet.geometry import affine, invert, similarity

_Points = Float64[np.ndarray, "points 2"]
_POSE_POINTS = np.array([[-0.5, 0.0], [0.5, 0.0]])
"""Two points of the mean face, ear to ear, that represent its pose."""
_STEEPNESS = 3
"""Steepness of the transition from `AlphaBetaConfig.min_gain` to full correction."""
_ABSOLUTE_ERROR_WEIGHT = 0.4
"""Weight of the mean absolute error, besides the mean error: errors of alternating direction that the filter
itself causes would cancel out in the latter."""
_VELOCITY_GAIN = 1.4
"""Gain of the velocity, relative to critical damping (Benedict and Bordner, 1962)."""


@dataclass(frozen=True)
class AlphaBetaConfig:
    """Settings of the filter of the pose. Gains are for a time step of 1/25 second."""

    min_gain: float = 0.25
    """Fraction of a small error that is corrected: lower values smooth more."""
    error_scale: float = 0.02
    """Mean error at which half of the remaining fraction is corrected too, in face sizes."""
    error_gain: float = 0.5
    """Weight of the latest error in the mean error."""
    max_shift: float = 0.02
    """Maximum shift of the smoothed pose from the measured one, in face sizes."""

    def __post_init__(self) -> None:
        gains_in_range = 0 < self.min_gain <= 1 and 0 < self.error_gain <= 1
        if not (gains_in_range and self.error_scale > 0 and self.max_shift >= 0):
            raise PipnetError(
                "AlphaBetaConfig needs gains in (0, 1], an error_scale above 0, and a max_shift of at least 0"
            )


@dataclass(frozen=True)
class OneEuroConfig:
    """Settings of the filter of the shape."""

    cutoff: float = 0.5
    """Cutoff frequency at rest, in Hz: lower values smooth more and follow more slowly."""
    beta: float = 5.0
    """Increase of the cutoff frequency for each face size a second of velocity."""
    velocity_cutoff: float = 3.0
    """Cutoff frequency of the filter of the measured velocity, in Hz."""

    def __post_init__(self) -> None:
        if not (self.cutoff > 0 and self.beta >= 0 and self.velocity_cutoff > 0):
            raise PipnetError("OneEuroConfig needs cutoff frequencies above 0 and a beta of at least 0")


class _Filter(ABC):
    """A recursive filter of points; it returns the first points as they are."""

    def __init__(self) -> None:
        self._time = 0.0
        self._points: _Points | None = None
        self._velocity = np.zeros((1, 2))

    def __call__(self, points: _Points, time: float, size: float) -> _Points:
        """Return the next points, smoothed.

        Args:
            points: measured points, in any unit.
            time: seconds; later than the last.
            size: size of the face in the same unit, for errors and velocities.
        """
        last = self._points
        self._points = points if last is None else self._update(last, points, time - self._time, size)
        self._time = time
        return self._points.copy()

    @abstractmethod
    def _update(self, last: _Points, points: _Points, step: float, size: float) -> _Points:
        """Return the smoothed points a time step in seconds after the last ones."""


class AlphaBetaFilter(_Filter):
    """An alpha-beta filter with adaptive gain, for points that move together."""

    def __init__(self, config: AlphaBetaConfig) -> None:
        super().__init__()
        self.config = config
        self._mean_error = np.zeros((1, 2))
        self._mean_absolute_error = 0.0

    def _update(self, last: _Points, points: _Points, step: float, size: float) -> _Points:
        config = self.config
        error = points - (last + self._velocity * step)
        error_gain, min_gain = _gain(config.error_gain, step), _gain(config.min_gain, step)
        self._mean_error = self._mean_error + error_gain * (error - self._mean_error)
        self._mean_absolute_error += error_gain * (_mean_length(error) - self._mean_absolute_error)
        total_error = _mean_length(self._mean_error) + _ABSOLUTE_ERROR_WEIGHT * self._mean_absolute_error
        relative_error = total_error / (size * config.error_scale)
        alpha = min_gain + (1 - min_gain) / (1 + max(relative_error, 1e-6) ** -_STEEPNESS)
        self._velocity = self._velocity + _VELOCITY_GAIN * alpha**2 / (2 - alpha) * error / step
        shift = (1 - alpha) * error
        return points - shift * min(1.0, config.max_shift * size / max(_mean_length(shift), 1e-9))


class OneEuroFilter(_Filter):
    """The One-Euro filter, for several points."""

    def __init__(self, config: OneEuroConfig) -> None:
        super().__init__()
        self.config = config

    def _update(self, last: _Points, points: _Points, step: float, size: float) -> _Points:
        config = self.config
        velocity = (points - last) / (step * size)
        gain = _low_pass_gain(np.asarray(config.velocity_cutoff), step)
        self._velocity = self._velocity + gain * (velocity - self._velocity)
        # One cutoff frequency a point, from the magnitude of its velocity, for x and y alike.
        cutoff = config.cutoff + config.beta * np.linalg.norm(self._velocity, axis=1, keepdims=True)
        return np.asarray(last + _low_pass_gain(cutoff, step) * (points - last))


class CausalSmoother:
    """Smooths the landmarks of one face with those of earlier frames."""

    def __init__(
        self,
        mean_face: Float[np.ndarray, "landmarks 2"],
        pose: AlphaBetaConfig = AlphaBetaConfig(),
        shape: OneEuroConfig = OneEuroConfig(),
    ) -> None:
        """Start without landmarks.

        Args:
            mean_face: the model's mean face, at any size and position; poses are similarities from it.
            pose: settings of the filter of the position, size and rotation of the face in the image.
            shape: settings of the filter of the landmarks within the face.
        """
        self._pose, self._shape = AlphaBetaFilter(pose), OneEuroFilter(shape)
        centered = mean_face - mean_face.mean(axis=0)
        self._mean_face = centered / np.ptp(centered, axis=0).max()
        self._time = -np.inf
        self._last: Float32[np.ndarray, "landmarks 2"] | None = None

    def __call__(
        self, points: Float32[np.ndarray, "landmarks 2"], time: float
    ) -> Float32[np.ndarray, "landmarks 2"]:
        """Return the next frame's landmarks, smoothed.

        Args:
            points: predicted landmarks, in pixels.
            time: seconds. If it is not later than the last one, the last result is returned.
        """
        if self._last is not None and time <= self._time:
            return self._last
        self._time = time
        pose = similarity(self._mean_face, points)
        size = max(float(np.sqrt(abs(np.linalg.det(pose[:, :2])))), 1e-6)
        smooth_pose = similarity(_POSE_POINTS, self._pose(affine(_POSE_POINTS, pose), time, size))
        shape = self._shape(affine(points, invert(pose)), time, 1.0)
        self._last = affine(shape, smooth_pose).astype(np.float32)
        return self._last


def _mean_length(vectors: _Points) -> float:
    return float(np.linalg.norm(vectors, axis=1).mean())


def _gain(gain: float, step: float) -> float:
    """Return the gain for a time step in seconds from that for 1/25 second."""
    return 1 - float((1 - gain) ** (25 * step))


def _low_pass_gain(cutoff: Float64[np.ndarray, "..."], step: float) -> Float64[np.ndarray, "..."]:
    """Return the gain of a first-order low-pass filter, for a cutoff in Hz and a time step in seconds."""
    ratio = 2 * np.pi * cutoff * step
    return np.asarray(ratio / (ratio + 1))
