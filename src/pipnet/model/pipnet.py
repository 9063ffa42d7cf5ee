"""The complete network: uint8 crops in, landmarks out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from pipnet.errors import RecipeError
from pipnet.model.backbones import Backbone
from pipnet.model.config import ModelConfig
from pipnet.model.heads.base import Head, Landmarks, Supervision
from pipnet.model.heads.coordinate import CoordinateHead
from pipnet.model.heads.heatmap import SIGMA, HeatmapHead
from pipnet.model.heads.pip import PipHead, PipLosses
from pipnet.model.neck import Neck

_PIP_ONLY = ("merge", "score_weight", "score_loss", "offset_loss", "reduction", "curriculum")


def build_head(config: ModelConfig, in_channels: int, mean_face: Float64[np.ndarray, "landmarks 2"]) -> Head:
    """Return the head of a configuration.

    Raises:
        RecipeError: a setting does not fit the head.
    """
    grid = config.input_size // config.stride
    changed = [key for key in _PIP_ONLY if getattr(config, key) != getattr(ModelConfig(), key)]
    if config.head != "pip" and changed:
        raise RecipeError(f"model.{changed[0]} is a setting of the pip head, not of the {config.head} head")
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
    """Backbone, neck and head, including the normalization of the input."""

    def __init__(
        self,
        config: ModelConfig,
        mean_face: Float64[np.ndarray, "landmarks 2"],
        pretrained: bool = False,
        weights: Path | None = None,
    ) -> None:
        """Build the network.

        Args:
            config: its parts.
            mean_face: mean of the training labels, as fractions of the crop.
            pretrained: start the backbone from timm's ImageNet weights instead of random ones.
            weights: a ``.safetensors`` file of these weights in timm's key layout; timm downloads them if
                None.

        Raises:
            RecipeError: a setting is out of range.
            ModelError: backbone weights do not load.
        """
        super().__init__()
        step = max(config.stride, 32)
        if config.input_size < step or config.input_size % step:
            nearest = max(round(config.input_size / step), 1) * step
            raise RecipeError(f"input_size must be divisible by {step}: {config.input_size}, try {nearest}")
        self.config = config
        self.mean_face = mean_face
        self.backbone = Backbone(
            config.backbone,
            pretrained,
            weights,
            config.backbone_stride,
            config.last_width,
            config.late_activation,
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

    def forward(self, image: UInt8[Tensor, "b h w 3"]) -> Any:
        """Return the head's raw output for RGB crops, for `loss` or the head's ``decode``."""
        return self.head(self.features(image))

    def features(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b f i j"]:
        """Return the input of the head for RGB crops."""
        features: Tensor = self.neck(self.backbone(self.normalize(image)))
        return features

    def normalize(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Return RGB crops in the normalization of the backbone."""
        return (image.permute(0, 3, 1, 2).float() - self.mean) / self.std

    @torch.no_grad()
    def predict(self, image: UInt8[Tensor, "b h w 3"]) -> Landmarks:
        """Return the landmarks of RGB crops as fractions of the crop.

        Under autocast the network may compute in bf16, but not the decode, where a step of bf16 is a pixel.
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
        """Return the terms of the loss by name.

        Args:
            output: the raw output of the forward pass.
            points: the labels as fractions of the crop; NaN where unknown.
            supervision: task and loss weight of each landmark; the full task and weight 1 if None.
        """
        if supervision is None:
            supervision = Supervision.full(len(points), points.shape[1], points.device)
        targets = self.head.encode(points, points.isfinite().all(dim=2))
        return self.head.loss(output, targets, supervision)

    def describe(self) -> dict[str, int]:
        """Return the number of parameters, in total and by part."""
        parts = {"parameters": self, "backbone": self.backbone, "head": self.head}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
