"""Models in OpenVINO: faster than ONNX Runtime on Intel and AMD processors, and able to compute in bf16.

By default OpenVINO chooses the precision itself, and uses bf16 on processors that have it. That moves
landmarks for which two cells of the score map are nearly equal. Therefore the precision is always set here.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pipnet.config import Precision
from pipnet.errors import MissingExtraError, ModelError, one_line
from pipnet.inference.backends.base import CropLandmarks, check_graph, in_batches
from pipnet.metadata import ModelMetadata

_METADATA_KEY = ["framework", "pipnet"]


class OpenVinoModel:
    """A model in OpenVINO, on the CPU."""

    def __init__(self, path: Path, precision: Precision = "f32", threads: int | None = None) -> None:
        """Load a model.

        Raises:
            ModelError: missing, corrupt, or not exported by pipnet.
            MissingExtraError: OpenVINO is not installed.
        """
        try:
            import openvino
        except ImportError:
            raise MissingExtraError("openvino", "openvino") from None
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            graph = core.read_model(str(path))
            compiled = core.compile_model(graph, "CPU", settings)
        except Exception as error:  # OpenVINO raises plain RuntimeError for each cause
            raise ModelError(f"{path}: not a usable ONNX model: {one_line(error)}") from None
        if not graph.has_rt_info(_METADATA_KEY):
            raise ModelError(f"{path}: an ONNX model, but not one exported by pipnet")
        self.path, self._arguments = path, (path, precision, threads)
        self.metadata = ModelMetadata.from_json(str(graph.get_rt_info(_METADATA_KEY).value), str(path))
        inputs, outputs = (
            {end.any_name: [side.max_length for side in end.partial_shape][1:] for end in ends}
            for ends in (graph.inputs, graph.outputs)
        )
        self._outputs = check_graph(path, self.metadata, inputs, outputs)
        self._request, self._lock = compiled.create_infer_request(), threading.Lock()

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """Return the landmarks of RGB crops at the model's input size, in batches."""
        return in_batches(self.path, self.metadata, self._run, crops)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file name, settings and current metadata: another process loads the file again."""
        return type(self), self._arguments, {"metadata": self.metadata}

    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> list[np.ndarray]:
        # `infer` copies the outputs: the next run, also of another thread, writes into the same memory.
        with self._lock:
            outputs = self._request.infer({"image": np.ascontiguousarray(crops)}, share_inputs=True)
            return [outputs[name] for name in self._outputs]
