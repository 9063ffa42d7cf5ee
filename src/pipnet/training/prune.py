"""Pruning of a trained network: fewer neighbors, and fewer channels in the backbone's last layer.

MobileNetV2's last layer has 1280 channels for ImageNet's thousand classes, and the head reads all of them:
together they are a third of the network's multiplications. Channels are removed one by one, each time the one
whose removal changes the head's output least when the weights of the others are adjusted for it (Optimal
Brain Surgeon: Hassibi and Stork, 1993; exact here, because the head is linear).

Further training does not recover the small loss: 18 epochs with 512 channels and 5 neighbors left the
validation error unchanged (benchmarks/training/earlier_weights/results.json).
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipnet.errors import RecipeError
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import PIPNet
from pipnet.progress import show_progress
from pipnet.training.dataset import FaceDataset, ShuffledEpochs

FACES = 1000
"""Maximum number of faces that outputs are compared on."""
_RIDGE = 1e-4
"""Ridge as a fraction of the mean variance of a channel, so that nearly dependent channels can be solved
for."""


def prune(model: PIPNet, last_width: int, neighbors: int | None, faces: FaceDataset) -> PIPNet:
    """Return a pruned copy of a trained network, whose output changes as little as possible.

    Args:
        model: the network; its head is a PIP head on the features of the backbone, without a neck.
        last_width: remaining channels of the backbone's last layer.
        neighbors: remaining neighbors C, the nearest ones; all of them if None.
        faces: examples with the augmentation of training, on which outputs are compared.

    Raises:
        RecipeError: the network cannot be pruned, or has fewer channels or neighbors.
    """
    config = model.config
    neighbors = config.neighbors if neighbors is None else neighbors
    weight, bias = (part.double() for part in model.head.linear_layer(neighbors))
    if config.stride != config.backbone_stride:
        raise RecipeError(f"the head reads maps of stride {config.stride}, not the backbone's features")
    if last_width > weight.shape[1]:
        raise RecipeError(f"the last layer has {weight.shape[1]} channels, fewer than {last_width}")
    covariance, mean = _moments(model, faces)
    scale = (weight @ covariance * weight).sum(dim=1).sqrt()[:, None]  # all maps count alike
    kept, fitted = keep_best(weight / scale, covariance, last_width)
    fitted = fitted * scale
    pruned = PIPNet(replace(config, last_width=last_width, neighbors=neighbors), model.mean_face)
    state = {key: value for key, value in model.state_dict().items() if key.startswith("backbone.")}
    layer = [key for key in state if key.startswith(("backbone.net.conv_head.", "backbone.net.bn2."))]
    state |= {key: state[key][kept] for key in layer if state[key].ndim}
    pruned.backbone.load_state_dict({key.removeprefix("backbone."): value for key, value in state.items()})
    pruned.head.set_linear_layer(fitted.float(), (bias + weight @ mean - fitted @ mean[kept]).float())
    return pruned.eval()


def pruned_metadata(metadata: ModelMetadata, pruned: PIPNet) -> ModelMetadata:
    """Return the metadata of a pruned copy, without the calibration, which is no longer valid."""
    config = asdict(pruned.config)
    summary = f"{config['last_width']} channels in the last layer, {config['neighbors']} neighbors"
    return replace(
        metadata,
        config=config,
        calibration=None,
        training=f"{metadata.training}; pruned to {summary}",
    )


def keep_best(
    weight: Float[Tensor, "maps channels"], covariance: Float[Tensor, "channels channels"], width: int
) -> tuple[Tensor, Float[Tensor, "maps width"]]:
    """Remove channels one by one.

    Args:
        weight: weight of the linear layer that reads the channels.
        covariance: the channels' covariance.
        width: the number of channels to keep.

    Returns:
        The indices of the remaining channels, in order, and the adjusted weight for them.
    """
    channels = len(covariance)
    ridge = _RIDGE * covariance.diagonal().mean() * torch.eye(channels, dtype=covariance.dtype)
    inverse, weight = torch.linalg.inv(covariance + ridge), weight.clone()
    remaining = torch.ones(channels, dtype=torch.bool)
    for _ in show_progress(range(channels - width), channels - width, "removing channels"):
        loss = weight.square().sum(dim=0) / inverse.diagonal()
        worst = int(torch.where(remaining, loss, torch.inf).argmin())
        row = inverse[worst] / inverse[worst, worst]
        weight -= weight[:, worst : worst + 1] * row
        inverse = inverse - inverse[:, worst : worst + 1] * row
        remaining[worst] = False
        inverse[worst, worst] = 1.0  # so that no later step divides by 0
    return remaining.nonzero()[:, 0], weight[:, remaining]


@torch.no_grad()
def _moments(model: PIPNet, faces: FaceDataset) -> tuple[Tensor, Tensor]:
    """Return covariance and mean of the features' channels, over cells and faces."""
    order = list(ShuffledEpochs(len(faces), faces.seed))[:FACES]
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0
    cells = 0
    for i in show_progress(order, len(order), "faces"):
        crop = torch.from_numpy(faces[i].crop)[None]
        features = model.features(crop)[0].flatten(1).double()
        total, products = total + features.sum(dim=1), products + features @ features.T
        cells += features.shape[1]
    mean = torch.as_tensor(total) / cells
    return torch.as_tensor(products) / cells - mean[:, None] * mean, mean
