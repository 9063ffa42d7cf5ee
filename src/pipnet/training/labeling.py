"""Giving unlabeled faces pseudo-labels with a trained model, in batches.

A given box is often only a rough place: a first pass finds the face there, a second cuts the crop around what
was found. What cannot be a face is dropped and counted, by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.samples import FaceSample
from pipnet.config import TTA, LandmarkerConfig
from pipnet.datasets.pseudo_labels import PseudoLabel
from pipnet.datasets.unlabeled import UnlabeledFace
from pipnet.errors import PipnetError
from pipnet.geometry import Image, box_iou, overlaps, tight_box
from pipnet.inference.backends.base import CropModel
from pipnet.inference.pipeline import Pipeline
from pipnet.inference.tta import predict_tta
from pipnet.io.image import read_image
from pipnet.progress import track
from pipnet.scheme import LandmarkScheme
from pipnet.training.teachers import Teacher, consensus

_TOGETHER = 32
"""Pictures decoded before the model is run."""
_SMALLEST = 16
"""Least side of a face in pixels."""
_OBLONG = 3.0
"""Largest ratio of a face box's sides."""
_APART = 0.1
"""Least overlap (intersection over union) of what both passes found."""


def label_faces(
    model: CropModel,
    faces: Sequence[UnlabeledFace],
    tta: TTA = "none",
    box_format: str = "face",
    teachers: Sequence[Teacher] = (),
    scheme: LandmarkScheme | None = None,
) -> tuple[list[PseudoLabel], Counter[str]]:
    """Landmarks of unlabeled faces.

    Args:
        model: finds landmarks on crops.
        faces: the faces, or pictures to search.
        tta: test-time augmentation of the labels.
        box_format: what given boxes are where their table does not say, see `KINDS`.
        teachers: label with the consensus of these instead; the model then only locates the faces.
        scheme: the landmarks of the teachers' labels; the model's if None.

    Returns:
        The pseudo-labels, and how many faces were dropped for which reason.

    Raises:
        ModelError: the model was not fitted to such boxes.
    """
    pipeline = Pipeline(model, "auto", LandmarkerConfig(tta=tta))
    labels: list[PseudoLabel] = []
    dropped: Counter[str] = Counter()
    chunks = [faces[i : i + _TOGETHER] for i in range(0, len(faces), _TOGETHER)]
    for chunk in track(chunks, len(chunks), "labeling"):
        placed = list(_places(pipeline, chunk, box_format, dropped))
        if placed:
            labels += _label(pipeline, placed, dropped, teachers, scheme or model.metadata.scheme)
    return labels, dropped


_Placed = tuple[UnlabeledFace, Image, Float32[np.ndarray, "4"]]
"""A face, its picture, and the box to cut the first crop around."""


def _places(
    pipeline: Pipeline, faces: Sequence[UnlabeledFace], box_format: str, dropped: Counter[str]
) -> Iterator[_Placed]:
    """Where the faces of a chunk are; of a picture without a box, all that the detector finds."""
    for face in faces:
        try:
            image = read_image(face.image)
        except PipnetError:
            dropped["picture cannot be read"] += 1
            continue
        name = face.box_format or box_format
        if face.box is not None and name != "region":
            if is_absurd(face.box):
                dropped["box is tiny or oblong"] += 1
            elif not overlaps(face.box[None], image.shape[1], image.shape[0])[0]:
                dropped["box is outside the picture"] += 1
            else:
                yield face, image, pipeline.adapt(face.box[None], name)[0]
            continue
        found = pipeline.detect(image).boxes
        if face.box is not None and len(found):
            overlap = box_iou(found, face.box)
            found = found[[int(overlap.argmax())]] if overlap.max() > _APART else found[:0]
        if not len(found):
            dropped["no face found"] += 1
        for number, box in enumerate(pipeline.adapt(found, pipeline.detector.box_format), start=1):
            name = face.name if number == 1 else f"{face.name}#{number}"
            yield UnlabeledFace(face.image, face.box, name), image, box


def _label(
    pipeline: Pipeline,
    placed: Sequence[_Placed],
    dropped: Counter[str],
    teachers: Sequence[Teacher],
    scheme: LandmarkScheme,
) -> Iterator[PseudoLabel]:
    """Two passes over the faces of a chunk, and what is sound of what they find."""
    pictures = [image for _, image, _ in placed]
    rough = predict_tta(pipeline.model, pictures, [box[None] for _, _, box in placed])
    tight = np.array([tight_box(points) for points in rough.points], np.float32)
    agreed = consensus(teachers, pictures, tight, scheme) if teachers else None
    around = tight if agreed is None else np.stack([tight_box(points) for points in agreed.points])
    boxes = pipeline.adapt(around, "landmarks")
    seen = pipeline.predict(pictures, [box[None] for box in boxes])
    labels, tta_std = (seen.points, seen.tta_std) if agreed is None else agreed
    for i, (face, image, _) in enumerate(placed):
        box = tight_box(labels[i])
        there = overlaps(box[None], image.shape[1], image.shape[0])[0]
        if is_absurd(box) or not there or box_iou(box[None], tight[i])[0] < _APART:
            dropped["found points are no face"] += 1
            continue
        yield PseudoLabel(
            FaceSample(face.image, labels[i], face.name, str(face.image)),
            mean_score=float(seen.scores[i].mean()),
            vote_std=100 * float(seen.vote_std[i].mean()),
            label_std=100 * float(tta_std[i].mean()),
            weights=None if agreed is None else agreed.weights[i],
        )


def is_absurd(box: Float32[np.ndarray, "4"]) -> bool:
    """Whether a box is too small or too oblong for a face."""
    width, height = (box[2:] - box[:2]).tolist()
    return not (min(width, height) >= _SMALLEST and max(width, height) <= _OBLONG * min(width, height))
