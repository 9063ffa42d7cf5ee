"""From the backbone's stride, 32 in the papers, to the head's (v1, table 1).

Smaller stride: one transposed convolution for each halving (16 for the PIP head; 4, 2 and 1 for the papers'
Map Net). Larger stride: one strided convolution for each doubling. One cell for the whole crop: the mean of
all cells.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pipnet.errors import RecipeError

STRIDES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Strides of a neck, in addition to the input size itself, which gives one cell."""


class Neck(nn.Sequential):
    """Transposed convolutions up, strided convolutions down, or no layer at the backbone's stride."""

    def __init__(
        self, in_channels: int, stride: int, input_size: int, width: int = 512, backbone_stride: int = 32
    ) -> None:
        """Build the neck.

        Args:
            in_channels: channels of the backbone's features.
            stride: side of the head's cells in pixels.
            input_size: side of the crop in pixels.
            width: channels of each convolution (the papers: 512).
            backbone_stride: stride of the features.

        Raises:
            RecipeError: the stride is not among `STRIDES` and is not the input size.
        """
        if stride not in (*STRIDES, input_size):
            raise RecipeError(f"stride must be one of {STRIDES} or the input size, not {stride}")
        layers: list[nn.Module] = []
        channels, current = in_channels, backbone_stride
        if stride == input_size and stride > current:
            layers, current = [nn.AdaptiveAvgPool2d(1)], stride
        while current > stride:
            layers += _block(nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False))
            channels, current = width, current // 2
        while current < stride:
            layers += _block(nn.Conv2d(channels, width, 3, 2, 1, bias=False))
            channels, current = width, current * 2
        super().__init__(*layers)
        self.out_channels = channels

    def forward(self, features: Float[Tensor, "b f h w"]) -> Float[Tensor, "b g i j"]:
        """Return features of the head's stride, of features of the backbone's stride."""
        for layer in self:
            features = layer(features)
        return features


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    nn.init.normal_(convolution.weight, std=0.001)
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]
