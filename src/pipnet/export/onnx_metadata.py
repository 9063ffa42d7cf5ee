"""The metadata of a model in an ONNX file. No torch here."""

from __future__ import annotations

from pathlib import Path

import onnx

from pipnet.errors import ModelError, one_line
from pipnet.io.atomic import atomic_write
from pipnet.metadata import ModelMetadata


def read_exported(source: Path) -> tuple[onnx.ModelProto, ModelMetadata]:
    """Return the graph and the metadata of an exported model.

    Raises:
        ModelError: not an ONNX model, or not one exported by pipnet.
    """
    try:
        proto = onnx.load(source)
    except Exception as error:  # protobuf has its own unrelated exceptions
        raise ModelError(f"{source}: not an ONNX model: {one_line(error, 120)}") from None
    text = {entry.key: entry.value for entry in proto.metadata_props}.get("pipnet")
    if text is None:
        raise ModelError(f"{source}: an ONNX model, but not one exported by pipnet")
    return proto, ModelMetadata.from_json(text, str(source))


def set_metadata(proto: onnx.ModelProto, metadata: ModelMetadata) -> None:
    """Set the metadata of an ONNX model, in place of any previous one."""
    kept = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, {**kept, "pipnet": metadata.to_json(), "license": metadata.license})


def rewrite_metadata(source: Path, target: Path, metadata: ModelMetadata) -> None:
    """Write a copy of an exported model with other metadata; its graph and weights stay the same.

    Args:
        source: an .onnx file exported by pipnet.
        target: the file to write, atomically; may be the same.
        metadata: the new metadata.

    Raises:
        WriteError: the file cannot be written; its previous content remains.
    """
    proto = onnx.load_from_string(source.read_bytes())
    set_metadata(proto, metadata)
    with atomic_write(target) as partial:
        partial.write_bytes(proto.SerializeToString())
