"""Models in ONNX Runtime."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pipnet.config import Device
from pipnet.errors import ModelError, PipnetError, one_line
from pipnet.inference.backends.base import ExportedModel, Graph
from pipnet.inference.backends.distributions import install_command
from pipnet.inference.backends.model_check import check_model_file
from pipnet.inference.backends.telemetry import telemetry_off

with telemetry_off():
    import onnxruntime

_log = logging.getLogger(__name__)
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
        self.device = device
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

    Args:
        path: the ONNX file.
        device: see `RuntimeConfig.device`.
        threads: how many threads the network may use on the CPU; ONNX Runtime decides if None.

    Raises:
        ModelError: the file is not an ONNX model, or is refused, see `check_model_file`.
        PipnetError: the installed onnxruntime cannot run on this device.
    """
    check_model_file(path)
    installed = onnxruntime.get_available_providers()
    available = [name for name, provider in _PROVIDERS.items() if provider in installed]
    # auto excludes CoreML: whether it keeps the arg-max of the score maps has not been measured.
    devices = [name for name in available if name != "coreml"] if device == "auto" else [device]
    if _kind(devices[0]) not in available:
        hint = f": {install_command(for_cuda=True)}" if _kind(device) == "cuda" else ""
        where = ", ".join(available)
        raise PipnetError(f"the installed onnxruntime cannot run on {device}, only on {where}{hint}")
    reason = ""
    for name in devices:
        try:
            session = onnxruntime.InferenceSession(
                str(path), _session_options(threads), _providers(name), enable_fallback=0
            )
        except Exception as error:  # onnxruntime has its own unrelated exception for each cause
            reason = one_line(error)
            continue
        if session.get_providers()[0] != _PROVIDERS[_kind(name)] and device != "auto":
            raise PipnetError(f"onnxruntime cannot start on {device}: {_repair(device)}")
        if device == "auto" and devices[0] != "cpu" and session.get_providers()[0] == _PROVIDERS["cpu"]:
            _warn_once(f"onnxruntime cannot start on {devices[0]} and uses the CPU: {_repair(devices[0])}")
        return session
    what = "not a usable ONNX model" if devices[-1] == "cpu" else f"cannot be started on {device}"
    raise ModelError(f"{path}: {what}: {reason}")


def _kind(device: Device) -> str:
    """Return a device without its number."""
    return device.partition(":")[0]


def _providers(device: Device) -> list[Any]:
    """Return the execution providers of a device; what it cannot compute runs on the CPU."""
    kind, _, number = device.partition(":")
    if kind == "cuda":
        _load_cuda()
    provider = (_PROVIDERS[kind], {"device_id": number}) if number else _PROVIDERS[kind]
    return [provider] if kind == "cpu" else [provider, _PROVIDERS["cpu"]]


def _session_options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Idle threads may spin during a run, but not after it, when the detector needs the processor.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


@functools.cache
def _load_cuda() -> None:
    """Load the CUDA and cuDNN libraries that pip installed; standard output is kept for results."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot load
        onnxruntime.preload_dlls()


def _repair(device: Device) -> str:
    """Return what to check if a device that onnxruntime lists does not start."""
    if _kind(device) != "cuda":
        return "see its installation notes"
    return f"check the card with nvidia-smi, or install CUDA with {install_command(for_cuda=True)}"


@functools.cache
def _warn_once(message: str) -> None:
    _log.warning(message)
