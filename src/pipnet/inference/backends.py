"""What runs an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import onnxruntime
from jaxtyping import Float32, UInt8

from pipnet.errors import ModelError, PipnetError
from pipnet.model_info import ModelInfo

Device = Literal["auto", "cpu", "cuda", "coreml", "directml"]
_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_BATCH = 64
"""Crops a run; more only costs memory."""


class CropLandmarks(NamedTuple):
    """What the model says of each crop."""

    points: Float32[np.ndarray, "faces landmarks 2"]
    """Fractions of the crop."""
    scores: Float32[np.ndarray, "faces landmarks"]
    """Confidence in [0, 1]."""
    spread: Float32[np.ndarray, "faces landmarks"]
    """Disagreement of the votes, as a fraction of the crop."""


class OnnxModel:
    """A model in ONNX Runtime."""

    def __init__(self, path: Path, device: Device = "auto") -> None:
        """Load a model.

        Raises:
            ModelError: missing, damaged, or not exported by pipnet.
            PipnetError: this onnxruntime cannot run on that device.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        providers = _providers(device)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers)
        except Exception as error:  # onnxruntime has its own unrelated exception for each cause
            reason = " ".join(str(error).split())
            raise ModelError(f"{path}: not a usable ONNX model: {reason:.160}") from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        if "pipnet" not in metadata:
            raise ModelError(f"{path}: an ONNX model, but not one exported by pipnet")
        self.path = path
        self.info = ModelInfo.from_json(metadata["pipnet"], str(path))
        self.provider = self._session.get_providers()[0]

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """RGB crops at the model's size -> landmarks, in batches."""
        if not len(crops):
            landmarks = self.info.scheme.landmarks
            empty = np.zeros((0, landmarks), np.float32)
            return CropLandmarks(np.zeros((0, landmarks, 2), np.float32), empty, empty)
        batches = [
            self._session.run(None, {"image": crops[start : start + _BATCH]})
            for start in range(0, len(crops), _BATCH)
        ]
        points, scores, spread = (np.concatenate(part) for part in zip(*batches, strict=True))
        return CropLandmarks(points, scores, spread)


def _providers(device: Device) -> list[str]:
    """The chosen provider with the CPU behind it; ``auto`` takes the first that is there."""
    if device not in get_args(Device):
        raise PipnetError(f"no device {device!r}: {', '.join(get_args(Device))}")
    there = onnxruntime.get_available_providers()
    if device == "auto":
        return [p for p in _PROVIDERS.values() if p in there]
    if _PROVIDERS[device] not in there:
        able = ", ".join(d for d, p in _PROVIDERS.items() if p in there)
        raise PipnetError(f"this onnxruntime cannot run on {device}, only on {able}")
    return list(dict.fromkeys([_PROVIDERS[device], _PROVIDERS["cpu"]]))
