"""A trained net made leaner: fewer neighbors, and a last layer only as wide as landmarks need.

MobileNetV2's last layer has 1280 channels for ImageNet's thousand classes, and the head reads all of them:
together they are a third of the net's multiplications. Channels are taken out one by one, each time the one
without which the others can still answer best (Optimal Brain Surgeon: Hassibi and Stork, 1993; the head is
linear, so that it holds exactly), and the others' weights in the head make up for it.

What little is lost does not come back in a further training: 18 epochs with 512 channels and 5
neighbors left the validation split where it was (benchmarks/weights/trained-at-512-channels.json).
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipnet.errors import RecipeError
from pipnet.metadata import ModelMetadata
from pipnet.model.heads.pip import PipHead
from pipnet.model.pipnet import PIPNet
from pipnet.progress import track
from pipnet.training.dataset import FaceDataset, ShuffledEpochs

FACES = 1000
"""How many faces answers are compared on, unless there are fewer."""
_RIDGE = 1e-4
"""Of the mean square of a channel: keeps what is all but dependent solvable."""


def slim(model: PIPNet, last_width: int, neighbors: int | None, faces: FaceDataset) -> PIPNet:
    """A leaner copy of a trained net, whose maps are as like the old ones as can be.

    Args:
        model: the net, to be evaluated; its head is a PIP head on the backbone's own features.
        last_width: channels to be left of the backbone's last layer.
        neighbors: C to be left; the nearest ones stay, or all of them.
        faces: examples, varied as in training, that maps are compared on.

    Raises:
        RecipeError: the net is no such one, or is not wider than asked for.
    """
    head, config = model.head, model.config
    if not isinstance(head, PipHead) or head.reduction != "none" or head.curriculum:
        raise RecipeError("only a net with a PIP head is made leaner, without reduction or curriculum")
    if config.stride != config.backbone_stride:
        raise RecipeError(f"its head reads maps of stride {config.stride}, not the backbone's own features")
    neighbors = config.neighbors if neighbors is None else neighbors
    if last_width > head.conv.in_channels or neighbors > head.neighbors.shape[1]:
        raise RecipeError(
            f"it has {head.conv.in_channels} channels and {head.neighbors.shape[1]} neighbors,"
            f" fewer than {last_width} and {neighbors}"
        )
    lean = PIPNet(replace(config, last_width=last_width, neighbors=neighbors), model.mean_face)
    rows = _kept_maps(head, neighbors)
    old = head.conv.state_dict()
    weight, bias = old["weight"][rows, :, 0, 0].double(), old["bias"][rows].double()
    gram, mean = _moments(model, faces)
    scale = (weight @ gram * weight).sum(dim=1).sqrt()[:, None]  # all maps matter alike
    kept, fitted = keep_best(weight / scale, gram, last_width)
    fitted = fitted * scale
    state = model.state_dict()
    layer = [key for key in state if key.startswith(("backbone.net.conv_head.", "backbone.net.bn2."))]
    state |= {key: state[key][kept] for key in layer if state[key].ndim}
    state["head.conv.weight"] = fitted.float()[:, :, None, None]
    state["head.conv.bias"] = (bias + weight @ mean - fitted @ mean[kept]).float()
    lean.load_state_dict(state)
    return lean.eval()


def pruned_metadata(metadata: ModelMetadata, slimmed: PIPNet) -> ModelMetadata:
    """The description of the leaner copy: its confidence is to be calibrated anew."""
    config = asdict(slimmed.config)
    made = f"made leaner: {config['last_width']} channels, {config['neighbors']} neighbors"
    return replace(metadata, config=config, training=f"{metadata.training}; {made}", calibration=None)


def keep_best(
    weight: Float[Tensor, "maps channels"], gram: Float[Tensor, "channels channels"], width: int
) -> tuple[Tensor, Float[Tensor, "maps width"]]:
    """Take out channels one by one.

    Args:
        weight: of the linear layer that reads the channels.
        gram: the channels' covariance.
        width: how many to keep.

    Returns:
        Those that are kept, in order, and the weights with which they make up for the others.
    """
    channels = len(gram)
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(channels, dtype=gram.dtype)
    inverse, weight = torch.linalg.inv(gram + ridge), weight.clone()
    left = torch.ones(channels, dtype=torch.bool)
    for _ in track(range(channels - width), channels - width, "channels taken out"):
        loss = weight.square().sum(dim=0) / inverse.diagonal()
        worst = int(torch.where(left, loss, torch.inf).argmin())
        row = inverse[worst] / inverse[worst, worst]
        weight -= weight[:, worst : worst + 1] * row
        inverse = inverse - inverse[:, worst : worst + 1] * row
        left[worst] = False
        inverse[worst, worst] = 1.0  # never chosen again, and never divided by
    return left.nonzero()[:, 0], weight[:, left]


def _kept_maps(head: PipHead, neighbors: int) -> Tensor:
    """The head's channels that stay: all scores and offsets, and the votes for the nearest neighbors."""
    n, c = head.neighbors.shape
    votes = 3 * n + torch.arange(2 * n * c).reshape(2, n, c)[:, :, :neighbors].flatten()
    return torch.cat([torch.arange(3 * n), votes])


@torch.no_grad()
def _moments(model: PIPNet, faces: FaceDataset) -> tuple[Tensor, Tensor]:
    """Covariance and mean of the features' channels, over cells and faces."""
    order = list(ShuffledEpochs(len(faces), faces.seed))[:FACES]
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0
    cells = 0
    for i in track(order, len(order), "faces"):
        crop = torch.from_numpy(faces[i].crop)[None]
        features = model.backbone(model.normalize(crop))[0].flatten(1).double()
        total, products = total + features.sum(dim=1), products + features @ features.T
        cells += features.shape[1]
    mean = torch.as_tensor(total) / cells
    return torch.as_tensor(products) / cells - mean[:, None] * mean, mean
