"""Smoothing of landmarks with the frames before and after, as in a file: no lag.

A polynomial in time is fitted to each landmark's path through the frames before and after, with larger
weights for closer frames, and its value replaces the landmark (Savitzky and Golay, 1964; Cleveland, 1979). A
polynomial of degree 4 follows a head that changes direction within a few frames, while noise from frame to
frame averages out. For a camera, where the next frames are unknown, see `pipnet.video.causal_smoother`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from pipnet.errors import PipnetError


@dataclass(frozen=True)
class SavgolSmoother:
    """A Savitzky-Golay filter for frames at any times."""

    width: float = 0.12
    """Standard deviation of the frames' Gaussian weights, in seconds. Larger values smooth more, and flatten
    fast movements."""
    degree: int = 4
    """Degree of the polynomial; lower if there are fewer than twice as many frames."""
    max_shift: float = 0.04
    """Maximum mean shift of the smoothed landmarks from the predicted ones, in face sizes: across a cut in
    the video, a path would be wrong."""

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.degree >= 0 and self.max_shift >= 0):
            raise PipnetError(
                "SavgolSmoother needs a width above 0, and a degree and max_shift of at least 0"
            )

    @property
    def reach(self) -> float:
        """Seconds before and after a frame within which other frames influence it."""
        return 2 * self.width

    def __call__(
        self,
        points: Float32[np.ndarray, "landmarks 2"],
        path: Float32[np.ndarray, "frames landmarks 2"],
        times: Float[np.ndarray, " frames"],
    ) -> Float32[np.ndarray, "landmarks 2"]:
        """Return the smoothed landmarks of a face in one frame.

        Args:
            points: its landmarks in this frame, in pixels.
            path: its landmarks in this frame and those around it, within `reach`, in pixels.
            times: the times of the frames of the path, in seconds relative to this frame.
        """
        shift = np.tensordot(self.weights(times), path, 1) - points
        max_shift = self.max_shift * float(np.ptp(points, axis=0).max())
        factor = min(1.0, max_shift / max(float(np.linalg.norm(shift, axis=1).mean()), 1e-9))
        return np.asarray(points + shift * factor, dtype=np.float32)

    def weights(self, times: Float[np.ndarray, " frames"]) -> Float64[np.ndarray, " frames"]:
        """Return the weight of each frame in the polynomial's value at time 0; their sum is 1.

        Args:
            times: the times of the frames, in seconds relative to the smoothed frame.
        """
        scaled = times / self.width
        degree = min(self.degree, (len(np.unique(times)) - 1) // 2)
        root = np.exp(-0.25 * scaled**2)[:, None]
        powers = np.vander(scaled, degree + 1, increasing=True)
        return np.asarray(np.linalg.pinv(root * powers)[0] * root[:, 0])
