"""Training on plain black pictures with the true labels: v1's probe of the position prior.

All inputs are the same, so a net can learn nothing from them but where landmarks usually lie. It knows where
on the grid it is only from the zeros with which convolutions pad their inputs.
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
from pipnet.model.pipnet import ModelConfig, PIPNet
from pipnet.scheme import BUILT_IN
from pipnet.training.augment import Augmentation
from pipnet.training.recipe import DataConfig, InitialConfig, OptimConfig, Recipe
from pipnet.training.trainer import train

_BATCH = 4
"""Small: only the labels of a batch differ, while its time goes with its pictures."""
_FACES = 300
"""How many faces' labels are enough for a mean."""


def train_black(like: ModelMetadata, data: Path, run: Path, steps: int) -> Path:
    """Train a net of the same architecture and crop on black pictures, or finish what was begun.

    Args:
        like: the model whose architecture, crop and landmarks it takes; not one of its weights.
        data: a collection with a training part.
        run: folder of the training; where it is finished, it is not repeated.
        steps: how long, at 4 pictures each, rounded up to whole passes over at most 300 faces.

    Returns:
        The path of its weights; see `load_black`.

    Raises:
        RecipeError: ``steps`` is not above 0, or the run folder holds a training of other settings.
        DataError, ModelError, PipnetError: see `load_samples` and `train`.
    """
    return train(black_recipe(like, data, run, steps), run, resume=True)


def load_black(path: Path) -> tuple[PIPNet, ModelMetadata]:
    """A net trained on black pictures, here or by any recipe, ready to be shown one.

    Raises:
        ModelError: see `load_checkpoint`.
    """
    model, metadata = load_checkpoint(path)
    settle_statistics(model)
    return model, metadata


def black_recipe(like: ModelMetadata, data: Path, run: Path, steps: int) -> Recipe:
    """The recipe of `train_black`: random initial weights, labels as they are, the last weights count.

    A scheme of the user's own, which the model brings with it, is put into the run folder as a file.
    """
    if steps < 1:
        raise RecipeError(f"the net on black pictures is trained for at least 1 step, not {steps}")
    scheme = like.scheme.name
    if scheme not in BUILT_IN:
        scheme = str(run / "scheme.toml")
        write_text(Path(scheme), like.scheme.to_toml())
    faces, _, _ = load_samples(data, None, scheme)
    limit = min(len(faces), steps * _BATCH, _FACES)
    return Recipe(
        name=f"{like.name}-black",
        precision="float32",  # what tells one cell from another is too small for bf16
        workers=0,
        data=DataConfig(data, None, scheme, validation=0, limit=limit),
        model=ModelConfig(**like.config),
        initial=InitialConfig(pretrained=False),
        crop=like.crop,
        augment=replace(Augmentation.none(), blank=True),
        optim=OptimConfig(batch_size=_BATCH, epochs=math.ceil(steps / max(limit // _BATCH, 1)), ema=None),
    )


@torch.no_grad()
def settle_statistics(model: PIPNet) -> None:
    """Give batch normalization the statistics of the black picture itself, layer by layer.

    The running ones lag behind the weights, and are widened by n / (n - 1). Where inputs never vary, a
    channel is nearly constant, and either is large beside its deviation: the answer would come from that
    instead of the weights. Each layer sees what the layers before it give when they predict.
    """
    norms = [module for module in model.eval().modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(_take_statistics) for norm in norms]
    size = model.config.input_size
    model(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()


def _take_statistics(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """The mean and variance of what a layer is about to normalize."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
    variance, mean = torch.var_mean(inputs[0].double(), axes, correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
