"""Backbones from timm; the features are the last feature map, stride 32, as in the papers.

Networks that timm can dilate may keep a finer map instead, for small inputs.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from pipnet.errors import ModelError, RecipeError, one_line


class Backbone(nn.Module):
    """A timm network without its classifier, from an image to a feature map."""

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        weights: Path | None = None,
        stride: int = 32,
        last_width: int | None = None,
        late_activation: bool = False,
    ) -> None:
        """Build the network.

        Args:
            name: timm's name, such as ``mobilenetv2_100`` or ``resnet18``.
            pretrained: start from timm's ImageNet weights instead of random ones.
            weights: a ``.safetensors`` file of these weights in timm's key layout; downloaded if None.
            stride: stride of the features; below 32 the last stages are dilated instead of strided.
            last_width: channels of the last layer; the network's default if None.
            late_activation: see `pipnet.model.config.ModelConfig.late_activation`.

        Raises:
            RecipeError: timm has no such network, its features are not a map of this stride, or the width of
                its last layer or the order of its activations cannot be set.
            ModelError: the weights are missing or do not fit.
        """
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), 3)
            raise RecipeError(f"timm has no network {name!r:.80}; similar: {', '.join(near) or 'none'}")
        if weights is not None and not weights.is_file():
            raise ModelError(f"{weights}: no such file (weights of backbone {name!r})")
        overlay = {"file": str(weights)} if weights else None
        dilated: dict[str, Any] = {} if stride == 32 else {"output_stride": stride}
        try:
            self.net = timm.create_model(
                name,
                pretrained=pretrained,
                pretrained_cfg_overlay=overlay,
                num_classes=0,
                global_pool="",
                **dilated,
            )
        except (TypeError, AssertionError):
            dilation = "cannot be dilated: leave backbone_stride at 32"
            reason = dilation if dilated else "has no feature map"
            raise RecipeError(f"backbone {name!r} {reason}") from None
        except (RuntimeError, OSError, ValueError, SafetensorError) as error:
            hint = "" if weights else f"; offline, put {name}.safetensors into initial.folder"
            raise ModelError(
                f"backbone {name!r}: weights cannot be loaded: {one_line(error, 200)}{hint}"
            ) from None
        config: dict[str, Any] = self.net.pretrained_cfg  # type: ignore[assignment]
        self.mean: tuple[float, ...] = tuple(config["mean"])
        self.std: tuple[float, ...] = tuple(config["std"])
        # MobileNetV3 has a layer between its features and its classifier. It is never used here, and
        # distributed training stops on unused parameters.
        for unused in ("conv_head", "norm_head"):
            if isinstance(self.net, MobileNetV3) and hasattr(self.net, unused):
                setattr(self.net, unused, nn.Identity())
        if last_width is not None:
            self._set_last_width(name, last_width)
        if late_activation:
            self._delay_activations(name)
        self.out_channels = self._probe(name, stride)

    def _delay_activations(self, name: str) -> None:
        """Move the activation before each squeeze-and-excite behind it."""
        if not isinstance(self.net, MobileNetV3):
            raise RecipeError(f"backbone {name!r:.80} is no MobileNetV3: leave model.late_activation false")
        for block in self.net.modules():
            if isinstance(block, InvertedResidual) and not isinstance(block.se, nn.Identity):
                block.se = nn.Sequential(block.se, block.bn2.act)
                block.bn2.act = nn.Identity()

    def _set_last_width(self, name: str, width: int) -> None:
        """Replace the last layer by a new one with this number of channels."""
        if width < 1:
            raise RecipeError(f"last_width must be at least 1, not {width}")
        conv, norm = getattr(self.net, "conv_head", None), getattr(self.net, "bn2", None)
        if not (isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d)):
            raise RecipeError(
                f"backbone {name!r} has no last layer whose width can be set (model.last_width)"
            )
        self.net.conv_head = nn.Conv2d(conv.in_channels, width, 1, bias=False)
        self.net.bn2 = BatchNormAct2d(width, norm.eps, norm.momentum or 0.1, act_layer=type(norm.act))

    def _probe(self, name: str, stride: int) -> int:
        """Return the channels of the features, by running the network on a blank image."""
        training = self.net.training
        try:
            with torch.no_grad():
                out = self.net.eval().forward_features(torch.zeros(1, 3, 64, 64))  # type: ignore[operator]
            shape = tuple(out.shape)
        except (RuntimeError, AssertionError, ValueError, AttributeError) as error:
            shape = (str(error).splitlines()[0],)
        self.net.train(training)
        side = 64 // stride
        if len(shape) != 4 or shape[2:] != (side, side):
            raise RecipeError(
                f"backbone {name!r} returns {shape} for an image of 64 px, "
                f"not a map (1, F, {side}, {side}) of stride {stride}"
            )
        return int(shape[1])

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f i j"]:
        """Return the features of normalized images."""
        features: Tensor = self.net.forward_features(image)  # type: ignore[operator]
        return features
