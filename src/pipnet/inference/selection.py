"""Selection of the faces that a result shows: quality, number, order, and one result a face."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int

from pipnet.config import LandmarkerConfig
from pipnet.inference.results import FaceLandmarks

_MAX_DISTANCE = 0.3
"""Two predictions show one face if the mean distance of their landmarks is at most this fraction of the
smaller face. In 190 photos of HELEN and WIDER at six rotations each, 35 pairs were duplicates, at distances
up to 0.12; different faces had distances of 0.63 and more."""


def select_faces(
    faces: FaceLandmarks, priority: Float[np.ndarray, " faces"], config: LandmarkerConfig
) -> Int[np.ndarray, " selected"]:
    """Return the indices of the faces that the options select, in their order.

    Args:
        faces: the faces of one image.
        priority: ``max_faces`` keeps the faces for which this is highest: the detection score of each face,
            or in a video its age.
        config: the options ``any_rotation``, ``min_quality``, ``max_faces`` and ``sort``.
    """
    kept = np.arange(len(faces))
    if config.any_rotation:
        kept = without_duplicates(faces.points, faces.quality)
    if config.min_quality:
        kept = kept[faces.quality[kept] >= config.min_quality]
    if config.max_faces is not None:
        first = np.argsort(-priority[kept], kind="stable")[: config.max_faces]
        kept = kept[np.sort(first)]
    if config.sort == "size":
        kept = kept[np.argsort(-face_sizes(faces.points[kept]), kind="stable")]
    return kept


def without_duplicates(
    points: Float32[np.ndarray, "faces landmarks 2"], quality: Float32[np.ndarray, " faces"]
) -> Int[np.ndarray, " kept"]:
    """Return the indices of the faces without those predicted twice; the one of higher quality is kept."""
    sizes = face_sizes(points)
    kept: list[int] = []
    for i in np.argsort(-quality, kind="stable").tolist():
        distances = np.linalg.norm(points[kept] - points[i], axis=2).mean(axis=1)
        if not (distances <= _MAX_DISTANCE * np.minimum(sizes[kept], sizes[i])).any():
            kept.append(i)
    return np.array(sorted(kept), np.int64)


def face_sizes(points: Float32[np.ndarray, "faces landmarks 2"]) -> Float32[np.ndarray, " faces"]:
    """Return the longer side of the tight box of each face's landmarks, in pixels."""
    extent = points.max(axis=1) - points.min(axis=1)
    return np.asarray(extent.max(axis=1), dtype=np.float32)
