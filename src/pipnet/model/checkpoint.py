"""Checkpoints: safetensors, with what the model is in the metadata. Nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from pipnet.errors import ModelError, PipnetError
from pipnet.io.atomic import atomic_write
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import ModelConfig, PIPNet


def save_checkpoint(path: Path, model: PIPNet, metadata: ModelMetadata) -> None:
    """Write weights and description; the file appears whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with atomic_write(path) as partial:
        try:
            safetensors.torch.save_file(tensors, partial, {"pipnet": metadata.to_json()})
        except safetensors.SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], ModelMetadata]:
    """Weights by name, and the description.

    Raises:
        ModelError: missing, damaged, or no checkpoint of pipnet.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from None
    if "pipnet" not in metadata:
        raise ModelError(f"{path}: weights of something else, not a checkpoint of pipnet")
    return tensors, ModelMetadata.from_json(metadata["pipnet"], str(path))


def load_checkpoint(path: Path) -> tuple[PIPNet, ModelMetadata]:
    """The model of a checkpoint, ready to predict.

    Raises:
        ModelError: missing, damaged, or weights that do not fit their own description.
    """
    tensors, metadata = read_checkpoint(path)
    try:
        model = PIPNet(ModelConfig(**metadata.config), metadata.mean_face)
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError, AttributeError, PipnetError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: weights and description disagree: {reason:.200}") from None
    return model.eval(), metadata


def start_from(model: PIPNet, path: Path) -> list[str]:
    """Take over from a checkpoint what fits; a head for other landmarks starts anew.

    Returns:
        The names of the weights that were not taken over.

    Raises:
        ModelError: the backbone is another one.
    """
    tensors, metadata = read_checkpoint(path)
    own = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    if not np.array_equal(model.mean_face, metadata.mean_face):
        # Channels of the same number mean other landmarks, or votes for other neighbors.
        fitting = {k: v for k, v in fitting.items() if not k.startswith("head.")}
    backbone = [k for k in own if k.startswith("backbone.")]
    if any(k not in fitting for k in backbone):
        given, wanted = (
            f"{config.get('backbone')}, last_width {config.get('last_width')}"
            for config in (metadata.config, vars(model.config))
        )
        raise ModelError(f"{path}: its backbone is {given}, not {wanted}")
    model.load_state_dict(fitting, strict=False)
    return [k for k in own if k not in fitting]
