"""YuNet in OpenCV, downloaded once or from a file."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipnet.config import DETECTOR_SIZE
from pipnet.errors import ModelError, one_line
from pipnet.geometry import Image
from pipnet.hub import YUNET, cached_download
from pipnet.inference.detectors.base import Detections, detect_reduced


class YuNetDetector:
    """YuNet in ``cv2.FaceDetectorYN``, from a file or a checksummed download."""

    box_format = "yunet"

    def __init__(
        self, path: str | Path | None = None, size: int = DETECTOR_SIZE, threshold: float = 0.6
    ) -> None:
        file = path or os.environ.get("PIPNET_YUNET")
        self.size, self._lock, self._arguments = size, threading.Lock(), (path, size, threshold)
        with _quiet_opencv():
            self._network = _load(Path(file) if file else cached_download(YUNET), threshold)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file name and settings only: another process loads the file again."""
        return type(self), self._arguments

    def __call__(self, image: Image) -> Detections:
        """Return the faces in an RGB image, detected on a reduced copy."""
        return detect_reduced(image, self.size, self._search)

    def _search(self, image: Image) -> list[tuple[Sequence[float], float]]:
        with self._lock:  # another thread must not set its size between these two calls
            self._network.setInputSize((image.shape[1], image.shape[0]))
            _, faces = self._network.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return [] if faces is None else [(face[:4], face[14]) for face in faces.tolist()]


def _load(file: Path, threshold: float) -> Any:
    try:
        # From memory: OpenCV cannot open every path that Python can.
        content = np.frombuffer(file.read_bytes(), np.uint8)
        network = cv2.FaceDetectorYN.create("onnx", content, np.zeros(0, np.uint8), (320, 320), threshold)
        network.detect(np.zeros((320, 320, 3), np.uint8))  # other networks fail here
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from None
    except cv2.error as error:
        reason = one_line(error, 120)
        raise ModelError(f"{file}: no YuNet model for OpenCV {cv2.__version__}: {reason}") from None
    return network


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Silence OpenCV 5's warning about its inference engine; most builds of OpenCV 4 have no log level."""
    logging = getattr(cv2.utils, "logging", None)
    if logging is None:
        yield
        return
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        logging.setLogLevel(level)
