"""Faces that move as sinusoids, and the measures of a smoothed path: flicker, lag, error."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from jaxtyping import Float

from pipnet.annotations.samples import FaceSample
from pipnet.geometry import Image, affine, tight_box
from pipnet.io.image import read_image
from pipnet.video.causal_smoother import CausalSmoother
from pipnet.video.savgol_smoother import SavgolSmoother
from pipnet.warp import warp

FPS, FRAMES, SIDE = 25.0, 75, 320
MOTIONS = [(0.0, 0.0), *product((0.5, 1.0, 2.0), (0.1, 0.2, 0.4))]
"""Frequency in Hz and amplitude in widths of the face; first, a face that stands still."""
Path3 = Float[np.ndarray, "frames landmarks 2"]
Smoother = SavgolSmoother | Callable[[np.ndarray], CausalSmoother] | None
"""Smooths as in a file; or returns what smooths as for a camera, for a mean face; or nothing."""


def render(sample: FaceSample, frequency: float, amplitude: float, seed: int) -> tuple[list[Image], Path3]:
    """Return frames of a face that oscillates and rolls, and its landmarks in each."""
    rng = np.random.default_rng(seed)
    image, box = read_image(sample.image), tight_box(sample.points)
    center, width = (box[:2] + box[2:]) / 2, float(box[2] - box[0])
    scale = 0.4 * SIDE / width
    direction = rng.uniform(0, 2 * np.pi)
    frames, truth = [], []
    for k in range(FRAMES):
        phase = np.sin(2 * np.pi * frequency * k / FPS)
        cos, sin = scale * np.cos(np.deg2rad(10 * phase)), scale * np.sin(np.deg2rad(10 * phase))
        linear = np.array([[cos, sin], [-sin, cos]])
        shift = amplitude * 0.4 * SIDE * phase * np.array([np.cos(direction), np.sin(direction)])
        matrix = np.hstack([linear, (SIDE / 2 + shift - linear @ center)[:, None]])
        frame = warp(image, matrix, SIDE)
        frames.append((frame + rng.normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8))
        truth.append(affine(sample.points, matrix))
    return frames, np.array(truth)


def smooth(points: Path3, mean_face: np.ndarray, smoother: Smoother) -> Path3:
    """Return the smoothed path."""
    if smoother is None:
        return points
    if isinstance(smoother, SavgolSmoother):
        times, path = np.arange(len(points)) / FPS, points.astype(np.float32)
        near = [np.flatnonzero(np.abs(times - now) <= smoother.reach + 1e-9) for now in times]
        frames = zip(path, near, times, strict=True)
        return np.array([smoother(raw, path[n], times[n] - now) for raw, n, now in frames])
    causal = smoother(mean_face)
    return np.array([causal(frame.astype(np.float32), k / FPS) for k, frame in enumerate(points)])


def flicker(points: Path3) -> float:
    """Return the root mean square of the second difference, in % of the inter-ocular distance."""
    second = np.diff(points, n=2, axis=0)
    eyes = np.linalg.norm(points[:, 36] - points[:, 45], axis=1).mean()
    return float(100 * np.sqrt((second**2).sum(axis=2).mean()) / eyes)


def lag(points: Path3, truth: Path3) -> float:
    """Return the frames by which the path of the face's center is late, to a twentieth."""
    times = np.arange(len(points))
    shifts = np.arange(-1, 4, 0.05)
    center, true = points.mean(axis=1), truth.mean(axis=1)
    center, true = center - center.mean(axis=0), true - true.mean(axis=0)
    inner = slice(10, -5)
    errors = []
    for shift in shifts:
        shifted = np.stack([np.interp(times - shift, times, true[:, k]) for k in (0, 1)], axis=1)
        errors.append(float(np.linalg.norm(center[inner] - shifted[inner], axis=1).mean()))
    return float(shifts[int(np.argmin(errors))])


def nme(points: Path3, truth: Path3) -> float:
    """Return the mean over frames, in % of the inter-ocular distance."""
    eyes = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)
    return float(100 * (np.linalg.norm(points - truth, axis=2).mean(axis=1) / eyes).mean())
