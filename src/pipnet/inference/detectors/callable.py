"""A user's detector: any callable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipnet.errors import BoxError
from pipnet.geometry import Image, as_numbers, check_boxes, overlaps, short_repr
from pipnet.inference.detectors.base import Detections


class CallableDetector:
    """A user's detector: any callable that returns boxes x0, y0, x1, y1, with or without scores.

    It returns (faces, 4) boxes; or ``(boxes, scores)``; or (faces, 5) rows x0, y0, x1, y1, score, alone or
    paired with points, as the detectors of insightface do. None and empty results mean that there is no face.
    Boxes outside the image are dropped.
    """

    def __init__(self, function: Callable[[Image], Any], box_format: str) -> None:
        self.function, self.box_format = function, box_format

    def __call__(self, image: Image) -> Detections:
        """Return the faces that the callable detects.

        Raises:
            BoxError: it returned something other than boxes.
        """
        boxes, scores = _split(self.function(image))
        height, width = image.shape[:2]
        checked = check_boxes([] if boxes is None else boxes, width, height, inside=False)
        detection_score = np.ones(len(checked), np.float32)
        if len(checked) and scores is not None:
            detection_score = as_numbers(scores, "the detector's scores")
        if detection_score.shape != (len(checked),) or not np.isfinite(detection_score).all():
            text = short_repr(scores)
            raise BoxError(f"the detector returned {len(checked)} boxes but these scores: {text}")
        order = np.argsort(-detection_score, kind="stable")
        order = order[overlaps(checked[order], width, height)]
        return Detections(checked[order], detection_score[order])


def _split(result: Any) -> tuple[Any, Any]:
    """Return the boxes and the scores of a result; None for scores that it does not have."""
    is_pair = isinstance(result, tuple) and len(result) == 2
    first, second = result if is_pair else (result, None)
    for length in (4, 5):
        if _shape(first) == _shape(second) == (length,):  # two rows, not a row and its score
            first, second = result, None
    if _shape(first)[-1:] == (5,) and len(_shape(first)) <= 2:
        rows = np.asarray(first).reshape(-1, 5)
        return rows[:, :4], rows[:, 4]
    return first, second


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of an array or of nested lists; () of anything else."""
    try:
        return np.shape(value)
    except ValueError:  # rows of different lengths
        return ()
