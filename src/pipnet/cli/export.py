"""``pipnet export``: export a checkpoint for inference, to ONNX, OpenVINO, or without its decode."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalOutput
from pipnet.datasets.load import load_samples
from pipnet.errors import MissingExtraError, PipnetError
from pipnet.hub import find_model

_Format = Literal["onnx", "openvino", "scores"]
_SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "scores": ".onnx"}


def export(
    model: str,
    /,
    *,
    output: OptionalOutput = None,
    format: _Format = "onnx",  # noqa: A002
    half: bool = False,
    int8: bool = False,
    data: Path | None = None,
) -> None:
    """Export a checkpoint to a file for inference, with crops as input and landmarks as output.

    Parameters
    ----------
    model
        A .safetensors file of a training. For openvino and scores also an exported model: its name, .onnx
        file, folder or hub id.
    output
        The file to write; NAME.onnx, NAME.xml (openvino) or NAME_scores.onnx (scores) beside the model if not
        given; for the name of a model, in the current folder.
    format
        onnx: one ONNX file with everything inside. openvino: OpenVINO's own format, an .xml and a .bin file.
        scores: an ONNX file that ends at the score and offset maps, for runtimes that cannot gather, with a
        .json file for the decode (docs/export.md).
    half
        Store the weights in half precision: half the size, still computed in float32. For onnx and openvino.
    int8
        Quantize to 8-bit integers, which is faster on processors that support them. Measure the loss of
        accuracy: pipnet evaluate. For checkpoints, to onnx and openvino.
    data
        For --int8: a dataset, on some of whose training faces the ranges of activations are measured.
    """
    is_checkpoint = Path(model).suffix == ".safetensors"
    if int8 != (data is not None):
        raise PipnetError("use --int8 and --data together: --data is the dataset for the quantization")
    if int8 and half:
        raise PipnetError("--int8 already stores other weights in half precision: leave --half out")
    if format == "scores" and (int8 or half):
        raise PipnetError(
            "--format scores is in float32: leave --int8 and --half out, and convert its result"
        )
    if not is_checkpoint and (format == "onnx" or int8):
        raise PipnetError(
            f"{model:.255}: not a checkpoint: export a .safetensors file, or use --format openvino or scores"
        )
    target = output or _default_target(model, format)
    if target.suffix != _SUFFIX[format]:
        raise PipnetError(f"-o {target}: the name of an exported model must end in {_SUFFIX[format]}")
    with tempfile.TemporaryDirectory() as folder:
        if format == "onnx":
            _write_onnx(Path(model), target, half, data, Path(folder))
        elif is_checkpoint:
            exported = Path(folder) / "exported.onnx"
            _write_onnx(Path(model), exported, False, data, Path(folder))
            _convert(exported, target, format, half)
        else:
            _convert(find_model(model), target, format, half)
    weights = target.with_suffix(".bin") if format == "openvino" else target
    say(f"{target}: {weights.stat().st_size / 1e6:.1f} MB")


def _default_target(model: str, file_format: _Format) -> Path:
    """Return the file to write: beside a model's file or folder, else in the current folder."""
    path = Path(model) if Path(model).exists() or Path(model).suffix else Path(Path(model).name)
    stem = path.stem if path.suffix in (".safetensors", ".onnx") else path.name
    ending = "_scores.onnx" if file_format == "scores" else _SUFFIX[file_format]
    return path.with_name(stem + ending)


def _write_onnx(checkpoint: Path, target: Path, half: bool, data: Path | None, folder: Path) -> None:
    """Export a checkpoint to ONNX, quantized if there is a dataset for that."""
    with training_imports():
        from pipnet.export.onnx import export_onnx
        from pipnet.export.quantize import calibration_crops, quantize_onnx
        from pipnet.model.checkpoint import load_checkpoint
    model, metadata = load_checkpoint(checkpoint)
    if data is None:
        return export_onnx(model, metadata, target, half)
    samples, _, _ = load_samples(data, None, metadata.scheme)
    crops = calibration_crops(metadata, samples)
    full_precision = folder / "full_precision.onnx"
    export_onnx(model, metadata, full_precision)
    return quantize_onnx(full_precision, target, crops)


def _convert(source: Path, target: Path, file_format: _Format, half: bool) -> None:
    """Convert an exported ONNX file to one of the other formats."""
    if file_format == "openvino":
        from pipnet.export.openvino import export_openvino

        return export_openvino(source, target, half)
    try:
        from pipnet.export.score_maps import export_score_maps
    except ImportError as error:
        raise MissingExtraError(str(error.name), "onnx") from None
    return export_score_maps(source, target)
