"""No detector: the image is the face."""

from __future__ import annotations

import numpy as np

from pipnet.geometry import Image
from pipnet.inference.detectors.base import Detections


class FullImageDetector:
    """Takes the full image as one face, for images that are face crops already."""

    box_format = "full_image"

    def __call__(self, image: Image) -> Detections:
        """Return one box: the full image."""
        height, width = image.shape[:2]
        box = np.array([[-0.5, -0.5, width - 0.5, height - 0.5]], np.float32)
        return Detections(box, np.ones(1, np.float32))
