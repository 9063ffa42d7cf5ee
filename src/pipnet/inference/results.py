"""Results: the landmarks of the faces of an image, and their output formats."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Float32, UInt8

from pipnet.annotations.pts import write_pts
from pipnet.confidence import ErrorEstimate
from pipnet.errors import DataError, PipnetError
from pipnet.geometry import Box, Image, Points, similarity, tight_box, warp
from pipnet.inference.draw import draw_faces
from pipnet.io.image import write_image
from pipnet.metadata import ModelMetadata
from pipnet.scheme import LandmarkScheme


class Face(NamedTuple):
    """One face of a result. All fields are as in `FaceLandmarks`."""

    points: Points
    scores: Float32[np.ndarray, " landmarks"]
    vote_std: Float32[np.ndarray, " landmarks"]
    tta_std: Float32[np.ndarray, " landmarks"]
    confidence: Float32[np.ndarray, " landmarks"]
    expected_error: Float32[np.ndarray, " landmarks"]
    box: Box
    crop_box: Box
    detection_score: float
    quality: float


@dataclass(frozen=True, eq=False, kw_only=True)
class FaceLandmarks:
    """The landmarks of all faces of one image. Points with low scores are never hidden or moved."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """x, y in pixels of the image; (0, 0) is the center of its top-left pixel."""
    scores: Float32[np.ndarray, "faces landmarks"]
    """Peak of each landmark's score map, in [0, 1]; `confidence` is its calibrated form."""
    vote_std: Float32[np.ndarray, "faces landmarks"]
    """Standard deviation of the neighbors' votes, as a fraction of the crop."""
    tta_std: Float32[np.ndarray, "faces landmarks"]
    """Standard deviation of the augmented crops' predictions, as a fraction of the crop; 0 without test-time
    augmentation."""
    boxes: Float32[np.ndarray, "faces 4"]
    """Boxes from the detector or the user, unchanged, xyxy in pixels of the image."""
    crop_boxes: Float32[np.ndarray, "faces 4"]
    """Boxes that the crops were cut around (see `CropConfig.box`), xyxy in pixels of the image."""
    detection_score: Float32[np.ndarray, " faces"]
    """The detector's confidence in each face; 1 for boxes from the user."""
    image: Image
    """The image itself."""
    metadata: ModelMetadata
    """The metadata of the model."""

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Face]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, key: int | np.integer) -> Face: ...
    @overload
    def __getitem__(self, key: slice | list[int] | np.ndarray) -> FaceLandmarks: ...
    def __getitem__(self, key: int | np.integer | slice | list[int] | np.ndarray) -> Face | FaceLandmarks:
        """Return one face by index, or the result of some faces by slice, indices or booleans.

        Example: ``faces[faces.quality > 0.8]``.
        """
        if isinstance(key, int | np.integer):
            return Face(
                points=self.points[key],
                scores=self.scores[key],
                vote_std=self.vote_std[key],
                tta_std=self.tta_std[key],
                confidence=self.confidence[key],
                expected_error=self.expected_error[key],
                box=self.boxes[key],
                crop_box=self.crop_boxes[key],
                detection_score=float(self.detection_score[key]),
                quality=float(self.quality[key]),
            )
        indices = np.arange(len(self))[key]
        names = ("points", "scores", "vote_std", "tta_std", "boxes", "crop_boxes", "detection_score")
        return replace(self, **{name: getattr(self, name)[indices] for name in names})

    @property
    def scheme(self) -> LandmarkScheme:
        """The landmark scheme."""
        return self.metadata.scheme

    @property
    def confidence(self) -> Float32[np.ndarray, "faces landmarks"]:
        """Calibrated probability that each landmark is off by at most 5 % of the face.

        NaN if the model is not calibrated (see `pipnet.confidence`).
        """
        return 1 - self._errors.probability

    @property
    def expected_error(self) -> Float32[np.ndarray, "faces landmarks"]:
        """Expected error of each landmark as a fraction of the face; NaN if the model is not calibrated."""
        return self._errors.expected

    @cached_property
    def _errors(self) -> ErrorEstimate:
        calibration = self.metadata.calibration
        if calibration is None:
            return ErrorEstimate(np.full_like(self.scores, np.nan), np.full_like(self.scores, np.nan))
        return calibration.estimate(self.scores, self.vote_std, self.metadata.mean_face)

    @cached_property
    def quality(self) -> Float32[np.ndarray, " faces"]:
        """Mean confidence of each face: near 1 for a clear face, low for a false detection."""
        return np.asarray(self.confidence.mean(axis=1), dtype=np.float32)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"<{len(self)} faces of {self.scheme.landmarks} landmarks in {width} x {height} pixels>"

    # -- output ------------------------------------------------------------------------------------

    def plot(self) -> Image:
        """Return a copy of the image with boxes, edges and points drawn on it."""
        return draw_faces(self.image, self.points, self.boxes, self.scheme)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image of `plot`; the file's suffix decides the format.

        Raises:
            ImageError: no such format.
            WriteError: the file cannot be written.
        """
        write_image(path, self.plot())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: width, height, and a list of faces, each with the fields of `Face`.

        Values that the model is not calibrated for are None.
        """
        calibrated = self.metadata.calibration is not None
        faces = [
            {
                "box": _rounded(face.box, 2),
                "crop_box": _rounded(face.crop_box, 2),
                "detection_score": round(face.detection_score, 4),
                "quality": round(face.quality, 4) if calibrated else None,
                "points": _rounded(face.points, 3),
                "scores": _rounded(face.scores, 4),
                "confidence": _rounded(face.confidence, 4) if calibrated else None,
                "expected_error": _rounded(face.expected_error, 4) if calibrated else None,
                "vote_std": _rounded(face.vote_std, 4),
                "tta_std": _rounded(face.tta_std, 4),
            }
            for face in self
        ]
        return {"width": self.image.shape[1], "height": self.image.shape[0], "faces": faces}

    def to_json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def to_coco(self, image_id: int = 1, file_name: str = "") -> dict[str, Any]:
        """Return a COCO keypoint table of this image; all points count as visible (2)."""
        height, width = self.image.shape[:2]
        return {
            "images": [{"id": image_id, "file_name": file_name, "width": width, "height": height}],
            "annotations": [
                coco_annotation(face.points, annotation_id, image_id, face.detection_score)
                for annotation_id, face in enumerate(self, start=1)
            ],
            "categories": [coco_category(self.scheme)],
        }

    def to_pts(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write one ``.pts`` file a face, see `pts_files`, and return their paths.

        Raises:
            DataError: the suffix is not ``.pts``.
            WriteError: a file cannot be written.
        """
        if Path(path).suffix.lower() != ".pts":
            raise DataError(f"{path}: a landmark file ends in .pts")
        files = self.pts_files(path)
        for file, face in zip(files, self, strict=True):
            write_pts(file, face.points)
        return files

    def pts_files(self, path: str | os.PathLike[str]) -> list[Path]:
        """Return the paths of the faces' ``.pts`` files: ``NAME.pts``, then ``NAME_face2.pts`` and so on."""
        return [pts_file(Path(path), i) for i in range(len(self))]

    def aligned(self, size: int = 256, margin: float = 0.25) -> UInt8[np.ndarray, "faces size size 3"]:
        """Return each face rotated upright, at the same size and position.

        The map is the least-squares similarity from its landmarks to the model's mean face; black beyond the
        image.

        Args:
            size: side of the crops in pixels.
            margin: room around the mean face's landmarks, as a fraction of their longer side.

        Raises:
            PipnetError: size or margin out of range, or the model's mean face is unknown.
        """
        if not (isinstance(size, int | np.integer) and 0 < size < 2**15 and -0.5 < margin < 100):
            raise PipnetError(f"size must be 1 to 32767 and margin -0.5 to 100, not {size} and {margin}")
        mean_face = self.metadata.require_mean_face("alignment")
        box = tight_box(mean_face)
        center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * (1 + 2 * margin)
        target = (mean_face - center) / side * size + (size - 1) / 2
        crops = [warp(self.image, similarity(face.points, target), size) for face in self]
        return np.array(crops, np.uint8).reshape(-1, size, size, 3)


def coco_category(scheme: LandmarkScheme) -> dict[str, Any]:
    """Return the COCO category of faces with these landmarks."""
    segments = [pair for chain in scheme.edges for pair in pairwise(chain)]
    return {
        "id": 1,
        "name": "face",
        "keypoints": list(scheme.landmark_names),
        "skeleton": [[a + 1, b + 1] for a, b in segments],
    }


def _rounded(values: Float32[np.ndarray, ...], digits: int) -> Any:
    return np.round(values.astype(np.float64), digits).tolist()


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


def pts_file(first: Path, face: int) -> Path:
    """Return the path of a face's ``.pts`` file, given that of face 0."""
    return first.with_stem(f"{first.stem}_face{face + 1}") if face else first
