"""YuNet, by OpenCV: fetched once, or from a file."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipnet.config import DETECTOR_SIZE
from pipnet.errors import ModelError
from pipnet.geometry import Image, xywh_to_xyxy
from pipnet.hub import YUNET, cached_download
from pipnet.inference.detectors.base import MIN_SIZE, Detections, reduce_image, to_detections


class YuNetDetector:
    """YuNet through ``cv2.FaceDetectorYN``, from a file or a checksummed download."""

    box_format = "yunet"

    def __init__(
        self, path: str | Path | None = None, size: int = DETECTOR_SIZE, threshold: float = 0.6
    ) -> None:
        given = path or os.environ.get("PIPNET_YUNET")
        file = Path(given) if given else cached_download(YUNET)
        self.size, self._lock, self._how = size, threading.Lock(), (path, size, threshold)
        with _opencv_quiet():
            self._net = self._load(file, threshold)

    def _load(self, file: Path, threshold: float) -> Any:
        try:
            # From memory: OpenCV cannot open every path that Python can.
            content = np.frombuffer(file.read_bytes(), np.uint8)
            nothing = np.zeros(0, np.uint8)
            net = cv2.FaceDetectorYN.create("onnx", content, nothing, (320, 320), threshold)
            net.detect(np.zeros((320, 320, 3), np.uint8))  # another network fails here, not on a picture
        except OSError as error:
            raise ModelError(f"{file}: YuNetDetector cannot be read: {error.strerror}") from None
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{file}: no YuNet model for OpenCV {cv2.__version__}: {reason:.120}") from None
        return net

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its file and settings: another process loads it anew."""
        return type(self), self._how

    def __call__(self, image: Image) -> Detections:
        """The faces in an RGB picture, found on a reduced copy."""
        small, factor = reduce_image(image, self.size)
        if min(small.shape[:2]) < MIN_SIZE:
            return to_detections([], [], factor)
        with self._lock:  # size and search belong together, whatever other threads ask for
            self._net.setInputSize((small.shape[1], small.shape[0]))
            _, found = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        rows = [] if found is None else found.tolist()
        return to_detections([xywh_to_xyxy(r[:4]) for r in rows], [r[14] for r in rows], factor)


@contextlib.contextmanager
def _opencv_quiet() -> Iterator[None]:
    """OpenCV 5 warns of its own choice of engine, on standard error; OpenCV 4 mostly has no such switch."""
    switch = getattr(cv2.utils, "logging", None)
    if switch is None:
        yield
        return
    level = switch.getLogLevel()
    switch.setLogLevel(switch.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        switch.setLogLevel(level)
