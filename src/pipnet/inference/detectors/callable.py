"""A user's own detector: any callable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipnet.errors import BoxError
from pipnet.geometry import Image, check_boxes, overlaps
from pipnet.inference.detectors.base import Detections


class CallableDetector:
    """A user's own detector: any callable that returns boxes, or ``(boxes, scores)``.

    None and anything empty mean no face; boxes outside the picture are left out.
    """

    def __init__(self, function: Callable[[Image], Any], box_format: str) -> None:
        self.function, self.box_format = function, box_format

    def __call__(self, image: Image) -> Detections:
        """What the callable finds, checked.

        Raises:
            BoxError: it returned something else than boxes.
        """
        result = self.function(image)
        boxes, scores = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if isinstance(scores, tuple | list) and len(scores) == 4 and np.shape(boxes) == (4,):
            boxes, scores = result, None  # not a box and its score, but two boxes
        height, width = image.shape[:2]
        checked = check_boxes([] if boxes is None else boxes, width, height, inside=False)
        sure = np.ones(len(checked), np.float32)
        if len(checked) and scores is not None:
            try:
                sure = np.asarray(scores, dtype=np.float32)
            except (TypeError, ValueError):
                raise BoxError(f"the detector's scores are not numbers: {scores!r:.80}") from None
        if sure.shape != (len(checked),) or not np.isfinite(sure).all():
            raise BoxError(f"the detector gave {len(checked)} boxes but these scores: {scores!r:.80}")
        there = [i for i in np.argsort(-sure, kind="stable") if overlaps(checked[i : i + 1], width, height)]
        return Detections(checked[there], sure[there])
