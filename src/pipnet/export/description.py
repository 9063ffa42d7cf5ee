"""A model's description in an ONNX file, written with the graph or anew beside it. No torch here."""

from __future__ import annotations

from pathlib import Path

import onnx

from pipnet.model_info import ModelInfo
from pipnet.writing import written_whole


def describe(proto: onnx.ModelProto, info: ModelInfo) -> None:
    """Put a description into the metadata of an ONNX model, in the place of an older one."""
    kept = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, {**kept, "pipnet": info.to_json(), "licence": info.licence})


def rewrite_description(source: Path, target: Path, info: ModelInfo) -> None:
    """Write an exported model with another description; its graph and weights are what they were.

    Args:
        source: an .onnx file exported by pipnet.
        target: the file to write, whole or not at all; may be the same.
        info: the new description.

    Raises:
        WriteError: it cannot be written; what was there remains.
    """
    proto = onnx.load_from_string(source.read_bytes())
    describe(proto, info)
    with written_whole(target) as partial:
        partial.write_bytes(proto.SerializeToString())
