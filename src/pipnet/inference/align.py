"""Aligned faces: each face at the same size and position, by a template."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float64

from pipnet.errors import PipnetError
from pipnet.geometry import Affine, similarity, tight_box
from pipnet.metadata import ModelMetadata

Template = Literal["mean_face", "arcface", "ffhq"]
"""``mean_face``: the model's mean face. ``arcface``: the input of ArcFace and most other face recognition
networks, as cut by insightface. ``ffhq``: the crops of the FFHQ dataset, on which StyleGAN is trained."""
_ARCFACE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""The five points in a crop of 112 px: ``arcface_dst`` in insightface's ``utils/face_align.py``."""
_ARCFACE_SIZE, _WIDE_SIZE, _WIDE_SHIFT = 112, 128, 8
"""Multiples of 128 px are the crop of 112 px with 8 px more on each side and 16 px more below."""


def alignment(
    points: Float[np.ndarray, "landmarks 2"],
    five_points: Float[np.ndarray, "5 2"] | None,
    metadata: ModelMetadata,
    size: int,
    margin: float,
    template: Template,
) -> Affine:
    """Return the similarity that brings a face into its aligned crop.

    Args:
        points: landmarks in pixels of the image.
        five_points: right eye, left eye, nose tip, right and left corner of the mouth in pixels of the image;
            not used for ``mean_face``.
        metadata: that of the model.
        size: side of the crop in pixels.
        margin: room around the mean face's landmarks, as a fraction of their longer side.
        template: where the landmarks are in the crop.

    Raises:
        ModelError: the model's mean face is unknown.
    """
    if five_points is None:
        return similarity(points, _mean_face(metadata, size, margin))
    if template == "arcface":
        return similarity(five_points, arcface_points(size))
    return similarity(_ffhq_corners(five_points), np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) * size - 0.5)


def check_template(size: int, margin: float, template: str, default_margin: float) -> None:
    """Refuse arguments of `FaceLandmarks.aligned` that are out of range.

    Raises:
        PipnetError: size or margin out of range, an unknown template, or a margin for one that has none.
    """
    if not (isinstance(size, int | np.integer) and 0 < size < 2**15 and -0.5 < margin < 100):
        raise PipnetError(f"size must be 1 to 32767 and margin -0.5 to 100, not {size} and {margin}")
    if template not in get_args(Template):
        raise PipnetError(f"no template {template!r:.80}; there are {', '.join(get_args(Template))}")
    if template != "mean_face" and margin != default_margin:
        raise PipnetError(f"template {template!r} has a fixed margin: leave margin out")


def arcface_points(size: int) -> Float64[np.ndarray, "5 2"]:
    """Return the places of the five points in ArcFace's crop, as insightface's ``estimate_norm``.

    Sizes that are a multiple of neither 112 nor 128, which insightface refuses, are scaled like 112.
    """
    if size % _ARCFACE_SIZE and size % _WIDE_SIZE == 0:
        return np.asarray((_ARCFACE + np.array([_WIDE_SHIFT, 0])) * (size / _WIDE_SIZE))
    return _ARCFACE * (size / _ARCFACE_SIZE)


def _mean_face(metadata: ModelMetadata, size: int, margin: float) -> Float64[np.ndarray, "landmarks 2"]:
    mean_face = metadata.require_mean_face("alignment")
    box = tight_box(mean_face)
    center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * (1 + 2 * margin)
    return np.asarray((mean_face - center) / side * size + (size - 1) / 2)


def _ffhq_corners(five_points: Float[np.ndarray, "5 2"]) -> Float64[np.ndarray, "4 2"]:
    """Return the corners of FFHQ's crop, which is a square: top left, bottom left, bottom right, top right.

    The rule is ``recreate_aligned_images`` of Karras et al., NVlabs/ffhq-dataset.
    """
    points = five_points.astype(np.float64)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    eye_to_eye, eye_to_mouth = points[1] - points[0], mouth - eyes
    x = eye_to_eye - eye_to_mouth[::-1] * [-1, 1]
    x *= max(np.linalg.norm(eye_to_eye) * 2.0, np.linalg.norm(eye_to_mouth) * 1.8) / np.linalg.norm(x)
    y = x[::-1] * [-1, 1]
    center = eyes + eye_to_mouth * 0.1
    return np.array([center - x - y, center - x + y, center + x + y, center + x - y])
