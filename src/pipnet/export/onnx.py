"""ONNX with everything inside: uint8 crops in, landmarks, scores and spread out, any batch.

Normalization, arg-max, offsets and the neighbor merge are part of the graph, so that whoever runs it
needs no code of ours. What the model is stands in the metadata, under ``pipnet``.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import UInt8
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from pipnet.errors import MissingExtraError
from pipnet.export.metadata import describe
from pipnet.io.atomic import atomic_write
from pipnet.metadata import ModelMetadata
from pipnet.model.heads.base import Landmarks
from pipnet.model.pipnet import PIPNet

OPSET = 18
_FOLDED = 2**28
"""Constants that follow from constants are computed on export up to this many bytes."""
_HALF_FROM = 1024
"""Smaller tensors stay in float32: they weigh nothing, and the decode's constants must be exact."""


class _Decoded(nn.Module):
    """The model with decode as its forward pass."""

    def __init__(self, model: PIPNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: UInt8[Tensor, "b h w 3"]) -> Landmarks:
        model = self.model
        # One operation: the two of `PIPNet.normalize` cost ONNX Runtime a third of an int8 graph's time.
        normalized = F.batch_norm(
            image.permute(0, 3, 1, 2).float(), model.mean.flatten(), model.std.flatten().square(), eps=0
        )
        return model.head.decode(model.head(model.neck(model.backbone(normalized))))


def export_onnx(model: PIPNet, metadata: ModelMetadata, path: Path, half: bool = False) -> None:
    """Write the model as one ONNX file.

    Args:
        model: the network; its weights are folded with batch norm by the runtime, not here.
        metadata: what is written into the metadata.
        path: the file, written whole or not at all.
        half: store the weights in half precision. They are widened again when the file is loaded:
            half the size, the same speed.

    Raises:
        MissingExtraError: onnxscript is not installed.
        WriteError: the file cannot be written.
    """
    try:
        from onnxscript.optimizer import optimize  # of what torch exports through
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    size = model.config.input_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    plain = model.to(memory_format=torch.contiguous_format).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Decoded(plain),
            (example,),
            input_names=["image"],
            output_names=["landmarks", "scores", "vote_std"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=65536)}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    # The head's weights, put into the order in which offsets are made.
    optimize(program.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    proto = program.model_proto
    if half:
        store_in_half(proto.graph)
    describe(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    with atomic_write(path) as partial:
        partial.write_bytes(proto.SerializeToString())


def store_in_half(graph: onnx.GraphProto) -> None:
    """Replace each large float32 constant by a float16 one and a Cast, which the runtime folds away."""
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _HALF_FROM:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
