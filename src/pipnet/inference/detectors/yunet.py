"""YuNet in ONNX Runtime, downloaded once or from a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from pipnet.config import DETECTOR_SIZE
from pipnet.errors import ModelError
from pipnet.geometry import Image, suppress_overlaps
from pipnet.hub import YUNET, cached_download
from pipnet.inference.backends.onnxruntime import start_session
from pipnet.inference.detectors.base import Detections, check_detections, detect_reduced
from pipnet.io.regular_file import typed_errors

_STRIDES = (8, 16, 32)
"""Sides in pixels of the cells of YuNet's three grids."""
_OUTPUTS = [f"{kind}_{stride}" for stride in _STRIDES for kind in ("cls", "obj", "bbox")]
"""For each grid: probability of a face, expected overlap of the box with a face, and box."""
_MAX_INPUT_SIDE = 8192
_MAX_IOU = 0.3
"""Of two boxes that overlap more, the one with the lower score is dropped (as in OpenCV)."""


def yunet_override() -> str | None:
    """Return the ONNX file that ``$PIPNET_YUNET`` names, which replaces the download."""
    return os.environ.get("PIPNET_YUNET")


class YuNetDetector:
    """YuNet in ONNX Runtime, from a file or a checksummed download.

    Takes the files of YuNet's authors, with any input size, and OpenCV's, with a fixed one. A fixed size
    limits the size of the image that is searched.
    """

    box_format = "yunet"

    def __init__(
        self,
        path: str | Path | None = None,
        size: int = DETECTOR_SIZE,
        threshold: float = 0.6,
        threads: int | None = None,
    ) -> None:
        """Load the network.

        Args:
            path: the ONNX file; ``$PIPNET_YUNET`` or the download if None.
            size: maximum length of the longer side of the image that is searched, in pixels.
            threshold: minimum score of a face.
            threads: how many threads the network may use; ONNX Runtime decides if None.

        Raises:
            ModelError: the file cannot be read, or is not a YuNet model.
            DownloadError: the file cannot be downloaded.
        """
        self._arguments = (path, size, threshold, threads)
        file = path or yunet_override()
        self._file = Path(file) if file else cached_download(YUNET)
        self._session = _load(self._file, threads)
        sides = self._session.get_inputs()[0].shape[2:]
        # Height and width in pixels; None where any multiple of 32 will do.
        self._input_size = [side if isinstance(side, int) else None for side in sides]
        self.size = min([size, *(side for side in self._input_size if side)])
        self.threshold = threshold

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file name and settings only: another process loads the file again."""
        return type(self), self._arguments

    def __call__(self, image: Image) -> Detections:
        """Return the faces in an RGB image, detected on a reduced copy.

        Raises:
            ModelError: the network cannot be run, or returns no faces.
        """
        with typed_errors(ModelError, f"{self._file}: cannot be run"), np.errstate(over="ignore"):
            detections = detect_reduced(image, self.size, self._search)
        return check_detections(str(self._file), detections)

    def _search(self, image: Image) -> list[tuple[Sequence[float], float]]:
        height, width = (
            fixed or -(-side // _STRIDES[-1]) * _STRIDES[-1]
            for fixed, side in zip(self._input_size, image.shape, strict=False)
        )
        padded = np.zeros((1, 3, height, width), np.float32)
        padded[0, :, : image.shape[0], : image.shape[1]] = image[..., ::-1].transpose(2, 0, 1)  # BGR
        outputs = self._session.run(_OUTPUTS, {self._session.get_inputs()[0].name: padded})
        boxes, scores = _decode(outputs, width, self.threshold)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        kept = suppress_overlaps(corners, scores, _MAX_IOU)
        return list(zip(boxes[kept].tolist(), scores[kept].tolist(), strict=True))


def _load(file: Path, threads: int | None) -> Any:
    try:
        session = start_session(file, "cpu", threads)
    except ModelError as error:
        raise ModelError(f"{file}: not a YuNet model: {str(error).removeprefix(f'{file}: ')}") from None
    names = {node.name for node in session.get_outputs()}
    if len(session.get_inputs()) != 1 or not names.issuperset(_OUTPUTS):
        raise ModelError(f"{file}: not a YuNet model: it has no outputs {', '.join(_OUTPUTS[:3])}, ...")
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or any(isinstance(side, int) and side > _MAX_INPUT_SIDE for side in shape):
        raise ModelError(f"{file}: not a YuNet model: its input has the shape {shape!s:.80}")
    return session


def _decode(
    outputs: Sequence[np.ndarray], width: int, threshold: float
) -> tuple[Float32[np.ndarray, "faces 4"], Float32[np.ndarray, " faces"]]:
    """Return the box x, y, width and height of each cell with a face, in pixels, and its score.

    Args:
        outputs: see `_OUTPUTS`, each (1, cells, values); cells by rows.
        width: of the network's input in pixels.
        threshold: minimum score.
    """
    boxes, scores = [], []
    for level, stride in enumerate(_STRIDES):
        face, overlap, box = (array[0] for array in outputs[3 * level : 3 * level + 3])
        score = np.sqrt(face.clip(0, 1) * overlap.clip(0, 1))[:, 0]
        cells = np.flatnonzero(score > threshold)
        row, column = np.divmod(cells, width // stride)
        center = (np.stack([column, row], axis=1) + box[cells, :2]) * stride
        side = np.exp(box[cells, 2:]) * stride
        boxes.append(np.concatenate([center - side / 2, side], axis=1))
        scores.append(score[cells])
    return np.concatenate(boxes).astype(np.float32), np.concatenate(scores)
