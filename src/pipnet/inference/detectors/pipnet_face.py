"""The face detector of pipnet, an ONNX file in the package; works offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipnet.config import DETECTOR_SIZE
from pipnet.errors import ModelError
from pipnet.geometry import Image
from pipnet.hub import packaged_detector
from pipnet.inference.backends.onnxruntime import start_session
from pipnet.inference.detectors.base import CERTAIN, Detections, check_detections, reduce_longer_side
from pipnet.io.regular_file import typed_errors

_MIN_CANDIDATE = 0.3
"""Minimum score of a place that may be a face."""
_INPUTS, _OUTPUTS = ["image"], ["boxes", "scores", "points"]


class PipnetFaceDetector:
    """The network of `pipnet.model.face_detector`, with non-maximum suppression in its graph."""

    box_format = "pipnet-face"

    def __init__(
        self,
        path: str | Path | None = None,
        size: int = DETECTOR_SIZE,
        threshold: float = 0.5,
        threads: int | None = None,
    ) -> None:
        """Load the detector.

        Args:
            path: an ``.onnx`` file that ``pipnet detector train`` wrote; the one in the package if None.
            size: maximum length of the longer side of the image that is searched, in pixels.
            threshold: minimum score of a face; the graph leaves out scores below 0.2.
            threads: see `RuntimeConfig.threads`.

        Raises:
            ModelError: the file is missing, damaged, or not a face detector of pipnet.
        """
        self.size, self.threshold, self._arguments = size, threshold, (path, size, threshold, threads)
        file = packaged_detector() if path is None else Path(path)
        self._file = file
        if not file.is_file():
            raise ModelError(f"{file}: no such face detector")
        self._session = start_session(file, "cpu", threads)
        names = [
            [node.name for node in nodes()] for nodes in (self._session.get_inputs, self._session.get_outputs)
        ]
        if names != [_INPUTS, _OUTPUTS]:
            raise ModelError(f"{file}: not a face detector of pipnet; `pipnet detector train` writes one")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file name and settings only: another process loads the file again."""
        return type(self), self._arguments

    def __call__(self, image: Image) -> Detections:
        """Return the faces in an RGB image, detected on a reduced copy.

        Raises:
            ModelError: the network cannot be run, or returns no faces.
        """
        return self._detect(image, self.threshold)

    def candidates(self, image: Image) -> Detections:
        """Return the faces in an RGB image; if none is certain, also places that may be faces.

        Photos with a clear face take no longer: more places than one would cost more than the detector.

        Raises:
            ModelError: see `__call__`.
        """
        candidates = self._detect(image, min(_MIN_CANDIDATE, self.threshold))
        if candidates.detection_score.max(initial=0) < CERTAIN:
            return candidates
        return candidates.take(np.flatnonzero(candidates.detection_score >= self.threshold))

    def _detect(self, image: Image, threshold: float) -> Detections:
        reduced, factor = reduce_longer_side(image, self.size)
        with typed_errors(ModelError, f"{self._file}: cannot be run"):
            outputs = self._session.run(_OUTPUTS, {"image": reduced[None]})
        detections = check_detections(str(self._file), Detections(*outputs))
        return detections.take(np.flatnonzero(detections.detection_score >= threshold)).enlarged(factor)
