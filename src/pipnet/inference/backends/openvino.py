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
from pipnet.inference.backends.base import ExportedModel, Graph
from pipnet.inference.backends.model_check import check_model_file

_METADATA_KEY = ["framework", "pipnet"]


class OpenVinoModel(ExportedModel):
    """A model in OpenVINO, on the CPU."""

    def __init__(self, path: Path, precision: Precision = "f32", threads: int | None = None) -> None:
        """Load a model.

        Raises:
            ModelError: missing, corrupt, or not exported by pipnet.
            MissingExtraError: OpenVINO is not installed.
        """
        super().__init__(path, precision, threads)

    def _load(self, precision: Precision, threads: int | None) -> Graph:
        try:
            import openvino
        except ImportError:
            raise MissingExtraError("openvino", "openvino") from None
        if self.path.suffix != ".xml":
            check_model_file(self.path)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            graph = core.read_model(str(self.path))
            compiled = core.compile_model(graph, "CPU", settings)
        except Exception as error:  # OpenVINO raises plain RuntimeError for each cause
            kind = "OpenVINO" if self.path.suffix == ".xml" else "ONNX"
            raise ModelError(f"{self.path}: not a usable {kind} model: {one_line(error)}") from None
        self._request, self._lock = compiled.create_infer_request(), threading.Lock()
        is_exported = graph.has_rt_info(_METADATA_KEY)
        inputs, outputs = (
            {node.any_name: [side.max_length for side in node.partial_shape][1:] for node in nodes}
            for nodes in (graph.inputs, graph.outputs)
        )
        return Graph(str(graph.get_rt_info(_METADATA_KEY).value) if is_exported else None, inputs, outputs)

    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> list[np.ndarray]:
        # `infer` copies the outputs: the next run, also of another thread, writes into the same memory.
        with self._lock:
            outputs = self._request.infer({"image": np.ascontiguousarray(crops)}, share_inputs=True)
            return [outputs[name] for name in self._outputs]
