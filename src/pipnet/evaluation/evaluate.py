"""Measuring a model on labeled faces, as the papers do and end to end.

Two frames, side by side, since published numbers differ in it: ``pixels`` takes distances in the picture,
``official`` in the papers' crop stretched to a unit square. Two ways to the crop: the true box with the
model's own crop rule, or a face detector run on the whole picture. In the latter the face is
matched by the highest overlap with the true box before any landmark is looked at.
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

LabeledPicture = tuple[Image, FaceSample]
"""A decoded picture, and a face whose points are in pixels of it."""


@dataclass(frozen=True, eq=False)
class FaceErrors:
    """What was measured on each face that was found."""

    samples: list[FaceSample]
    """The faces that were found."""
    predicted: list[Points]
    """Their predicted landmarks, in pixels of the picture."""
    pixels: Float64[np.ndarray, "faces landmarks"]
    """Error of each point in units of the norm, in the picture."""
    official: Float64[np.ndarray, "faces landmarks"]
    """The same in the papers' stretched square."""
    offset_removed: Float64[np.ndarray, "faces landmarks"]
    """As ``pixels``, from labels without their known offset, see `FaceSample.label_offset`. The predictions
    are the same."""
    missed: list[FaceSample]
    """Faces that the detector did not find."""
    without_norm: int = 0
    """Faces that were left out, because a landmark of the norm is unknown or both are one."""

    @property
    def nmes(self) -> Float64[np.ndarray, " faces"]:
        """NME of each found face, in the picture."""
        return np.asarray(np.nanmean(self.pixels, axis=1))

    def worst(self, count: int) -> list[int]:
        """The found faces with the largest NME, worst first, by number."""
        return [int(i) for i in np.argsort(-self.nmes)[:count]]

    def summary(self, scheme: LandmarkScheme) -> dict[str, Any]:
        """Plain data for reports, in percent.

        Faces that were missed count as failures in FR and AUC; the other errors are over the faces that
        were found.
        """
        return {
            "faces": len(self.samples) + len(self.missed),
            "missed": len(self.missed),
            "without_norm": self.without_norm,
            "pixels": self._frame(self.pixels, scheme),
            "official": self._frame(self.official, scheme),
            "offset_removed": self._frame(self.offset_removed, scheme),
        }

    def _frame(
        self, errors: Float64[np.ndarray, "faces landmarks"], scheme: LandmarkScheme
    ) -> dict[str, Any]:
        nmes = np.asarray(np.nanmean(errors, axis=1))
        with_missed = np.concatenate([nmes, np.full(len(self.missed), np.inf)])
        regions = {
            name: round(100 * float(np.nanmean(errors[:, list(members)])), 4)
            for name, members in scheme.regions.items()
            if np.isfinite(errors[:, list(members)]).any()
        }
        return {
            "nme": round(100 * float(nmes.mean()), 4),
            "nme_ci": [round(100 * end, 4) for end in bootstrap_mean(nmes)],
            "fr10": round(100 * failure_rate(with_missed), 4),
            "auc10": round(100 * area_under_curve(with_missed), 4),
            "median": round(100 * float(np.median(nmes)), 4),
            "p95": round(100 * float(np.percentile(nmes, 95)), 4),
            "regions": regions,
        }


def evaluate(
    landmarker: FaceLandmarker,
    pictures: Iterable[LabeledPicture],
    spec: DatasetSpec,
    true_boxes: bool = True,
    norm: Norm = "scheme",
) -> FaceErrors:
    """Measure a landmarker on labeled faces.

    Args:
        landmarker: model and detector.
        pictures: the faces, in the model's scheme; see `decoded` and `pipnet.evaluation.composites`.
        spec: the collection that they are from.
        true_boxes: give the model the true boxes; False: let the detector find the faces.
        norm: the unit of the errors: the scheme's own, the side of the face's box or its diagonal, the longer
            side of the tight box of the known landmarks, or the width of v1's crop ("image width", v1's norm
            across collections), whose stretched square then is the official frame too.

    Raises:
        DataError: there are no faces, the detector found none of them, or they have another number
            of landmarks than the model.
        BoxError: the model's crops are cut around the collection's boxes, and there are none.
    """
    scheme = landmarker.model.metadata.scheme
    if norm in ("box", "diagonal", "longer_side"):
        scheme = replace(scheme, norm=norm)
    papers = spec.v1_crop if norm == "width" else spec.official_crop
    samples, predicted, pixels, official, offset_removed, missed = [], [], [], [], [], []
    without_norm = 0
    for image, sample in pictures:
        if len(sample.points) != scheme.landmarks:
            raise DataError(f"{sample.name} has {len(sample.points)} landmarks, the model {scheme.landmarks}")
        frame = papers(_papers_box(papers, sample), image.shape[1], image.shape[0])
        width = norm == "width"
        unit = frame[2] - frame[0] if width else norm_distance(sample.points, scheme, sample.box)
        if not unit > 0:
            without_norm += 1
            continue
        points = _predict(landmarker, image, sample, true_boxes)
        if points is None:
            missed.append(sample)
            continue
        samples.append(sample)
        predicted.append(points)
        pixels.append(point_errors(points, sample.points, float(unit)))
        offset_removed.append(point_errors(points, without_label_offset(sample).points, float(unit)))
        official.append(_official_errors(points, sample, frame, None if width else scheme))
    if not samples:
        raise DataError(f"nothing to measure: {len(missed)} faces not found, {without_norm} without a norm")
    return FaceErrors(
        samples=samples,
        predicted=predicted,
        pixels=np.array(pixels),
        official=np.array(official),
        offset_removed=np.array(offset_removed),
        missed=missed,
        without_norm=without_norm,
    )


def decoded(
    samples: Iterable[FaceSample], unreadable: list[ImageError] | None = None
) -> Iterator[LabeledPicture]:
    """Each face with its picture.

    Args:
        samples: the faces.
        unreadable: takes the errors of pictures that cannot be read, whose faces are left out then.

    Raises:
        ImageError: a picture cannot be read, and ``unreadable`` is not given.
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
    rule = landmarker.model.metadata.crop
    true = rule.face_box(sample.points, sample.box)
    if true_boxes:
        return landmarker(image, boxes=true, box_format="model")[0].points
    faces = landmarker(image)
    height, width = image.shape[:2]
    # Whole crops are compared: a few landmarks lie in a box so small that a little shift loses it.
    crops = np.array([rule(box, width, height) for box in faces.crop_boxes], np.float32).reshape(-1, 4)
    match = match_overlapping(crops, rule(true, width, height))
    return None if match is None else faces[match].points


def _papers_box(rule: CropConfig, sample: FaceSample) -> Box:
    """The box of the papers' crop: of the collection's own landmarks, also where they were mapped."""
    if rule.box == "landmarks" and sample.source_box is not None:
        return sample.source_box
    return rule.face_box(sample.points, sample.box)


def _official_errors(
    points: Points, sample: FaceSample, frame: Box, scheme: LandmarkScheme | None
) -> Float64[np.ndarray, " landmarks"]:
    """Errors in the papers' crop, where x and y are fractions of its width and height.

    The unit is the scheme's norm, or the crop's width without a scheme.
    """
    true = to_fraction(sample.points, frame)
    unit = 1.0
    if scheme is not None:
        box = tight_box(sample.points) if sample.box is None else sample.box
        stretched = to_fraction(box.reshape(2, 2), frame).ravel().astype(np.float32)
        unit = norm_distance(true, scheme, stretched)
    return point_errors(to_fraction(points, frame), true, unit)
