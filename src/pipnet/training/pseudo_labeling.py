"""Pseudo-labels of unlabeled faces by a trained model, in batches.

Boxes may be inaccurate, so each face is predicted twice: the first prediction gives the box that the crop of
the second one is cut around, unless the face keeps its crop. Predictions that cannot be faces are dropped and
counted, by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.samples import FaceSample
from pipnet.config import DEFAULT_DETECTOR, TTA, LandmarkerConfig
from pipnet.datasets.pseudo_labels import PseudoLabel
from pipnet.datasets.unlabeled import UnlabeledFace
from pipnet.errors import PipnetError
from pipnet.geometry import Image, box_iou, overlaps, tight_box
from pipnet.inference.backends.base import CropModel
from pipnet.inference.pipeline import Pipeline
from pipnet.inference.predict import crop_boxes_from_points, predict_crops
from pipnet.io.image import read_image
from pipnet.progress import show_progress
from pipnet.scheme import LandmarkScheme
from pipnet.training.teachers import Teacher, consensus

_BATCH_SIZE = 32
"""Images decoded before the model is run."""
_MIN_SIDE = 16
"""Minimum side of a face in pixels."""
_MAX_ASPECT_RATIO = 3.0
"""Maximum ratio of a face box's sides."""
_MIN_IOU = 0.1
"""Minimum intersection over union of the two predictions' boxes."""


def label_faces(
    model: CropModel,
    faces: Sequence[UnlabeledFace],
    tta: TTA = "none",
    box_format: str = "face",
    teachers: Sequence[Teacher] = (),
    scheme: LandmarkScheme | None = None,
) -> tuple[list[PseudoLabel], Counter[str]]:
    """Return pseudo-labels of unlabeled faces.

    Args:
        model: the landmark model.
        faces: the faces, or images to search for faces.
        tta: test-time augmentation of the labels.
        box_format: format of the boxes whose table does not say it, see
            `pipnet.datasets.unlabeled.BOX_FORMATS`.
        teachers: label with the consensus of these instead; the model then only locates the faces.
        scheme: the landmark scheme of the teachers' labels; the model's if None.

    Returns:
        The pseudo-labels, and the number of dropped faces by reason.

    Raises:
        ModelError: the model has no adapter for such boxes.
    """
    pipeline = Pipeline(model, DEFAULT_DETECTOR, LandmarkerConfig(tta=tta))
    labels: list[PseudoLabel] = []
    dropped: Counter[str] = Counter()
    batches = [faces[i : i + _BATCH_SIZE] for i in range(0, len(faces), _BATCH_SIZE)]
    with ThreadPoolExecutor() as pool:  # decoding takes most of the time of a fast model
        for batch in show_progress(batches, len(batches), "labeling"):
            images = pool.map(_try_read, batch)
            located = list(_locate(pipeline, batch, images, box_format, dropped))
            if located:
                labels += _label(pipeline, located, dropped, teachers, scheme or model.metadata.scheme)
    return labels, dropped


def _try_read(face: UnlabeledFace) -> Image | None:
    try:
        return read_image(face.image)
    except PipnetError:
        return None


_LocatedFace = tuple[UnlabeledFace, Image, Float32[np.ndarray, "4"]]
"""A face, its image, and the box that the first crop is cut around."""


def _locate(
    pipeline: Pipeline,
    faces: Sequence[UnlabeledFace],
    images: Iterable[Image | None],
    box_format: str,
    dropped: Counter[str],
) -> Iterator[_LocatedFace]:
    """Yield the faces of a batch with their boxes; in images without a box, all detected faces."""
    for face, image in zip(faces, images, strict=True):
        if image is None:
            dropped["image cannot be read"] += 1
            continue
        face_format = face.box_format or box_format
        if face.box is not None and face_format != "region":
            if is_implausible(face.box):
                dropped["box is tiny or oblong"] += 1
            elif not overlaps(face.box[None], image.shape[1], image.shape[0])[0]:
                dropped["box is outside of the image"] += 1
            elif face_format == "crop":
                crop_box = pipeline.model.metadata.crop.face_box_of(face.box)
                yield replace(face, box_format="crop"), image, crop_box
            else:
                yield face, image, pipeline.adapt(face.box[None], face_format)[0]
            continue
        boxes = pipeline.detect(image).boxes
        if face.box is not None and len(boxes):
            iou = box_iou(boxes, face.box)
            boxes = boxes[[int(iou.argmax())]] if iou.max() > _MIN_IOU else boxes[:0]
        if not len(boxes):
            dropped["no face detected"] += 1
        for number, box in enumerate(pipeline.adapt(boxes, pipeline.detector.box_format), start=1):
            name = face.name if number == 1 else f"{face.name}#{number}"
            yield UnlabeledFace(face.image, face.box, name), image, box


def _label(
    pipeline: Pipeline,
    located: Sequence[_LocatedFace],
    dropped: Counter[str],
    teachers: Sequence[Teacher],
    scheme: LandmarkScheme,
) -> Iterator[PseudoLabel]:
    """Predict the faces of a batch twice, and yield the plausible predictions."""
    images = [image for _, image, _ in located]
    first = predict_crops(pipeline.model, images, [box[None] for _, _, box in located])
    tight = np.array([tight_box(points) for points in first.points], np.float32)
    agreed = consensus(teachers, images, tight, scheme) if teachers else None
    points = first.points if agreed is None else agreed.points
    crop_boxes = crop_boxes_from_points(points, pipeline.model.metadata)
    kept = [face.box_format == "crop" for face, _, _ in located]
    crop_boxes[kept] = np.array([box for _, _, box in located], np.float32)[kept]
    second = pipeline.predict(images, [box[None] for box in crop_boxes])
    labels, label_std = (second.points, second.tta_std) if agreed is None else agreed
    for i, (face, image, _) in enumerate(located):
        box = tight_box(labels[i])
        inside = overlaps(box[None], image.shape[1], image.shape[0])[0]
        if is_implausible(box) or not inside or box_iou(box[None], tight[i])[0] < _MIN_IOU:
            dropped["landmarks are not those of a face"] += 1
            continue
        yield PseudoLabel(
            FaceSample(
                face.image, labels[i], face.name, str(face.image), crop_box=crop_boxes[i] if kept[i] else None
            ),
            mean_score=float(second.scores[i].mean()),
            vote_std=100 * float(second.vote_std[i].mean()),
            label_std=100 * float(label_std[i].mean()),
            weights=None if agreed is None else agreed.weights[i],
            # The teachers may have other landmarks than the model, whose votes do not count then.
            landmark_std=100 * (np.maximum(second.vote_std, label_std) if agreed is None else label_std)[i],
        )


def is_implausible(box: Float32[np.ndarray, "4"]) -> bool:
    """Return whether a box is too small or too oblong for a face."""
    width, height = (box[2:] - box[:2]).tolist()
    shorter, longer = min(width, height), max(width, height)
    return not (shorter >= _MIN_SIDE and longer <= _MAX_ASPECT_RATIO * shorter)
