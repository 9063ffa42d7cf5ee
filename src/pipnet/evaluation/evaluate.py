"""Evaluation of a landmarker on labeled faces: from the true boxes as the papers do, or end to end.

Errors are measured in two frames, because published numbers differ in it: ``pixels`` takes distances in the
image, ``official`` in the papers' crop, stretched to a unit square. The model is given either the true box or
the boxes of a face detector. End to end, a face is matched to the detection that overlaps most with its true
box, before any landmark is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from pipnet.annotations.samples import FaceSample, without_label_offset
from pipnet.box_adapter import match_overlapping
from pipnet.datasets.registry import DatasetSpec
from pipnet.errors import DataError, ImageError
from pipnet.evaluation.metrics import (
    area_under_curve,
    bootstrap_mean,
    failure_rate,
    norm_distance,
    point_errors,
)
from pipnet.geometry import Box, CropConfig, Image, Points, tight_box, to_fraction
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image
from pipnet.scheme import LandmarkScheme

Norm = Literal["scheme", "box", "diagonal", "longer_side", "width"]
"""The unit of errors, see `evaluate`."""

LabeledImage = tuple[Image, FaceSample]
"""A decoded image, and a face with its points in pixels of the image."""


@dataclass(frozen=True, eq=False)
class FaceErrors:
    """The errors of each evaluated face."""

    samples: list[FaceSample]
    """The faces, without those that the detector missed."""
    predicted: list[Points]
    """Their predicted landmarks, in pixels of the image."""
    pixels: Float64[np.ndarray, "faces landmarks"]
    """Error of each point in units of the norm, in the image."""
    official: Float64[np.ndarray, "faces landmarks"]
    """Error of each point in units of the norm, in the papers' stretched square."""
    offset_removed: Float64[np.ndarray, "faces landmarks"]
    """As ``pixels``, for labels without their known offset, see `FaceSample.label_offset`. The predictions
    are the same."""
    missed: list[FaceSample]
    """Faces that the detector missed."""
    without_norm: int = 0
    """Number of faces left out because their norm is zero or unknown."""

    @property
    def nmes(self) -> Float64[np.ndarray, " faces"]:
        """NME of each face that was not missed, in the image."""
        return np.asarray(np.nanmean(self.pixels, axis=1))

    def worst(self, count: int) -> list[int]:
        """Return the indices of the faces with the largest NME, the worst first."""
        return [int(i) for i in np.argsort(-self.nmes)[:count]]

    def summary(self, scheme: LandmarkScheme) -> dict[str, Any]:
        """Return the metrics as plain data, in percent.

        Missed faces count as failures in the failure rate and the AUC. The other metrics are without them.
        """
        return {
            "faces": len(self.samples) + len(self.missed),
            "missed": len(self.missed),
            "without_norm": self.without_norm,
            "pixels": self._metrics(self.pixels, scheme),
            "official": self._metrics(self.official, scheme),
            "offset_removed": self._metrics(self.offset_removed, scheme),
        }

    def _metrics(
        self, errors: Float64[np.ndarray, "faces landmarks"], scheme: LandmarkScheme
    ) -> dict[str, Any]:
        nmes = np.asarray(np.nanmean(errors, axis=1))
        with_missed = np.concatenate([nmes, np.full(len(self.missed), np.inf)])
        regions = {name: errors[:, list(members)] for name, members in scheme.regions.items()}
        return {
            "nme": _percent(nmes.mean()),
            "nme_ci": [_percent(end) for end in bootstrap_mean(nmes)],
            "fr10": _percent(failure_rate(with_missed)),
            "auc10": _percent(area_under_curve(with_missed)),
            "median": _percent(np.median(nmes)),
            "p95": _percent(np.percentile(nmes, 95)),
            "regions": {
                name: _percent(np.nanmean(part)) for name, part in regions.items() if np.isfinite(part).any()
            },
        }


def _percent(fraction: float | np.floating[Any]) -> float:
    return round(100 * float(fraction), 4)


