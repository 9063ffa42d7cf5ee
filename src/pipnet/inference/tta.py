"""Test-time augmentation: the augmented crops of a face (arXiv v1, 2020, data distillation).

An augmented crop is shifted, rotated or mirrored. v1 averages the predictions over eight shifts for its
pseudo-labels; here the mean serves any face.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from pipnet.config import TTA
from pipnet.geometry import Affine, affine, invert

_SHIFTS = (20 / 256, 30 / 256)
"""Up, down, left and right, as fractions of the crop (v1: 20 and 30 of 256 pixels)."""
_SMALL_SHIFT = 10 / 256
"""Shift of ``translation-10``, as a fraction of the crop (v1's figure 4)."""
_ANGLES = (-20.0, -10.0, 10.0, 20.0)
"""Degrees clockwise; v1 does not state them."""


class AugmentedCrop(NamedTuple):
    """An augmented crop."""

    matrix: Affine
    """From pixels of the plain crop to pixels of the augmented one."""
    mirrored: bool


def augmented_crops(tta: TTA, size: int) -> list[AugmentedCrop]:
    """Return the augmented crops of a face, for crops of size x size pixels."""
    directions = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    plain = [(0.0, 0.0, 0.0)]
    shifts = [(dx * distance, dy * distance, 0.0) for distance in _SHIFTS for dx, dy in directions]
    small_shifts = [(dx * _SMALL_SHIFT, dy * _SMALL_SHIFT, 0.0) for dx, dy in directions]
    rotations = [(0.0, 0.0, angle) for angle in _ANGLES]
    motions = {
        "none": plain,
        "flip": plain,
        "rotation": plain + rotations,
        "translation": shifts,
        "translation-10": small_shifts,
        "translation+flip": shifts,
        "all": shifts + rotations,
    }[tta]
    mirrorings = (False, True) if tta in ("flip", "translation+flip", "all") else (False,)
    return [
        AugmentedCrop(augmentation_matrix(dx, dy, angle, mirrored, size), mirrored)
        for dx, dy, angle in motions
        for mirrored in mirrorings
    ]


def augmentation_matrix(dx: float, dy: float, angle: float, mirrored: bool, size: int) -> Affine:
    """Return the map from pixels of a crop to pixels of the crop rotated, mirrored and shifted.

    Args:
        dx: shift to the right, as a fraction of the crop.
        dy: shift down, as a fraction of the crop.
        angle: degrees clockwise, around the center.
        mirrored: mirror left and right, after the rotation.
        size: side of the crop in pixels.
    """
    radians = np.deg2rad(angle)
    linear = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    if mirrored:
        linear = np.array([[-1.0, 0], [0, 1]]) @ linear
    center = np.full(2, (size - 1) / 2)
    return np.hstack([linear, (center + np.array([dx, dy]) * size - linear @ center)[:, None]])


def undo_augmentation(
    fractions: Float[np.ndarray, "faces landmarks 2"], matrix: Affine, size: int
) -> Float64[np.ndarray, "faces landmarks 2"]:
    """Bring fractions of an augmented crop into fractions of the plain crop."""
    return (affine(fractions * size - 0.5, invert(matrix)) + 0.5) / size
