"""``pipnet export``: export a checkpoint to an ONNX file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipnet.cli import say, training_imports
from pipnet.cli.options import OptionalOutput
from pipnet.datasets.load import load_samples
from pipnet.errors import PipnetError


def export(
    checkpoint: Path,
    /,
    *,
    output: OptionalOutput = None,
    half: bool = False,
    int8: bool = False,
    data: Path | None = None,
) -> None:
    """Export a checkpoint to one ONNX file, with crops as input and landmarks as output.

    Parameters
    ----------
    checkpoint
        A .safetensors file of a training.
    output
        The file to write; beside the checkpoint if not given.
    half
        Store the weights in half precision: half the size, still computed in float32.
    int8
        Quantize to 8-bit integers, which is faster on processors that support them. Measure the loss of
        accuracy: pipnet evaluate.
    data
        For --int8: a dataset, on some of whose training faces the ranges of activations are measured.
    """
    if int8 != (data is not None):
        raise PipnetError("use --int8 and --data together: --data is the dataset for the quantization")
    if int8 and half:
        raise PipnetError("--int8 already stores other weights in half precision: leave --half out")
    with training_imports():
        from pipnet.export.onnx import export_onnx
        from pipnet.export.quantize import calibration_crops, quantize_onnx
        from pipnet.model.checkpoint import load_checkpoint
    target = output or checkpoint.with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise PipnetError(f"-o {target}: the name of an exported model must end in .onnx")
    model, metadata = load_checkpoint(checkpoint)
    if data is None:
        export_onnx(model, metadata, target, half)
    else:
        samples, _, _ = load_samples(data, None, metadata.scheme)
        crops = calibration_crops(metadata, samples)
        with tempfile.TemporaryDirectory() as folder:
            full_precision = Path(folder) / "full_precision.onnx"
            export_onnx(model, metadata, full_precision)
            quantize_onnx(full_precision, target, crops)
    say(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
