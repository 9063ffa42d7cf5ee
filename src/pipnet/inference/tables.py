"""Results as plain data and tables: dictionaries, COCO, rows of a CSV file or data frame."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from pipnet.geometry import Points, tight_box
from pipnet.scheme import LandmarkScheme

if TYPE_CHECKING:
    from pipnet.inference.results import FaceLandmarks

_LANDMARK_FIELDS = ("scores", "confidence", "expected_error", "vote_std", "tta_std")
_CALIBRATED = ("quality", "confidence", "expected_error")
"""Fields that are None if the model is not calibrated."""


def to_dict(faces: FaceLandmarks) -> dict[str, Any]:
    """Return width, height and a list of faces, see `FaceLandmarks.to_dict`."""
    empty = {} if faces.is_calibrated else dict.fromkeys(_CALIBRATED)
    rows = [
        {
            "box": _rounded(face.box, 2),
            "crop_box": _rounded(face.crop_box, 2),
            "detection_score": round(face.detection_score, 4),
            "quality": round(face.quality, 4),
            "points": _rounded(face.points, 3),
            **{name: _rounded(getattr(face, name), 4) for name in _LANDMARK_FIELDS},
            **empty,
        }
        for face in faces
    ]
    width, height = faces.image_size
    return {"width": width, "height": height, "faces": rows}


def face_columns(scheme: LandmarkScheme) -> list[str]:
    """Return the columns of `face_rows`."""
    names = scheme.landmark_names
    return [
        "face",
        *(f"box_{side}" for side in ("x", "y", "w", "h")),
        "detection_score",
        "quality",
        *(f"{name}_{axis}" for name in names for axis in "xy"),
        *(f"{name}_confidence" for name in names),
    ]


def face_rows(faces: FaceLandmarks) -> list[list[float | int | None]]:
    """Return a row a face; values that the model is not calibrated for are None."""
    rows: list[list[float | int | None]] = []
    for i, face in enumerate(faces):
        x0, y0, x1, y1 = face.box.tolist()
        box = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
        confidence = _rounded(face.confidence, 4) if faces.is_calibrated else [None] * len(face.points)
        quality = round(face.quality, 4) if faces.is_calibrated else None
        points = _rounded(face.points.ravel(), 3)
        rows.append([i, *box, round(face.detection_score, 4), quality, *points, *confidence])
    return rows


def landmark_table(faces: FaceLandmarks) -> dict[str, Any]:
    """Return columns with a row a landmark: face, landmark, name, x, y and its scores."""
    count, landmarks = faces.scores.shape
    return {
        "face": np.repeat(np.arange(count), landmarks),
        "landmark": np.tile(np.arange(landmarks), count),
        "name": np.tile(np.array(faces.scheme.landmark_names, dtype=object), count),
        "x": faces.points[..., 0].ravel(),
        "y": faces.points[..., 1].ravel(),
        **{name: getattr(faces, name).ravel() for name in _LANDMARK_FIELDS},
    }


def coco_table(faces: FaceLandmarks, image_id: int, file_name: str, first_id: int) -> dict[str, Any]:
    """Return a COCO keypoint table of one image; see `FaceLandmarks.to_coco`."""
    width, height = faces.image_size
    return {
        "images": [{"id": image_id, "file_name": file_name, "width": width, "height": height}],
        "annotations": [
            coco_annotation(face.points, annotation_id, image_id, face.detection_score)
            for annotation_id, face in enumerate(faces, start=first_id)
        ],
        "categories": [coco_category(faces.scheme)],
    }


def coco_category(scheme: LandmarkScheme) -> dict[str, Any]:
    """Return the COCO category of faces with these landmarks."""
    segments = [pair for chain in scheme.edges for pair in pairwise(chain)]
    return {
        "id": 1,
        "name": "face",
        "keypoints": list(scheme.landmark_names),
        "skeleton": [[a + 1, b + 1] for a, b in segments],
    }


def coco_annotation(
    points: Points, annotation_id: int, image_id: int, detection_score: float
) -> dict[str, Any]:
    """Return the COCO annotation of a face; all points count as visible (2)."""
    x0, y0, x1, y1 = (float(v) for v in tight_box(points))
    visible = np.concatenate([points, np.full((len(points), 1), 2)], axis=1)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)],
        "area": round((x1 - x0) * (y1 - y0), 2),
        "iscrowd": 0,
        "num_keypoints": len(points),
        "keypoints": [round(v, 3) for v in visible.ravel().tolist()],
        "score": round(detection_score, 4),  # the name that COCO's tools read
    }


def _rounded(values: Float32[np.ndarray, ...], digits: int) -> Any:
    return np.round(values.astype(np.float64), digits).tolist()
