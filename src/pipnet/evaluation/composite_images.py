"""Composites: each labeled face pasted off-center into a larger image.

Images that are centered on a labeled face make detection easier than photos do. In a composite the face is
anywhere, at one of several sizes, and the background is made of the image of another face.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.ImageFilter

from pipnet.annotations.samples import FaceSample
from pipnet.errors import ImageError
from pipnet.evaluation.evaluate import LabeledImage, decoded
from pipnet.geometry import Affine, Box, Image, affine
from pipnet.io.image import read_image
from pipnet.warp import resize

WIDTH, HEIGHT = 1280, 960
"""Size of a composite in pixels."""
SCALES = (0.25, 0.45, 0.8)
"""Longer sides of the pasted image, as fractions of the composite's height."""


def composites(
    samples: Sequence[FaceSample], unreadable: list[ImageError] | None = None, seed: int = 0
) -> Iterator[LabeledImage]:
    """Yield each face once at each scale, pasted at a random place; the same for the same seed.

    The background is the image of another sample, stretched over the canvas, flipped top to bottom and
    blurred a little, so that it has the colors and clutter of a photo but no upright face.

    Args:
        samples: the faces.
        unreadable: if given, faces with unreadable images are left out and the errors are appended to it.
        seed: seed of the places and backgrounds.

    Raises:
        ImageError: an image cannot be read, and ``unreadable`` is None.
    """
    if unreadable is not None:
        samples = [sample for _, sample in decoded(samples, unreadable)]
    rng = np.random.default_rng(seed)
    for index, sample in enumerate(samples):
        pasted = read_image(sample.image)
        for scale in SCALES:
            other = samples[(index + int(rng.integers(1, max(len(samples), 2)))) % len(samples)]
            background = PIL.Image.fromarray(resize(read_image(other.image)[::-1], WIDTH, HEIGHT))
            canvas = np.array(background.filter(PIL.ImageFilter.GaussianBlur(3)))
            matrix = _paste(pasted, canvas, scale, rng)
            dx, dy = sample.label_offset
            yield (
                canvas,
                replace(
                    sample,
                    name=f"{sample.name} x {scale}",
                    points=affine(sample.points, matrix).astype(np.float32),
                    box=_map_box(sample.box, matrix),
                    source_box=_map_box(sample.source_box, matrix),
                    crop_box=_map_box(sample.crop_box, matrix),
                    label_offset=(dx * float(matrix[0, 0]), dy * float(matrix[1, 1])),
                ),
            )


def _map_box(box: Box | None, matrix: Affine) -> Box | None:
    return None if box is None else affine(box.reshape(2, 2), matrix).ravel().astype(np.float32)


def _paste(image: Image, canvas: Image, scale: float, rng: np.random.Generator) -> Affine:
    """Paste an image at a random place of the canvas, and return the map from its pixels to the canvas."""
    height, width = image.shape[:2]
    factor = scale * HEIGHT / max(height, width)
    w, h = max(round(width * factor), 1), max(round(height * factor), 1)
    x, y = (int(rng.integers(0, room + 1)) for room in (WIDTH - w, HEIGHT - h))
    if factor < 1:
        pasted = resize(image, w, h)
    else:
        pasted = np.asarray(PIL.Image.fromarray(image).resize((w, h), PIL.Image.Resampling.BICUBIC))
    canvas[y : y + h, x : x + w] = pasted
    fx, fy = w / width, h / height
    return np.array([[fx, 0, x + fx / 2 - 0.5], [0, fy, y + fy / 2 - 0.5]])
