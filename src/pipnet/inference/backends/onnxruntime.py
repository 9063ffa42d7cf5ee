"""Models in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import UInt8

from pipnet.config import Device
from pipnet.errors import ModelError, PipnetError, one_line
from pipnet.inference.backends.base import ExportedModel, Graph

_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
}


class OnnxModel(ExportedModel):
    """A model in ONNX Runtime."""

    def __init__(self, path: Path, device: Device = "auto", threads: int | None = None) -> None:
        """Load a model.

        Raises:
            ModelError: missing, corrupt, or not exported by pipnet.
            PipnetError: the installed onnxruntime cannot run on this device.
        """
        super().__init__(path, device, threads)

    def _load(self, device: Device, threads: int | None) -> Graph:
        self._session = start_session(self.path, device, threads)
        self.provider = self._session.get_providers()[0]
        return Graph(
            self._session.get_modelmeta().custom_metadata_map.get("pipnet"),
            {node.name: node.shape[1:] for node in self._session.get_inputs()},
            {node.name: node.shape[1:] for node in self._session.get_outputs()},
        )

    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> Sequence[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(self._outputs, {"image": crops})
        return outputs


def start_session(path: Path, device: Device, threads: int | None) -> onnxruntime.InferenceSession:
    """Start a session on a device; ``auto`` uses the first one that works.

    Raises:
        ModelError: the file is not an ONNX model.
        PipnetError: the installed onnxruntime cannot run on this device.
    """
    installed = onnxruntime.get_available_providers()
    available = [name for name, provider in _PROVIDERS.items() if provider in installed]
    # auto excludes CoreML: whether it keeps the arg-max of the score maps has not been measured.
    devices = [name for name in available if name != "coreml"] if device == "auto" else [device]
    if devices[0] not in available:
        raise PipnetError(f"the installed onnxruntime cannot run on {device}, only on {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Idle threads may spin during a run, but not after it, when the detector needs the processor.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    reason = ""
    for name in devices:
        providers = list(dict.fromkeys([_PROVIDERS[name], _PROVIDERS["cpu"]]))
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers, enable_fallback=0)
        except Exception as error:  # onnxruntime has its own unrelated exception for each cause
            reason = one_line(error)
            continue
        if device in ("auto", "cpu") or session.get_providers()[0] == _PROVIDERS[name]:
            return session
        raise PipnetError(f"onnxruntime cannot start on {device}: see its installation notes")
    raise ModelError(f"{path}: not a usable ONNX model: {reason}")
