"""Quantization of an exported model to 8-bit integers: smaller, and faster on processors that support them.

NNCF measures the ranges of activations on real faces, and corrects the mean error of rounding (its accurate
bias correction: the fast one costs a little accuracy, ONNX Runtime's own quantization a lot). Everything but
the head is quantized: rounding errors of its scores and offsets would directly be errors of landmarks.

The result is then brought to the form that ONNX Runtime computes in integers, without changing a value: see
`_use_unsigned_activations`. Weights have 7 bits, because processors without AVX-512 VNNI add pairs of
products in 16 bits, which 8 bits would overflow. Those of depthwise layers have 8: their products are always
added in 32 bits.
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
from pipnet.errors import DataError, MissingExtraError
from pipnet.export.onnx import log_level, store_in_half
from pipnet.export.onnx_metadata import read_exported, set_metadata
from pipnet.io.atomic import atomic_write
from pipnet.io.image import read_image
from pipnet.metadata import ModelMetadata
from pipnet.progress import show_progress
from pipnet.warp import crop

FACES = 200
"""Maximum number of faces that activations are measured on."""


def calibration_crops(
    metadata: ModelMetadata, samples: Sequence[FaceSample]
) -> UInt8[np.ndarray, "faces s s 3"]:
    """Return the crops of some labeled faces, as the model's input.

    Args:
        metadata: the model's metadata.
        samples: labeled faces, of which at most `FACES` are used.

    Raises:
        DataError: there are no faces.
    """
    if not samples:
        raise DataError("there are no faces to measure activations on")
    chosen = np.random.default_rng(0).permutation(len(samples))[:FACES]
    crops = []
    for i in show_progress(chosen.tolist(), len(chosen), "calibration faces"):
        image = read_image(samples[i].image)
        crops.append(crop(image, samples[i].crop_region(metadata.crop, image), metadata.input_size))
    return np.stack(crops)


def quantize_onnx(source: Path, target: Path, crops: UInt8[np.ndarray, "faces s s 3"]) -> None:
    """Write a quantized copy of an exported model, called NAME-int8, with the same inputs and outputs.

    Args:
        source: an .onnx file of `export_onnx`, in full precision.
        target: the file to write, atomically.
        crops: crops to measure activations on, see `calibration_crops`.

    Raises:
        ModelError: the source is not an exported model.
        MissingExtraError: NNCF is not installed.
        WriteError: the file cannot be written.
    """
    try:
        import nncf
        from nncf.quantization.advanced_parameters import QuantizationParameters
    except ImportError as error:
        raise MissingExtraError(str(error.name), "int8") from None
    model, metadata = read_exported(source)
    with log_level("nncf", logging.ERROR):
        quantized = nncf.quantize(
            model,
            nncf.Dataset([{"image": crops[i : i + 1]} for i in range(len(crops))]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(crops),
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(names=_unquantized_nodes(model.graph)),
            # Only OpenVINO supports a scale for each channel of a depthwise layer's input.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE,
                activations_quantization_params=QuantizationParameters(per_channel=False),
            ),
        )
    _use_unsigned_activations(quantized.graph)
    store_in_half(quantized.graph)
    onnx.checker.check_model(quantized)
    name, training = f"{metadata.name}-int8", f"{metadata.training}; quantized to 8-bit integers"
    set_metadata(quantized, replace(metadata, name=name, training=training))
    with atomic_write(target) as partial:
        partial.write_bytes(quantized.SerializeToString())


def _unquantized_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes before the first convolution, which normalize, and from the last one on, the head."""
    names = [node.name for node in graph.node]
    layers = [i for i, node in enumerate(graph.node) if node.op_type == "Conv"]
    return [*names[: layers[0]], *names[layers[-1] :]]


def _use_unsigned_activations(graph: onnx.GraphProto) -> None:
    """Make all activations unsigned, and remove each Clip that is implied by the quantization after it.

    ONNX Runtime computes a convolution in integers only if its input and its output have the same type, and
    its output is quantized directly.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    quantizers = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for zero in {node.input[2] for node in quantizers.values()}:
        if tensors[zero].data_type == TensorProto.INT8:
            shifted = numpy_helper.to_array(tensors[zero]).astype(np.int16) + 128
            tensors[zero].CopyFrom(numpy_helper.from_array(shifted.astype(np.uint8), zero))
    readers = Counter(name for node in graph.node for name in node.input)
    for clip in [node for node in graph.node if node.op_type == "Clip"]:
        quantizer = quantizers.get(clip.output[0])
        if quantizer is None or readers[clip.output[0]] > 1:
            continue
        scale, zero, low, high = (
            numpy_helper.to_array(tensors[name]).astype(np.float64)
            for name in (*quantizer.input[1:], *clip.input[1:])
        )
        if low <= -zero * scale and (255 - zero) * scale <= high * (1 + 1e-6):
            quantizer.input[0] = clip.input[0]
            graph.node.remove(clip)
    del graph.value_info[:]  # the types of tensors that changed
