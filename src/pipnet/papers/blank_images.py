"""Training on blank (black) images with the true labels: v1's first probe of the position prior.

All inputs are the same, so a network can learn nothing from them but where landmarks usually lie. It can tell
one grid cell from another only by the zeros with which convolutions pad their inputs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipnet.datasets.load import load_samples
from pipnet.errors import RecipeError
from pipnet.io.atomic import write_text
from pipnet.metadata import ModelMetadata
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.config import ModelConfig
from pipnet.model.pipnet import PIPNet
from pipnet.scheme import BUILT_IN
from pipnet.training.augment import Augmentation
from pipnet.training.recipe import DataConfig, InitialConfig, OptimConfig, Recipe
from pipnet.training.trainer import train

_BATCH_SIZE = 4
"""Small, because only the labels of a batch differ, while its time grows with its images."""
_MAX_FACES = 300
"""The labels of this many faces are enough for a mean."""


def train_on_blank_images(like: ModelMetadata, data: Path, run: Path, steps: int) -> Path:
    """Train a network of the same architecture and crop on blank images, or resume this training.

    Args:
        like: the model from which architecture, crop and landmark scheme are taken, but no weights.
        data: a dataset with a training part.
        run: folder of the training; a finished training is not repeated.
        steps: steps of 4 images each, rounded up to whole passes over at most 300 faces.

    Returns:
        The path of the weights; read them with `load_blank_checkpoint`.

    Raises:
        RecipeError: ``steps`` is not above 0, or the run folder holds a training with other settings.
        DataError, ModelError, PipnetError: see `load_samples` and `train`.
    """
    if steps < 1:
        raise RecipeError(f"training on blank images takes at least 1 step, not {steps}")
    return train(_recipe(like, data, run, steps), run, resume=True)


def load_blank_checkpoint(path: Path) -> tuple[PIPNet, ModelMetadata]:
    """Read a network that was trained on blank images, here or by any recipe, and recalibrate it for them.

    Raises:
        ModelError: see `load_checkpoint`.
    """
    model, metadata = load_checkpoint(path)
    recalibrate_batchnorm(model)
    return model, metadata


def _recipe(like: ModelMetadata, data: Path, run: Path, steps: int) -> Recipe:
    """Return the recipe: random initial weights, labels as they are, the last weights as the result.

    A custom scheme, which is stored in the model's metadata only, is written into the run folder.
    """
    scheme = like.scheme.name
    if scheme not in BUILT_IN:
        scheme = str(run / "scheme.toml")
        write_text(Path(scheme), like.scheme.to_toml())
    faces, _, _ = load_samples(data, None, scheme)
    limit = min(len(faces), steps * _BATCH_SIZE, _MAX_FACES)
    epochs = math.ceil(steps / max(limit // _BATCH_SIZE, 1))
    return Recipe(
        name=f"{like.name}-blank",
        precision="float32",  # the differences between cells are too small for bf16
        workers=0,
        data=DataConfig(root=data, scheme=scheme, validation=0, limit=limit),
        model=ModelConfig(**like.config),
        initial=InitialConfig(pretrained=False),
        crop=like.crop,
        augment=replace(Augmentation.none(), blank=True),
        optim=OptimConfig(batch_size=_BATCH_SIZE, epochs=epochs, ema=None),
    )


@torch.no_grad()
def recalibrate_batchnorm(model: PIPNet) -> None:
    """Set the statistics of batch normalization, layer by layer, to those of one blank image.

    The running statistics lag behind the weights, and their variance is scaled by n / (n - 1). Where inputs
    never vary, a channel is nearly constant, and either error is large compared with its deviation: it would
    dominate the prediction. Each layer sees what the layers before it compute in evaluation mode.
    """
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(_set_statistics) for norm in norms]
    size = model.config.input_size
    model(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()


def _set_statistics(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """Set mean and variance to those of the layer's input."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
    variance, mean = torch.var_mean(inputs[0].double(), axes, correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
