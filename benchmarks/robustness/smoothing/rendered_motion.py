"""Videos with an exactly known movement, of photos that pan, zoom and turn; and measures of paths."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipnet.geometry import Image
from pipnet.io.image import read_image

SIZE, FACE = (480, 360), 120
"""Size of a video and width of its face, in pixels."""


def motions(seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Return the paths of a rendered face: x and y in face widths, log of the zoom, rotation in degrees."""
    wave, still = partial(_wave, seconds), np.zeros_like(seconds)
    steps = sum((-1) ** k * 0.6 * _ease((seconds - 0.5 - k) / 0.4) for k in range(3))
    shake = [0.01 * wave(3.1) + 0.008 * wave(4.3), 0.012 * wave(2.7)]
    paths = {
        "still": [still, still, still, still],
        "slow pan": [0.5 * wave(0.3), 0.1 * wave(0.2), still, still],
        "fast pan": [0.5 * wave(1.0), 0.1 * wave(0.7), still, still],
        "move and stop": [steps, still, still, still],
        "zoom": [still, still, 0.3 * wave(0.4), still],
        "turn": [0.1 * wave(0.5), still, still, 20 * wave(0.5)],
        "hand-held": [0.3 * wave(0.3) + shake[0], shake[1], 0.05 * wave(0.2), 2 * wave(0.4)],
    }
    return {name: np.stack(path, axis=1) for name, path in paths.items()}


def _wave(seconds: np.ndarray, frequency: float) -> np.ndarray:
    return np.asarray(np.sin(2 * np.pi * frequency * seconds))


def _ease(x: np.ndarray) -> np.ndarray:
    """Return a movement of minimum jerk from 0 to 1."""
    x = x.clip(0, 1)
    return np.asarray(x**3 * (10 - 15 * x + 6 * x**2))


def render(
    photo: Path, points: np.ndarray, path: np.ndarray, noise: float, seed: int
) -> Iterator[tuple[Image, np.ndarray]]:
    """Yield the frames of a moving photo, and the transform from the photo to each."""
    rng = np.random.default_rng(seed)
    image = read_image(photo)
    center, width = points.mean(axis=0), float(np.ptp(points[:, 0]))
    reduction = min(1.0, 1.4 * FACE / width)  # without aliasing
    image = cv2.resize(image, None, fx=reduction, fy=reduction, interpolation=cv2.INTER_AREA)
    scale = FACE / width
    for x, y, zoom, rotation in path:
        matrix = cv2.getRotationMatrix2D(tuple(center.tolist()), rotation, scale * np.exp(zoom))
        matrix[:, 2] += np.array(SIZE) / 2 - center + FACE * np.array([x, y])
        reduced = matrix @ np.array([[1 / reduction, 0, 0], [0, 1 / reduction, 0], [0, 0, 1]])
        offset = 0.5 / reduction - 0.5  # pixel centers have integer coordinates
        reduced[:, 2] += matrix[:, :2] @ [offset, offset]
        frame = cv2.warpAffine(image, reduced, SIZE, borderMode=cv2.BORDER_REPLICATE)
        yield (frame + rng.normal(0, noise, frame.shape)).clip(0, 255).astype(np.uint8), matrix


def jitter(points: np.ndarray, truth: np.ndarray | float, eyes: float) -> float:
    """Return the root mean square of the second difference, in % of the inter-ocular distance."""
    second = np.diff(points - truth, n=2, axis=0)
    return float(100 * np.sqrt((second**2).sum(axis=2).mean()) / eyes)


def lag(points: np.ndarray, truth: np.ndarray) -> float:
    """Return the frames by which the path of the face's center is late, to a twentieth."""
    center, true = points.mean(axis=1), truth.mean(axis=1)
    times, inner = np.arange(len(points)), slice(10, -5)
    shifts = np.arange(-1, 4, 0.05)
    errors = [
        np.linalg.norm(
            center - np.stack([np.interp(times - s, times, true[:, k]) for k in (0, 1)], axis=1), axis=1
        )[inner].mean()
        for s in shifts
    ]
    return float(shifts[int(np.argmin(errors))])


def eye_distance(points: np.ndarray) -> float:
    """Return the mean inter-ocular distance in pixels."""
    return float(np.linalg.norm(points[:, 36] - points[:, 45], axis=1).mean())
