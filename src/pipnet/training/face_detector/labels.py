"""Boxes and five points for the training of a face detector, from detectors and a landmark model as teachers.

A face counts as certain if a dataset labels it or the detectors are sure. Its box means what the box format
``face`` of the landmark model means, forehead to chin: it is computed from the landmarks, so that boxes of
all datasets agree. What only one detector sees, or sees with doubt, is ignored in training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from pipnet.annotations.samples import FaceSample
from pipnet.confidence import LOW_QUALITY
from pipnet.errors import DataError, ImageError
from pipnet.geometry import Box, Image, box_iou, tight_box
from pipnet.inference.detectors.base import FaceDetector
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import atomic_write
from pipnet.io.image import read_image
from pipnet.progress import show_progress
from pipnet.scheme import SchemeMapping
from pipnet.warp import resize

_ZOOMS = (1.0, 0.5, 2.0)
"""The detectors search each photo at these sizes, if that makes it no longer than `_MAX_SIDE`."""
_MAX_SIDE = 640
_SURE = 0.75
"""Faces are certain from this score of all teachers together on."""
_SURE_WITHOUT_LANDMARKS = 0.9
"""The same for faces on which the landmark model has low quality."""
_SAME_FACE_IOU = 0.4
_MIN_QUALITY, _MIN_AGREEMENT = 0.4, 0.55
"""Boxes and points come from landmarks of at least this quality, if their box has at least this IoU with the
detected one."""


@dataclass(frozen=True)
class LabeledPhoto:
    """A photo and the faces in it."""

    image: Path
    boxes: Float32[np.ndarray, "faces 4"]
    """Forehead to chin, xyxy in pixels of the image; (0, 0) is the center of the top-left pixel."""
    points: Float32[np.ndarray, "faces 5 2"]
    """The five points in the same pixels; NaN where they are unknown."""
    ignored: Bool[np.ndarray, " faces"]
    """Faces that are uncertain: neither learned nor counted."""
    group: str = ""
    """The dataset and part that it is from."""


def label_photo(
    image: Image,
    detectors: Sequence[FaceDetector],
    landmarker: FaceLandmarker,
    known: Box | None = None,
    landmarks: Float32[np.ndarray, "landmarks 2"] | None = None,
) -> tuple[Float32[np.ndarray, "faces 4"], Float32[np.ndarray, "faces 5 2"], Bool[np.ndarray, " faces"]]:
    """Return the boxes and points of the faces in a photo, and whether each is to be ignored.

    Args:
        image: RGB.
        detectors: the teachers.
        landmarker: turns boxes into landmarks; its model has 68 of them.
        known: the box of a face that the dataset labels, in any format.
        landmarks: its landmarks, where they are labeled too; some may be unknown (NaN). They need ``known``.
    """
    boxes, scores = _search(image, detectors)
    if known is not None:
        same = box_iou(boxes, known) > _SAME_FACE_IOU if len(boxes) else np.zeros(0, bool)
        first = boxes[same][scores[same].argmax()] if same.any() else known
        boxes = np.concatenate([first[None], boxes[~same]])
        scores = np.concatenate([np.ones(1, np.float32), scores[~same]])
    points = np.full((len(boxes), 5, 2), np.nan, np.float32)
    if not len(boxes):
        return boxes, points, np.zeros(0, bool)
    height, width = image.shape[:2]
    adapter = landmarker.metadata.box_adapter("face")
    to_five = SchemeMapping.load(landmarker.metadata.scheme.name, "five")
    inside = np.flatnonzero((boxes[:, :2] < [width - 1, height - 1]).all(1) & (boxes[:, 2:] > 0).all(1))
    if len(inside):
        faces = landmarker(image, boxes[inside], "yunet")
        for index, face in zip(inside, faces, strict=True):
            labeled = landmarks if index == 0 else None
            shape = face.points if labeled is None else labeled
            box = adapter.inverse(tight_box(shape)[None])[0]
            agrees = face.quality > _MIN_QUALITY and box_iou(box[None], boxes[index])[0] > _MIN_AGREEMENT
            if labeled is not None or agrees:
                boxes[index], points[index] = box, to_five(shape)
            elif face.quality < LOW_QUALITY and scores[index] < _SURE_WITHOUT_LANDMARKS:
                scores[index] = min(scores[index], _SURE - 0.01)
    return boxes, points, scores < _SURE


def _search(
    image: Image, detectors: Sequence[FaceDetector]
) -> tuple[Float32[np.ndarray, "faces 4"], Float32[np.ndarray, " faces"]]:
    """Return boxes of all teachers at all sizes, one a face, and how sure the teachers are together."""
    boxes, scores = [], []
    for zoom in _ZOOMS:
        if zoom > 1 and zoom * max(image.shape[:2]) > _MAX_SIDE:
            continue
        height, width = (max(round(side * zoom), 1) for side in image.shape[:2])
        resized = resize(image, width, height)
        for detector in detectors:
            detected = detector(resized)
            boxes += [(box + 0.5) / zoom - 0.5 for box in detected.boxes]
            scores += list(detected.detection_score)
    order = np.argsort(-np.array(scores), kind="stable")
    kept: list[tuple[Box, list[float]]] = []
    for i in order:
        box = boxes[i].astype(np.float32)
        near = next((k for k in kept if box_iou(k[0][None], box)[0] > _SAME_FACE_IOU), None)
        if near is None:
            kept.append((box, [scores[i]]))
        else:
            near[1].append(scores[i])
    # A second look at another size, or by another detector, that agrees makes a face surer.
    together = [1 - float(np.prod([1 - s * 0.8 for s in sorted(all_)[-3:]])) for _, all_ in kept]
    stacked = np.array([box for box, _ in kept], np.float32).reshape(-1, 4)
    return stacked, np.array(together, np.float32)


def label_photos(
    photos: Iterable[tuple[Path, str, Box | None, FaceSample | None]],
    detectors: Sequence[FaceDetector],
    landmarker: FaceLandmarker,
    total: int,
) -> list[LabeledPhoto]:
    """Label photos; unreadable ones are left out.

    Args:
        photos: each with its group, the box that its dataset gives, and the sample where landmarks are known.
        detectors: the teachers.
        landmarker: the landmark model.
        total: how many photos, for the progress bar.
    """
    result = []
    for path, group, drawn, sample in show_progress(photos, total, "labeling faces"):
        try:
            image = read_image(path)
        except ImageError:
            continue
        known, shape = drawn, None
        if sample is not None:
            known = landmarker.metadata.box_adapter("face").inverse(tight_box(sample.points)[None])[0]
            shape = sample.points
        boxes, points, ignored = label_photo(image, detectors, landmarker, known, shape)
        result.append(LabeledPhoto(path, boxes, points, ignored, group))
    return result


def save_photos(path: Path, photos: Sequence[LabeledPhoto]) -> None:
    """Write labeled photos as JSON lines, atomically.

    Raises:
        WriteError: the file cannot be written.
    """
    with atomic_write(path) as partial, partial.open("w") as file:
        for photo in photos:
            points = np.where(np.isfinite(photo.points), photo.points.round(2), np.nan)
            row = {
                "image": str(photo.image),
                "group": photo.group,
                "boxes": photo.boxes.round(2).tolist(),
                "points": [None if np.isnan(p).all() else p.tolist() for p in points],
                "ignored": photo.ignored.tolist(),
            }
            file.write(json.dumps(row) + "\n")


def load_photos(path: Path) -> list[LabeledPhoto]:
    """Return the photos that `save_photos` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    photos = []
    try:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            nothing = np.full((5, 2), np.nan)
            points = [nothing if p is None else np.array(p, float) for p in row["points"]]
            photos.append(
                LabeledPhoto(
                    Path(row["image"]),
                    np.array(row["boxes"], np.float32).reshape(-1, 4),
                    np.array(points, np.float32).reshape(-1, 5, 2),
                    np.array(row["ignored"], bool),
                    row["group"],
                )
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no table of labeled photos: {error!s:.80}") from None
    return photos
