"""The faces of a contact sheet: those of any labeled set, and what a model finds on them.

`read_faces` is the only place that knows where faces come from. Another kind of set is one more branch in it
that gives `ShownFace`s.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipnet.annotations.formats import read_annotations
from pipnet.annotations.samples import FaceSample, evenly_spaced
from pipnet.bulk.annotated_faces import AnnotatedFaces, is_annotated
from pipnet.datasets.load import load_samples, recognize_dataset
from pipnet.datasets.pseudo_labels import is_pseudo_labels, read_pseudo_labels
from pipnet.errors import DataError
from pipnet.evaluation.metrics import norm_distance, point_errors
from pipnet.geometry import Image, Points
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.scheme import LandmarkScheme

Value = Literal["nme", "confidence", "score", "vote_std", "tta_std"]
"""What is known of a face: the error of the model's points against the labels, in percent of the scheme's
norm; mean confidence and mean score of the landmarks, in [0, 1]; mean spread of the votes and mean
disagreement of the views, in percent of the crop."""


@dataclass(frozen=True, eq=False)
class ShownFace:
    """A face of the sheet."""

    sample: FaceSample
    values: dict[Value, float] = field(default_factory=dict)
    """What the page sorts by; what is not known is not there."""
    found: Points | None = None
    """The model's landmarks in pixels of the picture."""


@dataclass(frozen=True)
class FaceSet:
    """What is to be shown of a set."""

    faces: list[ShownFace]
    """Some of its faces, evenly spread."""
    total: int
    """How many it has."""
    scheme: LandmarkScheme
    """What their landmarks are."""
    unreadable: int = 0
    """Pictures that could not be read when the set was annotated."""


def read_faces(
    path: Path,
    limit: int,
    subset: str | None = None,
    scheme: str | LandmarkScheme | None = None,
    images: Path | None = None,
) -> FaceSet:
    """The labeled faces of a collection, of one's own annotations or pseudo-labels, or of a bulk job.

    Args:
        path: the set. Of a job of ``pipnet annotate``, its folder or one of its shards.
        limit: give at most this many faces.
        subset: which part of it, see `load_samples`.
        scheme: what the landmarks are. One's own annotations and pseudo-labels do not say it; without it
            they are points that no line joins.
        images: the folder of the pictures of one's own annotations, where they do not lie beside them, or
            of a job's, where they were moved.

    Raises:
        DataError: see `load_samples`, `read_pseudo_labels` and `AnnotatedFaces`.
        MissingExtraError: pyarrow is not installed, for a job.
    """
    if is_annotated(path):
        return _annotated(path, limit, subset, scheme, images)
    faces, loaded = _labeled(path, subset, scheme, images)
    return FaceSet(evenly_spaced(faces, limit), len(faces), loaded)


def _annotated(
    path: Path,
    limit: int,
    subset: str | None,
    scheme: str | LandmarkScheme | None,
    images: Path | None,
) -> FaceSet:
    """Those of a job, of which only the faces that are shown are held."""
    if subset:
        raise DataError(f"{path}: what pipnet annotate wrote has no subsets; its shards can be opened alone")
    found = AnnotatedFaces(path, images)
    loaded = found.scheme if scheme is None else _scheme_of(path, scheme, found.scheme.landmarks)
    if loaded.landmark_names != found.scheme.landmark_names:
        raise DataError(f"{path}: its landmarks are those of {found.scheme.name!r}, not of {loaded.name!r}")
    faces = [
        ShownFace(
            label.sample,
            {
                **({} if quality is None else {"confidence": quality}),
                "score": label.mean_score,
                "vote_std": label.vote_std,
                **({"tta_std": label.label_std} if label.label_std else {}),
            },
        )
        for label, quality in found.read(evenly_spaced(range(len(found)), limit))
    ]
    return FaceSet(faces, len(found), loaded, found.unreadable)


def _labeled(
    path: Path, subset: str | None, scheme: str | LandmarkScheme | None, images: Path | None
) -> tuple[list[ShownFace], LandmarkScheme]:
    """Those of any other set."""
    if is_pseudo_labels(path):
        if subset or images:
            raise DataError(
                f"{path}: a table of pseudo-labels has no subsets, and says where its pictures are"
            )
        labels = read_pseudo_labels(path)
        faces = [
            ShownFace(
                label.sample,
                {"score": label.mean_score, "vote_std": label.vote_std, "tta_std": label.label_std},
            )
            for label in labels
        ]
        return faces, _scheme_of(path, scheme, len(labels[0].sample.points))
    if scheme is None and recognize_dataset(path) is None:
        count = len(read_annotations(path, images).samples[0].points)
        scheme = _unknown_scheme(path, count)
    samples, loaded, _ = load_samples(path, subset, scheme, images=images)
    return [ShownFace(sample) for sample in samples], loaded


def with_model(face: ShownFace, image: Image, landmarker: FaceLandmarker) -> ShownFace:
    """The face with the model's landmarks, found in the labels' own box, and what they are worth.

    The model's score and spread take the place of those that a pseudo-label came with.

    Raises:
        BoxError: the model's crops are cut around the collection's boxes, and there are none.
    """
    sample, metadata = face.sample, landmarker.model.metadata
    box = metadata.crop.face_box(sample.points, sample.box)
    seen = landmarker(image, boxes=box, box_format="model")[0]
    norm = norm_distance(sample.points, metadata.scheme, sample.box)
    measured: dict[Value, float] = {
        "nme": 100 * float(np.nanmean(point_errors(seen.points, sample.points, norm)))
        if norm > 0
        else np.nan,
        "confidence": float(seen.confidence.mean()),
        "score": float(seen.scores.mean()),
        "vote_std": 100 * float(seen.vote_std.mean()),
    }
    known = {key: value for key, value in measured.items() if np.isfinite(value)}
    return replace(face, values={**face.values, **known}, found=seen.points)


def _scheme_of(path: Path, scheme: str | LandmarkScheme | None, landmarks: int) -> LandmarkScheme:
    if scheme is None:
        return _unknown_scheme(path, landmarks)
    loaded = LandmarkScheme.load(scheme) if isinstance(scheme, str) else scheme
    if loaded.landmarks != landmarks:
        raise DataError(
            f"{path}: {landmarks} landmarks a face, scheme {loaded.name!r} has {loaded.landmarks}"
        )
    return loaded


def _unknown_scheme(path: Path, landmarks: int) -> LandmarkScheme:
    """Points of which nothing is known but their number."""
    return LandmarkScheme(
        name=path.stem, title=path.stem, landmarks=landmarks, norm="box", flip=(), edges=(), regions={}
    )
