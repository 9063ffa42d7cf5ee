"""Faces in larger pictures: each labelled crop pasted off-centre onto another photo.

Crops centred on their labels help a detector more than a photo would. Here a face stands anywhere, at one
of several sizes, before the surroundings of another face of the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np

from pipnet.data.samples import FaceSample
from pipnet.evaluation.evaluate import LabelledPicture
from pipnet.geometry import affine
from pipnet.images import read_image

WIDTH, HEIGHT = 1280, 960
"""Size of the made pictures in pixels."""
SCALES = (0.35, 0.6, 1.0)
"""Size of the pasted crop, over its own size or over what just fits; taken in turn."""


def composites(samples: Sequence[FaceSample], seed: int = 0) -> Iterator[LabelledPicture]:
    """Each face once, pasted at a random place; the same for the same seed.

    The background is the picture of another sample, stretched over the canvas, mirrored top to bottom
    and blurred a little, so that it has the colours and clutter of a photo but no upright face.
    """
    rng = np.random.default_rng(seed)
    for number, sample in enumerate(samples):
        other = samples[(number + int(rng.integers(1, max(len(samples), 2)))) % len(samples)]
        ground = cv2.resize(read_image(other.image)[::-1], (WIDTH, HEIGHT))
        canvas = np.asarray(cv2.GaussianBlur(ground, (0, 0), 3), dtype=np.uint8)
        face = read_image(sample.image)
        height, width = face.shape[:2]
        factor = SCALES[number % len(SCALES)] * min(1.0, HEIGHT / height, WIDTH / width)
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        x, y = (int(rng.integers(0, room + 1)) for room in (WIDTH - size[0], HEIGHT - size[1]))
        canvas[y : y + size[1], x : x + size[0]] = cv2.resize(face, size, interpolation=cv2.INTER_AREA)
        fx, fy = size[0] / width, size[1] / height
        place = np.array([[fx, 0, x + fx / 2 - 0.5], [0, fy, y + fy / 2 - 0.5]])
        points = affine(sample.points, place).astype(np.float32)
        box = None
        if sample.box is not None:
            box = affine(sample.box.reshape(2, 2), place).ravel().astype(np.float32)
        yield canvas, replace(sample, points=points, box=box)
