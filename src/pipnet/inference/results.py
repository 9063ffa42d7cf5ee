"""Results: the landmarks of the faces of an image, and their output formats."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import PIL.Image
from jaxtyping import Float32, UInt8

from pipnet.annotations.pts import write_pts
from pipnet.confidence import ErrorEstimate
from pipnet.errors import DataError, import_optional
from pipnet.geometry import Box, Image, Points
from pipnet.inference import tables
from pipnet.inference.align import Template, alignment, check_template
from pipnet.inference.draw import Color, DrawStyle, draw_faces
from pipnet.inference.openness import Openness, openness
from pipnet.inference.pose import head_pose
from pipnet.io.image import write_image
from pipnet.io.photo import Photo, full_pixels
from pipnet.io.text import counted
from pipnet.metadata import ModelMetadata
from pipnet.scheme import LandmarkScheme, SchemeMapping
from pipnet.warp import warp

if TYPE_CHECKING:
    import pandas
    import supervision

_MARGIN = 0.25
"""Default margin of aligned faces."""


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
    photo: Image | Photo
    """The image itself, or the JPEG file that `image` decodes."""
    metadata: ModelMetadata
    """The metadata of the model; its scheme and mean face are those of the points, see `to_scheme`."""
    mapped_errors: ErrorEstimate | None = None
    """Estimates of the errors of mapped points; None for the model's own, see `to_scheme`."""

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
        errors = self.mapped_errors and ErrorEstimate(*(part[indices] for part in self.mapped_errors))
        return replace(self, **{name: getattr(self, name)[indices] for name in names}, mapped_errors=errors)

    @property
    def image(self) -> Image:
        """The image itself, RGB; a JPEG file may be decoded only now."""
        return full_pixels(self.photo)

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        height, width = self.photo.shape[:2]
        return width, height

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

    @property
    def is_calibrated(self) -> bool:
        """Whether confidence, expected error and quality are known; they are NaN otherwise."""
        return self.mapped_errors is not None or self.metadata.calibration is not None

    @cached_property
    def _errors(self) -> ErrorEstimate:
        if self.mapped_errors is not None:
            return self.mapped_errors
        calibration = self.metadata.calibration
        if calibration is None:
            return ErrorEstimate(np.full_like(self.scores, np.nan), np.full_like(self.scores, np.nan))
        return calibration.estimate(self.scores, self.vote_std, self.metadata.mean_face)

    @cached_property
    def quality(self) -> Float32[np.ndarray, " faces"]:
        """Mean confidence of each face: near 1 for a clear face, low for a false detection."""
        return np.asarray(self.confidence.mean(axis=1), dtype=np.float32)

    def __repr__(self) -> str:
        width, height = self.image_size
        faces, landmarks = counted(len(self), "face"), counted(self.scheme.landmarks, "landmark")
        return f"<{faces} of {landmarks} in {width} x {height} pixels>"

    # -- geometry ----------------------------------------------------------------------------------

    @cached_property
    def five_points(self) -> Float32[np.ndarray, "faces 5 2"]:
        """Right eye, left eye, nose tip, right and left corner of the mouth, in pixels of the image.

        Left and right are the person's, so the first eye is on the left of an upright image. This is the
        order of insightface, RetinaFace and MTCNN. An eye is the mean of its outline, or the pupil in schemes
        with few points.

        Raises:
            DataError: the scheme has no mapping to five points.
        """
        return self.to_scheme("five").points

    def to_scheme(self, name: str) -> FaceLandmarks:
        """Return the result with other landmarks, such as ``"300w"``, ``"aflw"`` or ``"five"``.

        A landmark that the model lacks is the mean of several of its own, see `SchemeMapping`. So are its
        score, deviations, confidence and expected error.

        Raises:
            DataError: no mapping leads from these landmarks to the scheme.
        """
        if name == self.scheme.name:
            return self
        mapping = SchemeMapping.load(self.scheme.name, name)
        metadata = replace(
            self.metadata,
            scheme=LandmarkScheme.load(name),
            mean_face=mapping(self.metadata.mean_face),
            calibration=None,
        )
        averaged = {key: mapping.average(getattr(self, key)) for key in ("scores", "vote_std", "tta_std")}
        errors = ErrorEstimate(*(mapping.average(part) for part in self._errors))
        return replace(
            self,
            points=mapping(self.points).astype(np.float32),
            **averaged,
            metadata=metadata,
            mapped_errors=errors if self.is_calibrated else None,
        )

    def head_pose(self, focal_length: float | None = None) -> Float32[np.ndarray, "faces 3"]:
        """Return yaw, pitch and roll of each head in degrees, by a rigid 3D mean face.

        Positive is, as seen in the image: turned to its right, looking up, tilted clockwise. See
        `pipnet.inference.pose` for the frame and the order of the rotations.

        Args:
            focal_length: of the camera in pixels of the image: its longer side for a field of view of 53
                degrees. If None, the camera is assumed to be far away, and the angles are those to the line
                from the camera to the face instead of those to the camera's axis.

        Raises:
            PipnetError: the focal length is not above 0.
            DataError: neither do the landmarks map to 300-W's 68, nor do both map to AFLW's 19 or to five
                points.
        """
        return head_pose(self.points, self.scheme, self.image_size, focal_length).astype(np.float32)

    def openness(self) -> Openness:
        """Return how far both eyes and the mouth of each face are open, with the confidence of each.

        Raises:
            DataError: the landmarks do not map to 300-W's 68.
        """
        mapped = self.to_scheme("300w")
        return openness(mapped.points, mapped.confidence)

    def aligned(
        self, size: int = 256, margin: float = _MARGIN, *, template: Template = "mean_face"
    ) -> UInt8[np.ndarray, "faces size size 3"]:
        """Return each face rotated upright, at the same size and position.

        The map is a similarity: rotation, scale and shift. Pixels beyond the image are black.

        Args:
            size: side of the crops in pixels.
            margin: room around the mean face's landmarks, as a fraction of their longer side; for
                ``mean_face`` only.
            template: ``mean_face``: the landmarks are nearest to the model's mean face. ``arcface``: the five
                points are where face recognition networks expect them, the same as insightface's
                ``norm_crop``; these networks take 112. ``ffhq``: the crop of the FFHQ dataset, without its
                blurred padding; StyleGAN takes 1024 or 256.

        Raises:
            PipnetError: size or margin out of range, no such template, or the model's mean face is unknown.
            DataError: the template needs `five_points`, and the scheme has no mapping to them.
        """
        check_template(size, margin, template, _MARGIN)
        five = [None] * len(self) if template == "mean_face" else self.five_points
        crops = [
            warp(self.image, alignment(points, corners, self.metadata, size, margin, template), size)
            for points, corners in zip(self.points, five, strict=True)
        ]
        return np.array(crops, np.uint8).reshape(-1, size, size, 3)

    # -- output ------------------------------------------------------------------------------------

    def plot(
        self,
        *,
        color: Color | None = None,
        thickness: float | None = None,
        boxes: bool = True,
        numbers: bool = False,
    ) -> PIL.Image.Image:
        """Return a copy of the image with boxes, edges and points drawn on it, as a Pillow image.

        Sizes scale with each face. Faces with a quality below 0.25 are dashed and red.

        Args:
            color: of points and edges: a name or code such as ``"red"`` or ``"#ff8800"``, or red, green and
                blue from 0 to 255. Green points and blue edges if None.
            thickness: of lines in pixels; 1/250 of the face, at least 1, if None. Points scale with it.
            boxes: draw the boxes.
            numbers: write the index of each landmark beside it.

        Raises:
            PipnetError: no such color, or the thickness is out of range.
        """
        style = DrawStyle(color, thickness, boxes, numbers)
        return draw_faces(self.image, self.points, self.boxes, self.scheme, self.quality, style)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image of `plot`; the file's suffix decides the format.

        Raises:
            ImageError: no such format.
            WriteError: the file cannot be written.
        """
        write_image(path, np.asarray(self.plot()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: width, height, and a list of faces, each with the fields of `Face`.

        Values that the model is not calibrated for are None.
        """
        return tables.to_dict(self)

    def to_json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def to_coco(self, image_id: int = 1, file_name: str = "", first_id: int = 1) -> dict[str, Any]:
        """Return a COCO keypoint table of this image; all points count as visible (2).

        Args:
            image_id: ID of the image.
            file_name: name of the image.
            first_id: ID of the first face, for tables of several images.
        """
        return tables.coco_table(self, image_id, file_name, first_id)

    def to_dataframe(self, rows: Literal["face", "landmark"] = "face") -> pandas.DataFrame:
        """Return a pandas data frame.

        With a row a face, which is what filters and joins need, the columns are those of ``pipnet detect
        --csv``: face, box_x, box_y, box_w, box_h, detection_score, quality, then NAME_x and NAME_y of each
        landmark, in pixels, then NAME_confidence. With a row a landmark, for plots and statistics: face,
        landmark, name, x, y, scores, confidence, expected_error, vote_std, tta_std.

        Args:
            rows: what a row is.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        make_frame: type[pandas.DataFrame] = import_optional("pandas").DataFrame
        if rows == "landmark":
            return make_frame(tables.landmark_table(self))
        frame = make_frame(tables.face_rows(self), columns=tables.face_columns(self.scheme))
        return frame.astype({name: "int64" if name == "face" else "float64" for name in frame.columns})

    def to_supervision(self) -> supervision.KeyPoints:
        """Return `supervision.KeyPoints` for its annotators, with names in ``data["class_name"]``.

        ``keypoint_confidence`` is `confidence`, or `scores` if the model is not calibrated.

        Raises:
            MissingExtraError: supervision is not installed.
        """
        make_key_points: type[supervision.KeyPoints] = import_optional("supervision").KeyPoints
        return make_key_points(
            xy=self.points,
            class_id=np.zeros(len(self), int),
            keypoint_confidence=self.confidence if self.is_calibrated else self.scores,
            detection_confidence=self.detection_score,
            data={"class_name": np.array(["face"] * len(self), dtype=object)},
        )

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


def pts_file(first: Path, face: int) -> Path:
    """Return the path of a face's ``.pts`` file, given that of face 0."""
    return first.with_stem(f"{first.stem}_face{face + 1}") if face else first
