"""Augmentation of training faces: one composed warp a face, then the colors.

Differences from the papers' released training, and their reasons: shifts, rotations and flips are one affine
map from the image, so that real surroundings fill the crop instead of black; landmarks keep their true
positions, and the loss leaves out those outside of the crop (the original clamps them, or trains wrong
cells); scale and color are varied too, because detectors' boxes and lighting vary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import PIL.Image
import PIL.ImageFilter
from jaxtyping import Float32

from pipnet.field_checks import Range
from pipnet.geometry import Affine, Box, Image, Points, affine, box_to_crop, compose
from pipnet.scheme import LandmarkScheme
from pipnet.warp import resize, warp

_Fraction = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training faces. Probabilities are per face."""

    translate: _Fraction = 0.5
    """Probability of a shift."""
    translate_by: _Fraction = 29 / 256
    """Maximum shift along each axis, as a fraction of the crop (the papers: 29 of 256 pixels)."""
    scale: _Fraction = 0.0
    """Probability of a change of size (the papers: none)."""
    scale_by: _Fraction = 0.15
    """Maximum change of size, as a fraction of the face."""
    rotate: _Fraction = 0.5
    """Probability of a rotation about the center of the crop."""
    rotate_by: Annotated[float, Range(0, 180)] = 30.0
    """Maximum rotation in degrees."""
    stretch: _Fraction = 0.0
    """Probability of unequal changes of width and height, as of a face in profile (the papers: none)."""
    stretch_by: _Fraction = 0.25
    """Maximum such change, as a fraction of the face; one side grows as much as the other shrinks."""
    flip: _Fraction = 0.5
    """Probability of a mirror image."""
    occlude: _Fraction = 0.5
    """Probability of one rectangle of one random color."""
    occlude_by: _Fraction = 102 / 256
    """Maximum side of that rectangle, as a fraction of the crop."""
    blur: _Fraction = 0.3
    """Probability of a Gaussian blur."""
    blur_by: _Fraction = 5 / 256
    """Maximum standard deviation of the blur, as a fraction of the crop."""
    grayscale: _Fraction = 0.2
    """Probability of a grayscale image (not in arXiv v1)."""
    color_jitter: _Fraction = 0.0
    """Probability of a change of brightness, contrast and color balance (the papers: none)."""
    downscale: _Fraction = 0.0
    """Probability of fewer pixels, as of a small or distant face (the papers: none)."""
    downscale_by: Annotated[float, Range(1, 100)] = 4.0
    """Maximum factor by which the crop is shrunk for that, before it is enlarged again."""
    blank: bool = False
    """Replace every image by black, with the true labels: v1's probe of the position prior."""

    @classmethod
    def none(cls) -> Augmentation:
        """Return the augmentation that changes nothing, for validation."""
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
    """Return an augmented crop of a face.

    Args:
        image: an image, or the part of it around the face.
        points: its landmarks in pixels of ``image``; NaN where unknown.
        box: the crop without augmentation, xyxy in pixels of ``image``.
        size: side of the crop in pixels, S.
        scheme: says which landmarks change places in a mirror image.
        augmentation: the random changes.
        rng: the source of all random numbers.

    Returns:
        The S x S crop, the landmarks as fractions of it, including those outside, and whether it is mirrored.
    """
    (later,) = rng.spawn(1)  # for augmentations that were added later: older ones keep their random numbers
    matrix, mirrored = _random_affine(augmentation, size, rng, later)
    matrix = compose(box_to_crop(box, size), matrix)
    crop = warp(image, matrix, size)
    moved = affine(points, matrix)
    if mirrored:
        moved = moved[scheme.flip_permutation]
    if augmentation.blank:
        crop = np.zeros_like(crop)
    else:
        crop = _random_colors(_random_downscale(crop, augmentation, later), augmentation, rng)
    return crop, ((moved + 0.5) / size).astype(np.float32), mirrored


def _random_affine(
    a: Augmentation, size: int, rng: np.random.Generator, later: np.random.Generator
) -> tuple[Affine, bool]:
    """Return a random map from crop pixels to crop pixels, and whether it mirrors."""
    # All random numbers are drawn whether they are used or not, so that the later ones do not depend on it.
    chances, amounts = rng.random(4), rng.uniform(-1, 1, 4)
    shift = amounts[:2] * a.translate_by * size * (chances[0] < a.translate)
    factor = (1 + a.scale_by) ** (amounts[2] * (chances[1] < a.scale))
    angle = np.deg2rad(a.rotate_by * amounts[3] * (chances[2] < a.rotate))
    mirrored = bool(chances[3] < a.flip)
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    stretch = (1 + a.stretch_by) ** (later.uniform(-1, 1) * (later.random() < a.stretch))
    linear = np.array([[cos, -sin], [sin, cos]]) * [stretch, 1 / stretch]
    if mirrored:
        linear = np.array([[-1.0, 0], [0, 1]]) @ linear
    center = np.full(2, (size - 1) / 2)
    return np.hstack([linear, (center + shift - linear @ center)[:, None]]), mirrored


def _random_downscale(crop: Image, a: Augmentation, rng: np.random.Generator) -> Image:
    """Shrink the crop and enlarge it again, as if it had been taken from farther away."""
    chance, amount = rng.random(2)
    if chance >= a.downscale:
        return crop
    size = len(crop)
    side = max(round(size / a.downscale_by**amount), 1)
    return resize(resize(crop, side, side), size, size)


def _random_colors(crop: Image, a: Augmentation, rng: np.random.Generator) -> Image:
    """Apply occluder, blur, color jitter and grayscale, in this order, each with its probability."""
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
            blur = PIL.ImageFilter.GaussianBlur(sigma)
            crop = np.array(PIL.Image.fromarray(crop).filter(blur))
    if chances[2] < a.color_jitter:
        gamma, gain = (
            np.exp(rng.normal(0, 0.25)),
            np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.06, 3)),
        )
        levels = (np.arange(256) / 255) ** gamma
        table = (levels[:, None] * gain * 255).clip(0, 255).astype(np.uint8)
        crop = np.array(PIL.Image.fromarray(crop).point(table.T.ravel().tolist()))
    if chances[3] < a.grayscale:
        crop = np.array(PIL.Image.fromarray(crop).convert("L").convert("RGB"))
    return crop
