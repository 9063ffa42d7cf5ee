"""A model's description in an ONNX file, written with the graph or anew beside it. No torch here."""

from __future__ import annotations

from pathlib import Path

import onnx

from pipnet.io.atomic import atomic_write
from pipnet.metadata import ModelMetadata


def describe(proto: onnx.ModelProto, metadata: ModelMetadata) -> None:
    """Put a description into the metadata of an ONNX model, in the place of an older one."""
    kept = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, {**kept, "pipnet": metadata.to_json(), "license": metadata.license})


def rewrite_description(source: Path, target: Path, metadata: ModelMetadata) -> None:
    """Write an exported model with another description; its graph and weights are what they were.

    Args:
        source: an .onnx file exported by pipnet.
        target: the file to write, whole or not at all; may be the same.
        metadata: the new description.

    Raises:
        WriteError: it cannot be written; what was there remains.
    """
    proto = onnx.load_from_string(source.read_bytes())
    describe(proto, metadata)
    with atomic_write(target) as partial:
        partial.write_bytes(proto.SerializeToString())
