"""Models in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import UInt8

from pipnet.config import Device
from pipnet.errors import ModelError, PipnetError
from pipnet.inference.backends.base import CropLandmarks, check_graph, in_batches
from pipnet.metadata import ModelMetadata

_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
}


class OnnxModel:
    """A model in ONNX Runtime."""

    def __init__(self, path: Path, device: Device = "auto", threads: int | None = None) -> None:
        """Load a model.

        Raises:
            ModelError: missing, damaged, or not exported by pipnet.
            PipnetError: this onnxruntime cannot run on that device.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        self._how = (path, device, threads)
        self._session = _session(path, device, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if "pipnet" not in metadata:
            raise ModelError(f"{path}: an ONNX model, but not one exported by pipnet")
        self.path = path
        self.metadata = ModelMetadata.from_json(metadata["pipnet"], str(path))
        self.provider = self._session.get_providers()[0]
        inputs, outputs = (
            {end.name: end.shape[1:] for end in ends}
            for ends in (self._session.get_inputs(), self._session.get_outputs())
        )
        self._outputs = check_graph(path, self.metadata, inputs, outputs)

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """RGB crops at the model's size -> landmarks, in batches."""
        return in_batches(self.path, self.metadata, self._run, crops)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its file and settings, and what it was taught since: another process loads it anew."""
        return type(self), self._how, {"metadata": self.metadata}

    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> Sequence[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(self._outputs, {"image": crops})
        return outputs


def _session(path: Path, device: Device, threads: int | None) -> onnxruntime.InferenceSession:
    """The model on the wanted device; ``auto`` takes the first that works."""
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
    # Waiting threads may spin during a run, but not after it, when the detector needs the processor.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
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
