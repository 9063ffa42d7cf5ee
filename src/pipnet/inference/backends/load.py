"""Model files, ready to run."""

from __future__ import annotations

from pathlib import Path

from pipnet.config import RuntimeConfig
from pipnet.errors import PipnetError
from pipnet.inference.backends.base import CropModel
from pipnet.inference.backends.external import ExternalModel
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.backends.openvino import OpenVinoModel


def load_model(path: Path, runtime: RuntimeConfig | None = None) -> CropModel:
    """Load a model file.

    Args:
        path: an ``.onnx`` file exported by pipnet, or the ``.toml`` file of another project's network, see
            `pipnet.inference.backends.external`, which runs in ONNX Runtime on the CPU.
        runtime: what runs it.

    Raises:
        ModelError: missing, damaged, or not exported by pipnet.
        MissingExtraError: OpenVINO is asked for and not installed.
        PipnetError: device, backend and precision do not go together.
    """
    runtime = runtime or RuntimeConfig()
    if path.suffix == ".toml":
        return ExternalModel(path, runtime.threads)
    backend = runtime.backend
    if backend == "auto":
        backend = "openvino" if runtime.precision == "bf16" else "onnxruntime"
    if backend == "onnxruntime":
        if runtime.precision != "f32":
            raise PipnetError("ONNX Runtime computes in f32 here; for bf16 take the backend openvino")
        return OnnxModel(path, runtime.device, runtime.threads)
    if runtime.device not in ("auto", "cpu"):
        raise PipnetError(f"OpenVINO runs on the cpu here, not on {runtime.device}")
    return OpenVinoModel(path, runtime.precision, runtime.threads)
