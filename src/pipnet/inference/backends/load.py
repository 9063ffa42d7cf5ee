"""Loading of model files."""

from __future__ import annotations

from pathlib import Path

from pipnet.config import RuntimeConfig
from pipnet.errors import PipnetError
from pipnet.inference.backends.base import CropModel
from pipnet.inference.backends.external_model import ExternalModel
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.backends.openvino import OpenVinoModel


def load_model(path: Path, runtime: RuntimeConfig | None = None) -> CropModel:
    """Load a model file.

    Args:
        path: an ``.onnx`` file exported by pipnet; its ``.xml`` file in OpenVINO's format, which runs in
            OpenVINO; or the ``.toml`` file of another project's network, see
            `pipnet.inference.backends.external_model`, which runs in ONNX Runtime on the CPU.
        runtime: device, backend, precision and threads.

    Raises:
        ModelError: missing, corrupt, or not exported by pipnet.
        MissingExtraError: OpenVINO is requested and not installed.
        PipnetError: device, backend and precision do not fit together.
    """
    runtime = runtime or RuntimeConfig()
    if path.suffix == ".toml":
        choices = (runtime.device, runtime.backend, runtime.precision)
        if any(choice not in ("auto", "cpu", "onnxruntime", "f32") for choice in choices):
            raise PipnetError(f"{path}: another project's network runs in ONNX Runtime on the CPU, in f32")
        return ExternalModel(path, runtime.threads)
    backend = runtime.backend
    if backend == "auto":
        backend = "openvino" if runtime.precision == "bf16" or path.suffix == ".xml" else "onnxruntime"
    if backend == "onnxruntime":
        if path.suffix == ".xml":
            raise PipnetError(f"{path}: a model in OpenVINO's format: use the backend openvino")
        if runtime.precision != "f32":
            raise PipnetError("ONNX Runtime computes in f32 only: for bf16, use the backend openvino")
        return OnnxModel(path, runtime.device, runtime.threads)
    if runtime.device not in ("auto", "cpu"):
        raise PipnetError(f"OpenVINO runs on the CPU only, not on {runtime.device}")
    return OpenVinoModel(path, runtime.precision, runtime.threads)
