"""Hard examples: what a detector gets wrong on the photos that it is trained on.

Faces with low scores are shown more often, and places that it takes for faces become background (hard example
mining, Shrivastava et al. 2016, once before the training).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipnet.geometry import box_iou, resize
from pipnet.io.image import read_image
from pipnet.model.face_detector import FaceDetectorNet
from pipnet.progress import show_progress
from pipnet.training.face_detector.labels import LabeledPhoto
from pipnet.training.face_detector.validation import detect

_ZOOMS = (1.0, 0.5)
"""The photos are searched at these sizes."""
_THRESHOLD = 0.3
"""Minimum score of a false alarm."""
_HARD_WEIGHT = 5.0
"""Weight of a photo whose faces are all missed; that of one whose faces all have score 1 is 1."""
_MARGIN = 0.25
"""What is nearer to a face than this share of its box is no false alarm."""


def with_hard_examples(photos: Sequence[LabeledPhoto], network: FaceDetectorNet) -> list[LabeledPhoto]:
    """Return the photos with weights and false alarms.

    Args:
        photos: labeled photos.
        network: the detector, in evaluation mode.
    """
    return [_judged(p, network) for p in show_progress(photos, len(photos), "searching hard examples")]


def _judged(photo: LabeledPhoto, network: FaceDetectorNet) -> LabeledPhoto:
    """Return a photo with its weight and false alarms."""
    image = read_image(photo.image)
    height, width = image.shape[:2]
    detections = []
    for zoom in _ZOOMS:
        resized = resize(image, max(round(zoom * width), 1), max(round(zoom * height), 1))
        rows = detect(network, resized, _THRESHOLD)
        rows[:, :4] = (rows[:, :4] + 0.5) / zoom - 0.5
        detections.append(rows)
    rows = np.concatenate(detections)
    certain = photo.boxes[~photo.ignored]
    scores = [(rows[:, 4] * (box_iou(rows[:, :4], box) > 0.5)).max(initial=0) for box in certain]
    margin = _MARGIN * (photo.boxes[:, 2:] - photo.boxes[:, :2])
    low, high = photo.boxes[:, :2] - margin, photo.boxes[:, 2:] + margin
    overlaps = ((rows[:, None, :2] < high) & (rows[:, None, 2:4] > low)).all(axis=2).any(axis=1)
    weight = 1 + (_HARD_WEIGHT - 1) * (1 - float(np.mean(scores))) if scores else 1.0
    return replace(photo, weight=weight, false_alarms=rows[~overlaps, :4].astype(np.float32))
