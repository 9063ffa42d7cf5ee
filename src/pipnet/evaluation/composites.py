"""Faces in larger pictures: each labeled crop pasted off-center onto another photo.

Crops centerd on their labels help a detector more than a photo would. Here a face stands anywhere, at one
of several sizes, before the surroundings of another face of the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.errors import ImageError
from pipnet.evaluation.evaluate import LabeledPicture, decoded
from pipnet.geometry import Affine, Box, Image, affine
from pipnet.io.image import read_image

WIDTH, HEIGHT = 1280, 960
"""Size of the made pictures in pixels."""
SCALES = (0.25, 0.45, 0.8)
"""Longer sides of the pasted picture, over the height of the made one."""


def composites(
    samples: Sequence[FaceSample], unreadable: list[ImageError] | None = None, seed: int = 0
) -> Iterator[LabeledPicture]:
    """Each face once at each scale, pasted at a random place; the same for the same seed.

    The background is the picture of another sample, stretched over the canvas, mirrored top to bottom
    and blurred a little, so that it has the colors and clutter of a photo but no upright face.

    Args:
        samples: the faces.
        unreadable: takes the errors of pictures that cannot be read, which are left out then.
        seed: of the places and backgrounds.

    Raises:
        ImageError: a picture cannot be read, and ``unreadable`` is not given.
    """
    if unreadable is not None:
        samples = [sample for _, sample in decoded(samples, unreadable)]
    rng = np.random.default_rng(seed)
    for number, sample in enumerate(samples):
        face = read_image(sample.image)
        for scale in SCALES:
            other = samples[(number + int(rng.integers(1, max(len(samples), 2)))) % len(samples)]
            ground = cv2.resize(read_image(other.image)[::-1], (WIDTH, HEIGHT))
            canvas = np.asarray(cv2.GaussianBlur(ground, (0, 0), 3), dtype=np.uint8)
            place = _paste(face, canvas, scale, rng)
            points = affine(sample.points, place).astype(np.float32)
            moved = replace(
                sample,
                name=f"{sample.name} x {scale}",
                points=points,
                box=_place_box(sample.box, place),
                source_box=_place_box(sample.source_box, place),
            )
            yield canvas, moved


def _place_box(box: Box | None, place: Affine) -> Box | None:
    return None if box is None else affine(box.reshape(2, 2), place).ravel().astype(np.float32)


def _paste(face: Image, canvas: Image, scale: float, rng: np.random.Generator) -> Affine:
    """Put a picture somewhere on the canvas, and return the map from its pixels to the canvas's."""
    height, width = face.shape[:2]
    factor = scale * HEIGHT / max(height, width)
    w, h = max(round(width * factor), 1), max(round(height * factor), 1)
    x, y = (int(rng.integers(0, room + 1)) for room in (WIDTH - w, HEIGHT - h))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    canvas[y : y + h, x : x + w] = cv2.resize(face, (w, h), interpolation=how)
    fx, fy = w / width, h / height
    return np.array([[fx, 0, x + fx / 2 - 0.5], [0, fy, y + fy / 2 - 0.5]])
