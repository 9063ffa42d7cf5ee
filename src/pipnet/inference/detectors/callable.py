"""A user's detector: any callable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipnet.errors import BoxError
from pipnet.geometry import Image, check_boxes, overlaps
from pipnet.inference.detectors.base import Detections


class CallableDetector:
    """A user's detector: any callable that returns boxes, or ``(boxes, scores)``.

    None and empty results mean that there is no face. Boxes outside the image are dropped.
    """

    def __init__(self, function: Callable[[Image], Any], box_format: str) -> None:
        self.function, self.box_format = function, box_format

    def __call__(self, image: Image) -> Detections:
        """Return the faces that the callable detects.

        Raises:
            BoxError: it returned something other than boxes.
        """
        result = self.function(image)
        boxes, scores = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if isinstance(scores, tuple | list) and len(scores) == 4 and np.shape(boxes) == (4,):
            boxes, scores = result, None  # not a box and its score, but two boxes
        height, width = image.shape[:2]
        checked = check_boxes([] if boxes is None else boxes, width, height, inside=False)
        detection_score = np.ones(len(checked), np.float32)
        if len(checked) and scores is not None:
            try:
                detection_score = np.asarray(scores, dtype=np.float32)
            except (TypeError, ValueError):
                raise BoxError(f"the detector's scores are not numbers: {scores!r:.80}") from None
        if detection_score.shape != (len(checked),) or not np.isfinite(detection_score).all():
            raise BoxError(f"the detector returned {len(checked)} boxes but these scores: {scores!r:.80}")
        order = np.argsort(-detection_score, kind="stable")
        order = order[overlaps(checked[order], width, height)]
        return Detections(checked[order], detection_score[order])
