"""The network as a whole: uint8 crops in, landmarks out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from pipnet.errors import RecipeError
from pipnet.model.backbones import Backbone
from pipnet.model.heads.base import Head, Landmarks
from pipnet.model.heads.coordinate import CoordinateHead
from pipnet.model.heads.curriculum import Supervision
from pipnet.model.heads.heatmap import SIGMA, HeatmapHead
from pipnet.model.heads.pip import PipHead, PipLosses, Reduction
from pipnet.model.neck import Neck
from pipnet.model.neighbors import Merge


@dataclass(frozen=True)
class ModelConfig:
    """What the network is made of."""

    backbone: str = "mobilenetv2_100"
    """A timm network."""
    input_size: int = 256
    """Side of the crop in pixels; divisible by the stride."""
    stride: int = 32
    """Side of the head's cells in pixels: 16, 32, 64, 128 for pip; 32 for coord; 4, 2, 1 for map."""
    backbone_stride: Literal[32, 16, 8] = 32
    """Stride of the backbone's features; below 32 its last stages are dilated instead of strided."""
    last_width: int | None = None
    """Channels of the backbone's last layer, where that is a 1 x 1 convolution as wide as ImageNet's thousand
    classes ask for (MobileNetV2, EfficientNet: 1280); its own if None. See `pipnet.training.prune`."""
    head: Literal["pip", "coord", "map"] = "pip"
    """How landmarks are represented: Pixel-in-Pixel, coordinates, or heat maps."""
    neck_width: int = 512
    """Channels of the convolutions that lead to another stride than 32."""
    neighbors: int = 10
    """C, how many neighbors each landmark votes for; 0 to L - 1."""
    merge: Merge = "mean"
    """How votes are merged: ``mean``, or ``official`` for the authors' weights."""
    score_loss: Literal["l2", "l1", "focal"] = "l2"
    """Loss of the score maps."""
    offset_loss: Literal["l1", "l2"] = "l1"
    """Loss of the offsets."""
    score_weight: float | None = None
    """Weight of the score loss; the papers' for the grid if none is given."""
    reduction: Reduction = "none"
    """What the pip head is reduced to: ``coordinates`` (one cell, no scores), ``heatmap`` (no offsets)."""

    curriculum: Literal["none", "published", "equal"] = "none"
    """Train the pip head's score maps on coarser grids too, as self-training's curriculum needs (IJCV), with
    this weighting of faces by their tasks; see `pipnet.model.heads.curriculum`."""

    def __post_init__(self) -> None:
        for key, kind in get_type_hints(type(self)).items():
            value = getattr(self, key)
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise RecipeError(f"{key} is one of {', '.join(map(str, get_args(kind)))}, not {value!r:.40}")
            if kind is int and type(value) is not int:
                raise RecipeError(f"{key} is a whole number, not {value!r:.40}")


_PIP_ONLY = ("merge", "score_weight", "score_loss", "offset_loss", "reduction", "curriculum")


def build_head(config: ModelConfig, in_channels: int, mean_face: Float64[np.ndarray, "landmarks 2"]) -> Head:
    """The head of a configuration.

    Raises:
        RecipeError: a setting does not fit the head.
    """
    grid = config.input_size // config.stride
    changed = [key for key in _PIP_ONLY if getattr(config, key) != getattr(ModelConfig(), key)]
    if config.head != "pip" and changed:
        raise RecipeError(f"model.{changed[0]} is a setting of the pip head, not of {config.head}")
    if config.head == "coord":
        return CoordinateHead(in_channels, grid, len(mean_face))
    if config.head == "map":
        if config.stride not in SIGMA:
            raise RecipeError(f"a map head has stride {', '.join(map(str, SIGMA))}, not {config.stride}")
        return HeatmapHead(in_channels, grid, len(mean_face), SIGMA[config.stride])
    return PipHead(
        in_channels,
        grid,
        mean_face,
        config.neighbors,
        config.merge,
        config.score_weight,
        PipLosses(config.score_loss, config.offset_loss),
        config.reduction,
        None if config.curriculum == "none" else config.curriculum,
    )


class PIPNet(nn.Module):
    """Backbone, neck and head, with the input's normalization inside."""

    def __init__(
        self,
        config: ModelConfig,
        mean_face: Float64[np.ndarray, "landmarks 2"],
        pretrained: bool = False,
        weights: Path | None = None,
    ) -> None:
        """Build the network.

        Args:
            config: what it is made of.
            mean_face: mean of the training labels, as fractions of the crop.
            pretrained: start the backbone from timm's ImageNet weights instead of random ones.
            weights: a ``.safetensors`` file in timm's key layout to take them from.

        Raises:
            RecipeError: a setting is out of range.
            ModelError: backbone weights do not load.
        """
        super().__init__()
        step = max(config.stride, 32)
        if config.input_size < step or config.input_size % step:
            near = max(round(config.input_size / step), 1) * step
            raise RecipeError(f"input_size must be divisible by {step}: {config.input_size}, try {near}")
        self.config = config
        self.mean_face = mean_face
        self.backbone = Backbone(
            config.backbone, pretrained, weights, config.backbone_stride, config.last_width
        )
        channels = self.backbone.out_channels
        self.neck = Neck(
            channels, config.stride, config.input_size, config.neck_width, config.backbone_stride
        )
        self.head = build_head(config, self.neck.out_channels, mean_face)
        self.mean: Tensor
        self.std: Tensor
        for name, value in (("mean", self.backbone.mean), ("std", self.backbone.std)):
            constant = torch.tensor(value).reshape(1, 3, 1, 1) * 255
            self.register_buffer(name, constant, persistent=False)

    def forward(self, image: UInt8[Tensor, "b h w 3"]) -> Tensor | tuple[Any, ...]:
        """RGB crops -> the head's raw output, to be trained on or decoded."""
        output: Tensor | tuple[Any, ...] = self.head(self.features(image))
        return output

    def features(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b f i j"]:
        """RGB crops -> what the head is applied to."""
        features: Tensor = self.neck(self.backbone(self.normalize(image)))
        return features

    def normalize(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """RGB crops -> what the backbone was made for."""
        return (image.permute(0, 3, 1, 2).float() - self.mean) / self.std

    @torch.no_grad()
    def predict(self, image: UInt8[Tensor, "b h w 3"]) -> Landmarks:
        """RGB crops -> landmarks as fractions of the crop.

        Under autocast the network may compute in bf16, but not the decode: its steps are as wide as a pixel.
        """
        output = self(image)
        with torch.autocast(image.device.type, enabled=False):
            return self.head.decode(output)

    def loss(
        self,
        output: Any,
        points: Float[Tensor, "b landmarks 2"],
        supervision: Supervision | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss for labels as fractions of the crop; NaN where unknown.

        Args:
            output: of the forward pass.
            points: the labels.
            supervision: how each face is trained on; all faces in full and alike if None.
        """
        targets = self.head.encode(points, points.isfinite().all(dim=2))
        return self.head.loss(output, targets, supervision)

    def describe(self) -> dict[str, Any]:
        """Parameters in all and by part."""

        def count(module: nn.Module) -> int:
            return sum(p.numel() for p in module.parameters())

        return {
            "parameters": count(self),
            "backbone": count(self.backbone),
            "head": count(self.head),
        }
