"""Export of a network without its decode, for runtimes that cannot gather.

The graph ends at the maps of the Pixel-in-Pixel head, for all cells: one 1 x 1 convolution each. The decode,
an arg-max and a weighted mean, is left to the caller: docs/export.md has it in NumPy. The graph has float32
tensors of fixed shapes, and only layers that mobile runtimes have. It is made from an exported ONNX file, so
that torch is not needed and shipped models can be exported too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper, numpy_helper

from pipnet.errors import ModelError
from pipnet.export.onnx_metadata import read_exported, set_metadata
from pipnet.io.atomic import atomic_write, write_text
from pipnet.metadata import ModelMetadata
from pipnet.model.neighbors import nearest_neighbors


class _Head(NamedTuple):
    """The Pixel-in-Pixel head of an exported graph."""

    features: str
    """The tensor that is its input."""
    weight: Float32[np.ndarray, "landmarks maps features"]
    """Weights of the maps of each landmark: the score, x, y, then x and y of each neighbor in turn."""
    bias: Float32[np.ndarray, "landmarks maps"]
    merge: Float32[np.ndarray, "landmarks predictions"]
    """Weights of all predictions for each landmark, see `pipnet.model.neighbors.merge_matrix`. Files with
    weights in half precision round them, so they are read from the graph."""


def export_score_maps(source: Path, target: Path) -> None:
    """Write the network of an exported model without its decode, and a JSON file that the decode needs.

    The input ``image`` is one RGB crop as float32 (1, 3, size, size) with values from 0 to 255. The outputs
    are ``score_maps``, ``x_maps``, ``y_maps`` (1, N, grid, grid), and, if the model has C > 0 neighbors,
    ``neighbor_x_maps`` and ``neighbor_y_maps`` (1, N C, grid, grid), where the map of a neighbor is C i + j.
    Offsets are in cells, from the top-left corner of the cell.

    Args:
        source: an .onnx file of `pipnet.export.onnx.export_onnx`.
        target: the .onnx file to write; the JSON file beside it has the same name. Both are written
            atomically.

    Raises:
        ModelError: the source is not an exported model, has no Pixel-in-Pixel head, or is quantized.
        WriteError: a file cannot be written.
    """
    proto, metadata = read_exported(source)
    graph = proto.graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        raise ModelError(f"{source}: quantized to integers: export its maps from the model in full precision")
    constants = _constants(graph)
    head, image = _find_head(graph, constants), _float_image(graph)
    if head is None or image is None:
        raise ModelError(
            f"{source}: no Pixel-in-Pixel head with scores and offsets in this graph: a model with another"
            " head has no such maps; use --format onnx or openvino"
        )
    layers = _layers_before(graph, head.features, {*constants, image})
    size = metadata.input_size
    for node in layers:
        node.input[:] = ["image" if name == image else name for name in node.input]
    names = {name for node in layers for name in node.input}
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in names]
    maps_graph = helper.make_graph(
        layers,
        "pipnet_maps",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [],
        kept,
    )
    grid = size // int(metadata.config["stride"])
    for name, weight, bias in _maps(head):
        _append_map(maps_graph, head.features, name, weight, bias, grid)
    _write(proto, maps_graph, metadata, head.merge, target)


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return the constants of a graph by name; those that are stored in half precision as float32."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]].astype(np.float32)
    return constants


def _find_head(graph: onnx.GraphProto, constants: dict[str, np.ndarray]) -> _Head | None:
    """Return the head; None if the graph ends in another way than `export_onnx` writes."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    gathered = [node for node in graph.node if node.op_type == "MatMul" and _rank(node, constants) == 3]
    biases = [node for node in graph.node if node.op_type == "Add" and _rank(node, constants) == 3]
    merges = [node for node in graph.node if node.op_type == "Einsum" and node.input[0] in constants]
    if not convolutions or not len(gathered) == len(biases) == len(merges) == 1:
        return None
    features, score_weight, *score_bias = convolutions[-1].input
    weight = constants[gathered[0].input[1]].transpose(0, 2, 1)
    bias = constants[biases[0].input[1]]
    first_bias = constants[score_bias[0]] if score_bias else np.zeros(len(bias), np.float32)
    if len(constants[score_weight]) != len(weight) or weight.shape[:2] != (len(bias), bias[0].size):
        return None
    return _Head(
        features,
        np.concatenate([constants[score_weight][:, None, :, 0, 0], weight], axis=1).astype(np.float32),
        np.concatenate([first_bias[:, None], bias.reshape(len(bias), -1)], axis=1),
        constants[merges[0].input[0]],
    )


