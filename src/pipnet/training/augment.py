"""Augmentation: one composed warp a face, then the colors.

Differences from the papers' released training, each for a reason: shifts, turns and flips are
one affine map from the picture, so that real surroundings come in instead of black; landmarks keep
their true places, and the loss leaves out those which left the crop (the original clamps them, or trains
on wrong cells); scale and light are added, because a detector's boxes and the world's light vary.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

from pipnet.geometry import Affine, Box, Image, Points, affine, box_to_crop, compose, warp
from pipnet.scheme import LandmarkScheme


@dataclass(frozen=True)
class Augmentation:
    """How training faces are varied. Probabilities are per face; ``Augmentation.none()`` varies nothing."""

    translate: float = 0.5
    """Probability of a shift."""
    translate_by: float = 29 / 256
    """Largest shift along each axis, as a fraction of the crop (the papers: 29 of 256 pixels)."""
    scale: float = 0.0
    """Probability of a change of size (the papers: none)."""
    scale_by: float = 0.15
    """Largest change of size, as a fraction of the face."""
    rotate: float = 0.5
    """Probability of a turn about the center of the crop."""
    rotate_by: float = 30.0
    """Largest turn in degrees."""
    stretch: float = 0.0
    """Probability of unequal changes of width and height, as of a face turned away (the papers: none)."""
    stretch_by: float = 0.25
    """Largest such change, as a fraction of the face; as much as one side grows, the other shrinks."""
    flip: float = 0.5
    """Probability of a mirror image."""
    occlude: float = 0.5
    """Probability of one rectangle of one random color."""
    occlude_by: float = 102 / 256
    """Longest side of that rectangle, as a fraction of the crop."""
    blur: float = 0.3
    """Probability of a Gaussian blur."""
    blur_by: float = 5 / 256
    """Largest standard deviation of the blur, as a fraction of the crop."""
    grayscale: float = 0.2
    """Probability of losing all color (not in v1)."""
    color_jitter: float = 0.0
    """Probability of other brightness, contrast and color balance (the papers: none)."""
    downscale: float = 0.0
    """Probability of fewer pixels, as of a small or distant face (the papers: none)."""
    downscale_by: float = 4.0
    """Largest factor by which the crop is shrunk for that, before it is enlarged again."""
    blank: bool = False
    """Plain black pictures with the true labels, whatever else is set: v1's probe of the position prior."""

    @classmethod
    def none(cls) -> Augmentation:
        """The face as it is: for validation."""
        return cls(translate=0, rotate=0, flip=0, occlude=0, blur=0, grayscale=0)


def training_crop(
    image: Image,
    points: Points,
    box: Box,
    size: int,
    scheme: LandmarkScheme,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[Image, Float32[np.ndarray, "landmarks 2"], bool]:
    """A face as the model is trained on it.

    Args:
        image: a picture, or the part of it around the face.
        points: its landmarks in pixels of ``image``; NaN where unknown.
        box: the crop if nothing is varied.
        size: side of the crop in pixels, S.
        scheme: tells which landmarks change places in a mirror image.
        augmentation: what to vary, and how much.
        rng: all chance comes from here.

    Returns:
        The S x S crop, the landmarks as fractions of it, also those that lie outside, and whether it is
        mirrored.
    """
    (more,) = rng.spawn(1)  # for what was added later: the chances of the rest stay what they were
    varied, mirrored = _random_affine(augmentation, size, rng, more)
    matrix = compose(box_to_crop(box, size), varied)
    crop = warp(image, matrix, size)
    moved = affine(points, matrix)
    if mirrored:
        moved = moved[scheme.flip_permutation]
    if augmentation.blank:
        crop = np.zeros_like(crop)
    else:
        crop = _random_colors(_random_downscale(crop, augmentation, more), augmentation, rng)
    return crop, ((moved + 0.5) / size).astype(np.float32), mirrored


def _random_affine(
    a: Augmentation, size: int, rng: np.random.Generator, more: np.random.Generator
) -> tuple[Affine, bool]:
    """A random map from crop pixels to crop pixels, and whether it mirrors."""
    # Every chance is drawn whether it is used or not: faces do not change with another face's luck.
    chances, amounts = rng.random(4), rng.uniform(-1, 1, 4)
    shift = amounts[:2] * a.translate_by * size * (chances[0] < a.translate)
    factor = (1 + a.scale_by) ** (amounts[2] * (chances[1] < a.scale))
    angle = np.deg2rad(a.rotate_by * amounts[3] * (chances[2] < a.rotate))
    mirrored = bool(chances[3] < a.flip)
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    longer = (1 + a.stretch_by) ** (more.uniform(-1, 1) * (more.random() < a.stretch))
    linear = np.array([[cos, -sin], [sin, cos]]) * [longer, 1 / longer]
    if mirrored:
        linear = np.array([[-1.0, 0], [0, 1]]) @ linear
    center = np.full(2, (size - 1) / 2)
    return np.hstack([linear, (center + shift - linear @ center)[:, None]]), mirrored


def _random_downscale(crop: Image, a: Augmentation, rng: np.random.Generator) -> Image:
    """The crop as if it had been taken from farther away."""
    chance, amount = rng.random(2)
    if chance >= a.downscale:
        return crop
    size = len(crop)
    side = max(round(size / a.downscale_by**amount), 1)
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _random_colors(crop: Image, a: Augmentation, rng: np.random.Generator) -> Image:
    """Occluder, blur, light and gray, in this order, each by its chance."""
    size = len(crop)
    chances = rng.random(4)
    if chances[0] < a.occlude:
        w, h = (rng.random(2) * a.occlude_by * size).astype(int)
        x, y = (rng.random(2) * [size - w, size - h]).astype(int)
        crop = crop.copy()
        crop[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    if chances[1] < a.blur:
        sigma = rng.random() * a.blur_by * size
        if sigma > 0.1:
            crop = np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), dtype=np.uint8)
    if chances[2] < a.color_jitter:
        gamma, gain = (
            np.exp(rng.normal(0, 0.25)),
            np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.06, 3)),
        )
        levels = (np.arange(256) / 255) ** gamma
        table = (levels[:, None] * gain * 255).clip(0, 255).astype(np.uint8)
        crop = np.asarray(cv2.LUT(crop, table[None]), dtype=np.uint8)
    if chances[3] < a.grayscale:
        gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        crop = np.repeat(np.asarray(gray, dtype=np.uint8)[..., None], 3, axis=2)
    return crop
