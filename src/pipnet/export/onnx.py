"""Export to ONNX: uint8 crops in; landmarks, scores and ``vote_std`` out; any batch size.

Normalization, arg-max, offsets and the neighbor merge are part of the graph, so running it needs no code of
pipnet. The file's metadata holds the `ModelMetadata` under ``pipnet``.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import UInt8
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from pipnet.errors import MissingExtraError
from pipnet.export.check_weights import check_weights
from pipnet.export.onnx_metadata import set_metadata
from pipnet.io.atomic import atomic_write
from pipnet.metadata import ModelMetadata
from pipnet.model.heads.base import Landmarks
from pipnet.model.pipnet import PIPNet

OPSET = 18
_FOLDED = 2**28
"""Maximum size in bytes of constants that are computed from others at export."""
_MIN_HALF_SIZE = 1024
"""Tensors with fewer values stay in float32: they take little space, and the decode's constants must be
exact."""


class _Decoded(nn.Module):
    """The network including its decode, as one module."""

    def __init__(self, model: PIPNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: UInt8[Tensor, "b h w 3"]) -> Landmarks:
        model = self.model
        # One operation, because the two of `PIPNet.normalize` take a third of an int8 graph's time in ONNX
        # Runtime.
        normalized = F.batch_norm(
            image.permute(0, 3, 1, 2).float(), model.mean.flatten(), model.std.flatten().square(), eps=0
        )
        return model.head.decode(model.head(model.neck(model.backbone(normalized))))


def export_onnx(model: PIPNet, metadata: ModelMetadata, path: Path, half: bool = False) -> None:
    """Write the network as one ONNX file.

    Args:
        model: the network; the runtime folds batch norm into its weights.
        metadata: its metadata.
        path: the file to write, atomically.
        half: store the weights in half precision. They are converted to float32 when the file is loaded:
            half the size, the same speed.

    Raises:
        DivergenceError: the weights are the result of a training that diverged.
        MissingExtraError: onnxscript is not installed.
        WriteError: the file cannot be written.
    """
    try:
        from onnxscript.optimizer import optimize
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    size = model.config.input_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    plain = model.to(memory_format=torch.contiguous_format).eval()
    check_weights(plain, metadata)
    with warnings.catch_warnings(), log_level("torch.onnx", logging.ERROR), torch.no_grad():
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
    # Such as the head's weights, which are reordered for the offsets.
    optimize(program.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    proto = program.model_proto
    if half:
        store_in_half(proto.graph)
    drop_export_notes(proto.graph)
    set_metadata(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    with atomic_write(path) as partial:
        partial.write_bytes(proto.SerializeToString())


@contextlib.contextmanager
def log_level(name: str, level: int) -> Iterator[None]:
    """Set the level of a logger until the end of the block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def drop_export_notes(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes on where each node comes from: they are a large part of a small file."""
    for part in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def store_in_half(graph: onnx.GraphProto) -> None:
    """Replace each large float32 constant by a float16 one and a Cast, which the runtime folds."""
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _MIN_HALF_SIZE:
            continue
        if "merge_weights" in tensor.name:  # of the decode: rounded, they move landmarks by up to 0.06 px
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