def _rank(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> int:
    """Return the number of dimensions of a node's second input; 0 if it is not a constant."""
    return constants[node.input[1]].ndim if node.input[1] in constants else 0


def _float_image(graph: onnx.GraphProto) -> str | None:
    """Return the tensor of the input image as float32 with the channels first, None if there is none."""
    name = "image"
    kinds: set[str] = set()
    while True:
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type not in ("Transpose", "Cast"):
            return name if kinds == {"Transpose", "Cast"} else None
        name = readers[0].output[0]
        kinds.add(readers[0].op_type)


def _layers_before(graph: onnx.GraphProto, tensor: str, known: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that a tensor depends on, up to known tensors, in the graph's order."""
    needed = {tensor}
    nodes = []
    for node in reversed(graph.node):
        if needed & set(node.output) - known:
            nodes.append(node)
            needed |= set(node.input)
    return nodes[::-1]


def _maps(head: _Head) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return name, weight (channels, features) and bias of each output."""
    parts = {
        "score_maps": slice(0, 1),
        "x_maps": slice(1, 2),
        "y_maps": slice(2, 3),
        "neighbor_x_maps": slice(3, None, 2),
        "neighbor_y_maps": slice(4, None, 2),
    }
    features = head.weight.shape[2]
    return [
        (name, head.weight[:, part].reshape(-1, features), head.bias[:, part].reshape(-1))
        for name, part in parts.items()
        if head.weight[:, part].size
    ]


def _append_map(
    graph: onnx.GraphProto, features: str, name: str, weight: np.ndarray, bias: np.ndarray, grid: int
) -> None:
    """Append a 1 x 1 convolution with an output."""
    constants = {f"{name}.weight": weight[:, :, None, None], f"{name}.bias": bias}
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value, np.float32), key)
        for key, value in constants.items()
    )
    graph.node.append(helper.make_node("Conv", [features, *constants], [name], name, kernel_shape=[1, 1]))
    shape = [1, len(weight), grid, grid]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _write(
    source: onnx.ModelProto,
    graph: onnx.GraphProto,
    metadata: ModelMetadata,
    merge: Float32[np.ndarray, "n predictions"],
    target: Path,
) -> None:
    """Write the ONNX file and the JSON file."""
    proto = helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
    set_metadata(proto, metadata)
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.checker.check_model(proto, full_check=True)
    with atomic_write(target) as partial:
        partial.write_bytes(proto.SerializeToString())
    table = {**_decode_constants(metadata, merge), "metadata": json.loads(metadata.to_json())}
    write_text(target.with_suffix(".json"), json.dumps(table) + "\n")


def _decode_constants(metadata: ModelMetadata, merge: Float32[np.ndarray, "n predictions"]) -> dict[str, Any]:
    """Return what the decode of maps needs besides them.

    ``neighbors`` (N, C) are the indices of the landmarks that each landmark votes for, ``direct_weights`` (N)
    and ``vote_weights`` (N, C) the weights of its own prediction and of its votes in the weighted means.
    ``sigmoid`` says whether peaks are logits: in the maps, its rounding would make cells equal.
    """
    neighbors = nearest_neighbors(metadata.mean_face, int(metadata.config["neighbors"]))
    landmarks = len(neighbors)
    target = np.concatenate([np.arange(landmarks), neighbors.ravel()])
    weights = merge[target, np.arange(len(target))].astype(np.float64)
    return {
        "neighbors": neighbors.tolist(),
        "direct_weights": weights[:landmarks].tolist(),
        "vote_weights": weights[landmarks:].reshape(neighbors.shape).tolist(),
        "sigmoid": metadata.config.get("score_loss") == "focal",
    }
