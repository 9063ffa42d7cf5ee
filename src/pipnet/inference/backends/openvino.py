"""A model in OpenVINO: faster than ONNX Runtime on Intel and AMD processors, and able to compute in bf16.

OpenVINO chooses its precision itself unless told: on processors with bf16 it takes that, which moves
landmarks whose best cells lie close. Here it is told.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pipnet.config import Precision
from pipnet.errors import MissingExtraError, ModelError
from pipnet.inference.backends.base import CropLandmarks, check_graph, in_batches
from pipnet.metadata import ModelMetadata


class OpenVinoModel:
    """A model in OpenVINO, on the processor."""

    def __init__(self, path: Path, precision: Precision = "f32", threads: int | None = None) -> None:
        """Load a model.

        Raises:
            ModelError: missing, damaged, or not exported by pipnet.
            MissingExtraError: OpenVINO is not installed.
        """
        try:
            import openvino
        except ImportError:
            raise MissingExtraError("openvino", "openvino") from None
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        core = openvino.Core()
        try:
            graph = core.read_model(str(path))
            settings: dict[str, Any] = {
                "INFERENCE_PRECISION_HINT": precision,
                "PERFORMANCE_HINT": "LATENCY",
            }
            if threads is not None:
                settings["INFERENCE_NUM_THREADS"] = threads
            compiled = core.compile_model(graph, "CPU", settings)
        except Exception as error:  # OpenVINO raises plain RuntimeError for each cause
            raise ModelError(f"{path}: not a usable ONNX model: {_line(error)}") from None
        if not graph.has_rt_info(["framework", "pipnet"]):
            raise ModelError(f"{path}: an ONNX model, but not one exported by pipnet")
        self.path, self.precision, self._threads = path, precision, threads
        self.metadata = ModelMetadata.from_json(
            str(graph.get_rt_info(["framework", "pipnet"]).value), str(path)
        )
        inputs, outputs = (
            {end.any_name: [side.max_length for side in end.partial_shape][1:] for end in ends}
            for ends in (graph.inputs, graph.outputs)
        )
        self._outputs = check_graph(path, self.metadata, inputs, outputs)
        self._request, self._lock = compiled.create_infer_request(), threading.Lock()

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """RGB crops at the model's size -> landmarks, in batches."""
        return in_batches(self.path, self.metadata, self._run, crops)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its file and settings, and what it was taught since: another process loads it anew."""
        return type(self), (self.path, self.precision, self._threads), {"metadata": self.metadata}

    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> list[np.ndarray]:
        # The outputs are copied: the next run writes into the same memory, and so would another thread.
        with self._lock:
            out = self._request.infer({"image": np.ascontiguousarray(crops)}, share_inputs=True)
            return [out[name] for name in self._outputs]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
