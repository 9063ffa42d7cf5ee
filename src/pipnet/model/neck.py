"""From the backbone's stride of 32 to the head's: 16, 32, 64 or 128 (pipnet.md section 2)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pipnet.errors import RecipeError

STRIDES = (16, 32, 64, 128)
_WIDTH = 512


class Neck(nn.Sequential):
    """One transposed convolution up to stride 16, nothing at 32, one or two strided ones to 64 or 128."""

    def __init__(self, in_channels: int, stride: int) -> None:
        if stride not in STRIDES:
            raise RecipeError(f"stride must be one of {STRIDES}, not {stride}")
        layers: list[nn.Module] = []
        channels = in_channels
        if stride == 16:
            layers += _block(nn.ConvTranspose2d(channels, _WIDTH, 4, 2, 1, bias=False))
            channels = _WIDTH
        while stride > 32:
            layers += _block(nn.Conv2d(channels, _WIDTH, 3, 2, 1, bias=False))
            channels, stride = _WIDTH, stride // 2
        super().__init__(*layers)
        self.out_channels = channels

    def forward(self, features: Float[Tensor, "b f h w"]) -> Float[Tensor, "b g i j"]:
        """Features of stride 32 -> features of the head's stride."""
        for layer in self:
            features = layer(features)
        return features


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    nn.init.normal_(convolution.weight, std=0.001)
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]
