"""Export to OpenVINO's own format (IR): an .xml file with the graph and a .bin file with the weights."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pipnet.errors import MissingExtraError, ModelError, one_line
from pipnet.io.atomic import atomic_write


def export_openvino(source: Path, target: Path, half: bool = False) -> None:
    """Convert an exported model to OpenVINO's format, with the same inputs, outputs and metadata.

    pipnet loads the result like an ONNX file. The metadata is in the graph's runtime information under
    ``framework``, ``pipnet``.

    Args:
        source: an .onnx file exported by pipnet.
        target: the .xml file to write; the .bin file beside it has the same name. Both are written
            atomically.
        half: store the weights in half precision.

    Raises:
        ModelError: the source cannot be converted.
        MissingExtraError: OpenVINO is not installed.
        WriteError: a file cannot be written.
    """
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "openvino") from None
    try:
        graph = openvino.Core().read_model(str(source))
    except Exception as error:  # OpenVINO raises plain RuntimeError for each cause
        raise ModelError(f"{source}: cannot be converted to OpenVINO: {one_line(error)}") from None
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.xml"
        openvino.save_model(graph, str(written), compress_to_fp16=half)
        target.with_suffix(".xml").unlink(missing_ok=True)  # an old graph never goes with new weights
        for suffix in (".bin", ".xml"):
            with atomic_write(target.with_suffix(suffix)) as partial:
                shutil.copyfile(written.with_suffix(suffix), partial)
