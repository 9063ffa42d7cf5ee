"""Checkpoints: weights as safetensors, with `ModelMetadata` in the file's metadata. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from pipnet.errors import ModelError, PipnetError, one_line
from pipnet.io.atomic import atomic_write
from pipnet.metadata import ModelMetadata
from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet


def save_checkpoint(path: Path, model: PIPNet, metadata: ModelMetadata) -> None:
    """Write a network's weights and metadata to a file, atomically.

    Raises:
        WriteError: the file cannot be written.
    """
    write_checkpoint(path, {k: v.detach().cpu() for k, v in model.state_dict().items()}, metadata)


def write_checkpoint(path: Path, weights: dict[str, Tensor], metadata: ModelMetadata) -> None:
    """Write weights by name, in the precision that they have, and metadata to a file, atomically.

    Raises:
        WriteError: the file cannot be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
    with atomic_write(path) as partial:
        try:
            safetensors.torch.save_file(tensors, partial, {"pipnet": metadata.to_json()})
        except safetensors.SafetensorError as error:  # such as on a full disk
            raise OSError(str(error)) from None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], ModelMetadata]:
    """Return the weights by name, and the metadata.

    Raises:
        ModelError: the file is missing, damaged, or not a checkpoint of pipnet.
    """
    return _read(path, with_weights=True)


def read_checkpoint_metadata(path: Path) -> ModelMetadata:
    """Return the metadata without reading the weights.

    Raises:
        ModelError: see `read_checkpoint`.
    """
    return _read(path, with_weights=False)[1]


def _read(path: Path, with_weights: bool) -> tuple[dict[str, Tensor], ModelMetadata]:
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in (file.keys() if with_weights else ())}
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {one_line(error)}") from None
    if "pipnet" not in metadata:
        raise ModelError(f"{path}: a safetensors file without metadata of pipnet, not one of its checkpoints")
    return tensors, ModelMetadata.from_json(metadata["pipnet"], str(path))


def load_checkpoint(path: Path) -> tuple[PIPNet, ModelMetadata]:
    """Return the network of a checkpoint, in evaluation mode, and its metadata.

    Raises:
        ModelError: the file is missing or damaged, or its weights do not fit its metadata.
    """
    tensors, metadata = read_checkpoint(path)
    try:
        model = PIPNet(ModelConfig(**metadata.config), metadata.mean_face)
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError, AttributeError, PipnetError) as error:
        raise ModelError(f"{path}: weights and metadata disagree: {one_line(error, 200)}") from None
    return model.eval(), metadata


def start_from(model: PIPNet, path: Path) -> list[str]:
    """Load the weights of a checkpoint that fit; a head for other landmarks keeps its initial weights.

    Returns:
        The names of the weights that were not loaded.

    Raises:
        ModelError: the backbone is a different one.
    """
    tensors, metadata = read_checkpoint(path)
    state = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in state and state[k].shape == v.shape}
    if not np.array_equal(model.mean_face, metadata.mean_face):
        # The same channels stand for different landmarks, or for votes for different neighbors.
        fitting = {k: v for k, v in fitting.items() if not k.startswith("head.")}
    backbone = [k for k in state if k.startswith("backbone.")]
    if any(k not in fitting for k in backbone):
        theirs, expected = (
            f"{config.get('backbone')}, last_width {config.get('last_width')}"
            f"{', late_activation' if config.get('late_activation') else ''}"
            for config in (metadata.config, vars(model.config))
        )
        raise ModelError(f"{path}: its backbone is {theirs}, not {expected}")
    model.load_state_dict(fitting, strict=False)
    return [k for k in state if k not in fitting]
