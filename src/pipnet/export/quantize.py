"""An exported model in 8-bit integers: smaller, and faster where the processor computes in them.

NNCF observes the ranges that activations take on real faces, and puts right what rounding shifts on the
mean (its accurate bias correction: with the fast one landmarks suffer a little, by ONNX Runtime's own
quantization a lot). All is quantized but the head: its scores are compared with each other and its offsets
read as places within a cell, so that its errors would be errors of landmarks.

What NNCF leaves is then put into the one form that ONNX Runtime computes in integers, without changing a
value: see `_in_integers_everywhere`. Weights keep to 7 bits: processors without AVX-512 VNNI add products
two by two in 16 bits, which 8 would overflow. Those of depthwise layers have 8: their products are added in
32 bits everywhere.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import UInt8
from onnx import TensorProto, numpy_helper

from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, MissingExtraError, ModelError
from pipnet.export.metadata import describe
from pipnet.export.onnx import store_in_half
from pipnet.geometry import crop
from pipnet.io.atomic import atomic_write
from pipnet.io.image import read_image
from pipnet.metadata import ModelMetadata
from pipnet.progress import track

FACES = 200
"""How many faces activations are observed on, unless there are fewer."""


def calibration_crops(
    metadata: ModelMetadata, samples: Sequence[FaceSample], seed: int = 0
) -> UInt8[np.ndarray, "faces s s 3"]:
    """The crops of some labeled faces, as the model is shown them.

    Args:
        metadata: the model's description.
        samples: faces, of which at most `FACES` are taken.
        seed: of the choice.

    Raises:
        DataError: there are none.
    """
    if not samples:
        raise DataError("there are no faces to observe activations on")
    chosen = np.random.default_rng(seed).permutation(len(samples))[:FACES]
    crops = []
    for i in track(chosen.tolist(), len(chosen), "calibration faces"):
        image = read_image(samples[i].image)
        face = metadata.crop.face_box(samples[i].points, samples[i].box)
        crops.append(crop(image, metadata.crop(face, image.shape[1], image.shape[0]), metadata.input_size))
    return np.stack(crops)


def quantize_onnx(source: Path, target: Path, crops: UInt8[np.ndarray, "faces s s 3"]) -> None:
    """Write an exported model in 8-bit integers, with the same inputs and outputs, as NAME-int8.

    Args:
        source: an .onnx file of `export_onnx`, in full precision.
        target: the file to write, whole or not at all.
        crops: what activations are observed on, see `calibration_crops`.

    Raises:
        ModelError: the source is no exported model.
        MissingExtraError: NNCF is not installed.
        WriteError: the file cannot be written.
    """
    try:
        import nncf
        from nncf.quantization.advanced_parameters import QuantizationParameters
    except ImportError as error:
        raise MissingExtraError(str(error.name), "int8") from None
    try:
        model = onnx.load(source)
    except Exception as error:  # protobuf has its own unrelated exceptions
        raise ModelError(f"{source}: not an ONNX model: {' '.join(str(error).split()):.120}") from None
    described = {entry.key: entry.value for entry in model.metadata_props}.get("pipnet")
    if described is None:
        raise ModelError(f"{source}: an ONNX model, but not one exported by pipnet")
    metadata = ModelMetadata.from_json(described, str(source))
    nncf.set_log_level(logging.ERROR)
    quantized = nncf.quantize(
        model,
        nncf.Dataset([{"image": crops[i : i + 1]} for i in range(len(crops))]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(crops),
        fast_bias_correction=False,
        ignored_scope=nncf.IgnoredScope(names=_in_full_precision(model.graph)),
        # A scale for each channel of a depthwise layer's input is something that only OpenVINO knows.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE,
            activations_quantization_params=QuantizationParameters(per_channel=False),
        ),
    )
    _in_integers_everywhere(quantized.graph)
    store_in_half(quantized.graph)
    onnx.checker.check_model(quantized)
    as_integers = replace(
        metadata, name=f"{metadata.name}-int8", training=f"{metadata.training}; in 8-bit integers"
    )
    describe(quantized, as_integers)
    with atomic_write(target) as partial:
        partial.write_bytes(quantized.SerializeToString())


def _in_full_precision(graph: onnx.GraphProto) -> list[str]:
    """What prepares the picture, the last convolution, which makes the score maps, and what comes after."""
    names = [node.name for node in graph.node]
    layers = [i for i, node in enumerate(graph.node) if node.op_type == "Conv"]
    return [*names[: layers[0]], *names[layers[-1] :]]


def _in_integers_everywhere(graph: onnx.GraphProto) -> None:
    """Make all activations unsigned, and drop each clip that the rounding after it does anyway.

    ONNX Runtime computes a convolution in integers only if its input and its output are of one type, and
    nothing stands between it and the rounding of its output.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    roundings = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for zero in {node.input[2] for node in roundings.values()}:
        if tensors[zero].data_type == TensorProto.INT8:
            shifted = numpy_helper.to_array(tensors[zero]).astype(np.int16) + 128
            tensors[zero].CopyFrom(numpy_helper.from_array(shifted.astype(np.uint8), zero))
    readers = Counter(name for node in graph.node for name in node.input)
    for clip in [node for node in graph.node if node.op_type == "Clip"]:
        rounding = roundings.get(clip.output[0])
        if rounding is None or readers[clip.output[0]] > 1:
            continue
        scale, zero, least, most = (
            numpy_helper.to_array(tensors[name]).astype(np.float64)
            for name in (*rounding.input[1:], *clip.input[1:])
        )
        if least <= -zero * scale and (255 - zero) * scale <= most * (1 + 1e-6):
            rounding.input[0] = clip.input[0]
            graph.node.remove(clip)
    del graph.value_info[:]  # types of what changed
