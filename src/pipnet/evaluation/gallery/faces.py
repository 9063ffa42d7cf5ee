"""The faces of the gallery: those of any labeled dataset, and what a model predicts for them.

`read_faces` is the only place that knows the kinds of datasets. A new kind is one more branch in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipnet.annotations.formats import read_annotations
from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.bulk.job_reader import AnnotatedFaces, is_annotated
from pipnet.datasets.load import load_samples, open_bundle, recognize_dataset
from pipnet.datasets.pseudo_labels import PseudoLabel, is_pseudo_labels, read_pseudo_labels
from pipnet.errors import DataError
from pipnet.evaluation.metrics import norm_distance, point_errors
from pipnet.geometry import Image, Points
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.scheme import LandmarkScheme

Value = Literal["nme", "quality", "mean_score", "vote_std", "label_std"]
"""A value of a face: the error of the model's points against the labels, in percent of the norm; mean
confidence and mean score of the landmarks, in [0, 1]; mean standard deviation of the votes, and of the
predictions that the label is a mean of, in percent of the crop."""


@dataclass(frozen=True, eq=False)
class GalleryFace:
    """A face of the gallery."""

    sample: FaceSample
    values: dict[Value, float] = field(default_factory=dict)
    """The known values, by which the page sorts."""
    predicted: Points | None = None
    """The model's landmarks in pixels of the image."""


@dataclass(frozen=True)
class FaceSet:
    """The faces of a dataset that the gallery shows."""

    faces: list[GalleryFace]
    """Some faces of the dataset, evenly spaced."""
    total: int
    """Number of faces of the dataset."""
    scheme: LandmarkScheme
    unreadable: int = 0
    """Number of images that could not be read when the dataset was annotated."""


def read_faces(
    path: Path,
    limit: int,
    subset: str | None = None,
    scheme: str | LandmarkScheme | None = None,
    images: Path | None = None,
) -> FaceSet:
    """Return the labeled faces of a dataset, of own annotations or pseudo-labels, or of a bulk job.

    Args:
        path: the dataset. Of a job of ``pipnet annotate``, its folder or one of its shards.
        limit: the maximum number of faces to return.
        subset: the subset of the dataset, see `load_samples`.
        scheme: the scheme of the landmarks. Own annotations and pseudo-labels do not state it; without it,
            the gallery shows points without edges.
        images: the image folder of own annotations, if it is another one, or of a job, if it was moved.

    Raises:
        DataError: see `load_samples`, `read_pseudo_labels` and `AnnotatedFaces`.
        MissingExtraError: pyarrow is not installed, for a job.
    """
    if is_annotated(path):
        return _read_job(path, limit, subset, scheme, images)
    if is_pseudo_labels(path):
        if subset or images:
            raise DataError(f"{path}: a table of pseudo-labels has no subsets, and names its images itself")
        labels = read_pseudo_labels(path)
        loaded = _load_scheme(path, scheme, len(labels[0].sample.points))
        faces = [GalleryFace(label.sample, _label_values(label)) for label in labels]
    else:
        if scheme is None and recognize_dataset(path) is None:
            scheme = _unknown_scheme(path, len(read_annotations(open_bundle(path), images).samples[0].points))
        samples, loaded, _ = load_samples(path, subset, scheme, images=images)
        faces = [GalleryFace(sample) for sample in samples]
    return FaceSet(evenly_spaced(faces, limit), len(faces), loaded)


def _read_job(
    path: Path,
    limit: int,
    subset: str | None,
    scheme: str | LandmarkScheme | None,
    images: Path | None,
) -> FaceSet:
    """Return faces of a job. Only those that are shown are kept in memory."""
    if subset:
        raise DataError(f"{path}: a job of pipnet annotate has no subsets; open one of its shards instead")
    job = AnnotatedFaces(path, images)
    loaded = job.scheme if scheme is None else _load_scheme(path, scheme, job.scheme.landmarks)
    if loaded.landmark_names != job.scheme.landmark_names:
        raise DataError(f"{path}: has the landmarks of scheme {job.scheme.name!r}, not of {loaded.name!r}")
    faces = [
        GalleryFace(label.sample, _label_values(label, quality))
        for label, quality in job.read(evenly_spaced(range(len(job)), limit))
    ]
    return FaceSet(faces, len(job), loaded, job.unreadable)


def _label_values(label: PseudoLabel, quality: float | None = None) -> dict[Value, float]:
    values: dict[Value, float] = {} if quality is None else {"quality": quality}
    values |= {"mean_score": label.mean_score, "vote_std": label.vote_std}
    if label.label_std:  # 0 for a single prediction
        values["label_std"] = label.label_std
    return values


def with_prediction(face: GalleryFace, image: Image, landmarker: FaceLandmarker) -> GalleryFace:
    """Return the face with the model's landmarks, predicted from the label's own box, and their values.

    The values of the prediction replace those of a pseudo-label.

    Raises:
        BoxError: the model's crops are cut around the dataset's boxes, and there are none.
    """
    sample, metadata = face.sample, landmarker.metadata
    box = sample.face_box(metadata.crop)
    prediction = landmarker(image, boxes=box, box_format="model")[0]
    values: dict[Value, float] = {
        "quality": prediction.quality,
        "mean_score": float(prediction.scores.mean()),
        "vote_std": 100 * float(prediction.vote_std.mean()),
    }
    norm = norm_distance(sample.points, metadata.scheme, sample.box)
    if norm > 0:
        values["nme"] = 100 * float(np.nanmean(point_errors(prediction.points, sample.points, norm)))
    known = {key: value for key, value in values.items() if np.isfinite(value)}
    return replace(face, values={**face.values, **known}, predicted=prediction.points)


def _load_scheme(path: Path, scheme: str | LandmarkScheme | None, landmarks: int) -> LandmarkScheme:
    if scheme is None:
        return _unknown_scheme(path, landmarks)
    loaded = LandmarkScheme.load(scheme) if isinstance(scheme, str) else scheme
    if loaded.landmarks != landmarks:
        raise DataError(
            f"{path}: {landmarks} landmarks per face, but scheme {loaded.name!r} has {loaded.landmarks}"
        )
    return loaded


def _unknown_scheme(path: Path, landmarks: int) -> LandmarkScheme:
    """Return a scheme of which only the number of landmarks is known."""
    return LandmarkScheme(
        name=path.stem, title=path.stem, landmarks=landmarks, norm="box", flip=(), edges=(), regions={}
    )
