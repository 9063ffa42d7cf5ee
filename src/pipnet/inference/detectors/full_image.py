"""No detector: the image is the face."""

from __future__ import annotations

import numpy as np

from pipnet.geometry import Image
from pipnet.inference.detectors.base import Detections


class FullImageDetector:
    """Takes the picture itself for one face: for crops made elsewhere."""

    box_format = "full_image"

    def __call__(self, image: Image) -> Detections:
        """One box: the whole picture."""
        height, width = image.shape[:2]
        box = np.array([[-0.5, -0.5, width - 0.5, height - 0.5]], np.float32)
        return Detections(box, np.ones(1, np.float32))
