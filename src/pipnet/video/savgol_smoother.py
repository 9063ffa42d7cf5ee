"""Steady landmarks where the next frames are at hand, as in a file: no lag, and no guess at what comes.

Each landmark's path through the frames before and after is fitted by a polynomial in time, near frames
weighing more, and takes the polynomial's place (Savitzky and Golay, 1964; Cleveland, 1979). A curve of the
fourth degree follows a head that turns round within a few frames; what jumps to and fro from frame to frame
averages out. A camera's newest frame has none after it: see `pipnet.video.causal_smoother` for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from pipnet.errors import PipnetError


@dataclass(frozen=True)
class SavgolSmoother:
    """Settings of the fit."""

    width: float = 0.12
    """Standard deviation of the frames' weights, in seconds: more is steadier and rounds quick moves off."""
    degree: int = 4
    """Of the polynomial; less where there are fewer than twice as many frames."""
    farthest: float = 0.04
    """Smoothed landmarks are never farther on the mean from those found than this, in face sizes: where a cut
    or a leap lies between frames, there is no path."""

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.degree >= 0 and self.farthest >= 0):
            raise PipnetError("looking ahead needs a width above 0, a degree and a farthest of at least 0")

    @property
    def reach(self) -> float:
        """Seconds before and after a frame within which others have a say in it."""
        return 2 * self.width

    def __call__(
        self,
        found: Float32[np.ndarray, "landmarks 2"],
        near: Float32[np.ndarray, "frames landmarks 2"],
        times: Float[np.ndarray, " frames"],
    ) -> Float32[np.ndarray, "landmarks 2"]:
        """A face's landmarks in one frame, smoothed.

        Args:
            found: what was found in it, in pixels of the frame.
            near: what was found in it and in the frames around it, within `reach`.
            times: of these, in seconds from it.
        """
        away = np.tensordot(self.weights(times), near, 1) - found
        most = self.farthest * float(np.ptp(found, axis=0).max())
        share = min(1.0, most / max(float(np.linalg.norm(away, axis=1).mean()), 1e-9))
        return np.asarray(found + away * share, dtype=np.float32)

    def weights(self, times: Float[np.ndarray, " frames"]) -> Float64[np.ndarray, " frames"]:
        """What each frame adds to the polynomial's value at time 0; together 1.

        Args:
            times: of the frames, in seconds from the one that is smoothed.
        """
        scaled = times / self.width
        degree = min(self.degree, (len(np.unique(times)) - 1) // 2)
        root = np.exp(-0.25 * scaled**2)[:, None]
        powers = np.vander(scaled, degree + 1, increasing=True)
        return np.asarray(np.linalg.pinv(root * powers)[0] * root[:, 0])
