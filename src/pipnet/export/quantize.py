"""An exported model in 8-bit integers: a quarter of the size, faster where the processor computes in them.

Ranges are those that activations take on calibration faces. Convolutions are quantised, weights per channel;
the last one is not: its maps are compared with each other (scores) and read as places within a cell
(offsets), so that its errors become errors of landmarks.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pipnet.data.samples import FaceSample
from pipnet.errors import MissingExtraError, ModelError
from pipnet.geometry import crop
from pipnet.images import read_image
from pipnet.model_info import ModelInfo
from pipnet.progress import track

_BATCH = 16


def calibration_crops(info: ModelInfo, samples: Sequence[FaceSample]) -> UInt8[np.ndarray, "faces s s 3"]:
    """The crops of labelled faces, as the model is shown them."""
    crops = []
    for sample in track(samples, len(samples), "calibration faces"):
        image = read_image(sample.image)
        face = info.crop.face_box(sample.points, sample.box)
        crops.append(crop(image, info.crop(face, image.shape[1], image.shape[0]), info.input_size))
    return np.stack(crops)


def quantize_onnx(source: Path, target: Path, crops: UInt8[np.ndarray, "faces s s 3"]) -> None:
    """Write an exported model in 8-bit integers, with the same inputs, outputs and description.

    Args:
        source: an .onnx file of `export_onnx`, in full precision.
        target: the file to write, whole or not at all.
        crops: what activations are observed on, see `calibration_crops`; some hundred are enough.

    Raises:
        ModelError: the source is no exported model.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    try:
        described = onnx.load(source).metadata_props
    except Exception as error:  # protobuf has its own unrelated exceptions
        raise ModelError(f"{source}: not an ONNX model: {' '.join(str(error).split()):.120}") from None
    if not any(entry.key == "pipnet" for entry in described):
        raise ModelError(f"{source}: an ONNX model, but not one exported by pipnet")
    logging.getLogger().setLevel(logging.ERROR)  # its advice on preparing a model, which is done here
    with tempfile.TemporaryDirectory() as folder:
        folded, quantised = Path(folder, "folded.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(source, folded, skip_symbolic_shape=True)
        last = [node.name for node in onnx.load(folded).graph.node if node.op_type == "Conv"][-1]
        quantize_static(
            folded,
            quantised,
            _Reader(crops),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Add", "GlobalAveragePool"],
            nodes_to_exclude=[last],
            calibrate_method=CalibrationMethod.MinMax,
        )
        result = onnx.load(quantised)
        del result.metadata_props[:]
        result.metadata_props.extend(described)
        partial = target.with_name(target.name + ".partial")
        partial.write_bytes(result.SerializeToString())
        os.replace(partial, target)


class _Reader:
    """Batches of crops, as ONNX Runtime's calibration asks for them."""

    def __init__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> None:
        self._batches: Iterator[dict[str, Any]] = (
            {"image": crops[i : i + _BATCH]} for i in range(0, len(crops), _BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next batch; None at the end."""
        return next(self._batches, None)