def evaluate(
    landmarker: FaceLandmarker,
    images: Iterable[LabeledImage],
    spec: DatasetSpec,
    true_boxes: bool = True,
    norm: Norm = "scheme",
) -> FaceErrors:
    """Measure the errors of a landmarker on labeled faces.

    Args:
        landmarker: the model and the detector.
        images: the faces, in the model's scheme; see `decoded` and `pipnet.evaluation.composite_images`.
        spec: the dataset of the faces.
        true_boxes: whether the model is given the true boxes, or the boxes that the detector finds.
        norm: the unit of the errors: the scheme's norm, the side of the face box or its diagonal, the longer
            side of the tight box of the known landmarks, or the width of the crop of arXiv v1 ("image
            width", v1's norm across datasets). With the latter, the official frame is v1's crop too.

    Raises:
        DataError: there are no faces, the detector missed all of them, or they have another number of
            landmarks than the model.
        BoxError: the model's crops are cut around the dataset's boxes, and there are none.
    """
    scheme = landmarker.metadata.scheme
    if norm in ("box", "diagonal", "longer_side"):
        scheme = replace(scheme, norm=norm)
    crop_config = spec.v1_crop if norm == "width" else spec.official_crop
    results: list[tuple[Any, ...]] = []  # the first five fields of `FaceErrors`
    missed, without_norm = [], 0
    for image, sample in images:
        if len(sample.points) != scheme.landmarks:
            raise DataError(f"{sample.name} has {len(sample.points)} landmarks, the model {scheme.landmarks}")
        frame = _papers_frame(crop_config, landmarker.metadata.crop, image, sample)
        by_width = norm == "width"
        unit = frame[2] - frame[0] if by_width else norm_distance(sample.points, scheme, sample.box)
        if not unit > 0:
            without_norm += 1
            continue
        points = _predict(landmarker, image, sample, true_boxes)
        if points is None:
            missed.append(sample)
            continue
        pixels = point_errors(points, sample.points, float(unit))
        official = _official_errors(points, sample, frame, None if by_width else scheme)
        offset_removed = point_errors(points, without_label_offset(sample).points, float(unit))
        results.append((sample, points, pixels, official, offset_removed))
    if not results:
        raise DataError(f"nothing to evaluate: {len(missed)} faces missed, {without_norm} without a norm")
    samples, predicted, *frames = map(list, zip(*results, strict=True))
    pixels, official, offset_removed = map(np.array, frames)
    return FaceErrors(samples, predicted, pixels, official, offset_removed, missed, without_norm)


def decoded(
    samples: Iterable[FaceSample], unreadable: list[ImageError] | None = None
) -> Iterator[LabeledImage]:
    """Yield each face with its decoded image.

    Args:
        samples: the faces.
        unreadable: if given, faces with unreadable images are left out and the errors are appended to it.

    Raises:
        ImageError: an image cannot be read, and ``unreadable`` is None.
    """
    for sample in samples:
        try:
            image = read_image(sample.image)
        except ImageError as error:
            if unreadable is None:
                raise
            unreadable.append(error)
            continue
        yield image, sample


def _predict(landmarker: FaceLandmarker, image: Image, sample: FaceSample, true_boxes: bool) -> Points | None:
    """Return the predicted landmarks of a face; None if it is missed, or left out by ``min_quality``."""
    crop_config = landmarker.metadata.crop
    true_box = sample.face_box(crop_config)
    if true_boxes:
        faces = landmarker(image, boxes=true_box, box_format="model")
        return faces[0].points if len(faces) else None
    faces = landmarker(image)
    height, width = image.shape[:2]
    # Crops are compared instead of face boxes: a few landmarks span a box so small that any shift misses it.
    crops = np.array(
        [crop_config.region(box, width, height) for box in faces.crop_boxes], np.float32
    ).reshape(-1, 4)
    match = match_overlapping(crops, crop_config.region(true_box, width, height))
    return None if match is None else faces[match].points


def _papers_frame(
    crop_config: CropConfig, model_crop_config: CropConfig, image: Image, sample: FaceSample
) -> Box:
    """Return the papers' crop, around the box of the dataset's own landmarks even where they were mapped."""
    height, width = image.shape[:2]
    if sample.crop_box is not None:  # the face keeps a paper's crop, see `pipnet.datasets.paper_crops`
        return model_crop_config.region(sample.crop_box, width, height)
    if crop_config.box == "landmarks" and sample.source_box is not None:
        return crop_config.region(sample.source_box, width, height)
    return crop_config.region(crop_config.face_box(sample.points, sample.box), width, height)


def _official_errors(
    points: Points, sample: FaceSample, frame: Box, scheme: LandmarkScheme | None
) -> Float64[np.ndarray, " landmarks"]:
    """Return the errors in the papers' crop, where x and y are fractions of its width and height.

    The unit is the scheme's norm, or the crop's width if ``scheme`` is None.
    """
    true = to_fraction(sample.points, frame)
    unit = 1.0
    if scheme is not None:
        box = tight_box(sample.points) if sample.box is None else sample.box
        stretched = to_fraction(box.reshape(2, 2), frame).ravel().astype(np.float32)
        unit = norm_distance(true, scheme, stretched)
    return point_errors(to_fraction(points, frame), true, unit)
