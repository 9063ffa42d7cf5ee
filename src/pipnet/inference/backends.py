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
        self._session = _session(path, device)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if "pipnet" not in metadata:
            raise ModelError(f"{path}: an ONNX model, but not one exported by pipnet")
        self.path = path
        self.info = ModelInfo.from_json(metadata["pipnet"], str(path))
        self.provider = self._session.get_providers()[0]
        size, landmarks = self.info.input_size, self.info.scheme.landmarks
        shapes = {n.name: n.shape[1:] for n in (*self._session.get_inputs(), *self._session.get_outputs())}
        each = [landmarks]
        expected = {"image": [size, size, 3], "landmarks": [landmarks, 2], "scores": each, "spread": each}
        if shapes != expected:
            raise ModelError(f"{path}: its graph takes and gives {shapes}, its description says {expected}")

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """RGB crops at the model's size -> landmarks, in batches."""
        if not len(crops):
            landmarks = self.info.scheme.landmarks
            empty = np.zeros((0, landmarks), np.float32)
            return CropLandmarks(np.zeros((0, landmarks, 2), np.float32), empty, empty)
        try:
            batches = [
                self._session.run(["landmarks", "scores", "spread"], {"image": crops[i : i + _BATCH]})
                for i in range(0, len(crops), _BATCH)
            ]
        except Exception as error:  # onnxruntime has its own unrelated exception for each cause
            raise ModelError(f"{self.path}: cannot be run: {' '.join(str(error).split()):.160}") from None
        points, scores, spread = (np.concatenate(part) for part in zip(*batches, strict=True))
        return CropLandmarks(points, scores, spread)


def _session(path: Path, device: Device) -> onnxruntime.InferenceSession:
    """The model on the wanted device; ``auto`` takes the first that works."""
    if device not in get_args(Device):
        raise PipnetError(f"no device {device!r}: {', '.join(get_args(Device))}")
    there = onnxruntime.get_available_providers()
    # Not CoreML: whether it keeps the arg-max of the score maps has not been measured.
    wanted = (
        [d for d in ("cuda", "directml", "cpu") if _PROVIDERS[d] in there] if device == "auto" else [device]
    )
    if _PROVIDERS[wanted[0]] not in there:
        able = ", ".join(d for d, p in _PROVIDERS.items() if p in there)
        raise PipnetError(f"this onnxruntime cannot run on {device}, only on {able}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    reason = ""
    for name in wanted:
        providers = list(dict.fromkeys([_PROVIDERS[name], _PROVIDERS["cpu"]]))
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers, enable_fallback=0)
        except Exception as error:  # onnxruntime has its own unrelated exception for each cause
            reason = " ".join(str(error).split())
            continue
        if device in ("auto", "cpu") or session.get_providers()[0] == _PROVIDERS[name]:
            return session
        raise PipnetError(f"onnxruntime could not start on {device}: see its installation notes")
    raise ModelError(f"{path}: not a usable ONNX model: {reason:.160}")
