"""The Map Net of the papers' comparison: one Gaussian heat map a landmark, decoded by its peak.

The peak of a target is the cell that holds the landmark. The original code has int(x W - 0.5), which is on
average half a cell further left and up; decoded at the cell's center, this error stays in every landmark, and
is a third of the error at 128 px and stride 4 (6.61 and 4.35 %, `benchmarks/accuracy/heads/report.md`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipnet.model.heads.base import Head, Landmarks, Supervision, masked_mean

SIGMA = {4: 1.0, 2: 2.0, 1: 4.0}
"""The papers' standard deviation of the target by net stride, in cells; cut off at 3 of them."""


class MapTargets(NamedTuple):
    """The true heat maps."""

    maps: Float[Tensor, "b n h w"]
    valid: Bool[Tensor, "b n"]
    """The landmark is known and inside the crop."""


class HeatmapHead(Head):
    """A 1 x 1 convolution on the upsampled features of the neck (v1's baseline)."""

    def __init__(self, in_channels: int, grid: int, landmarks: int, sigma: float) -> None:
        super().__init__()
        self.grid, self.sigma = grid, sigma
        self.conv = nn.Conv2d(in_channels, landmarks, 1)
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, features: Float[Tensor, "b f h w"]) -> Float[Tensor, "b n h w"]:
        """Return the heat maps."""
        maps: Tensor = self.conv(features)
        return maps

    def encode(self, points: Float[Tensor, "b n 2"], known: Bool[Tensor, "b n"]) -> MapTargets:
        """Return a Gaussian of height 1 about the cell that holds each landmark, 0 beyond 3 sigma."""
        valid = known & ((points >= 0) & (points < 1)).all(dim=2)
        peak = (torch.where(valid[..., None], points, 0) * self.grid).floor()
        cells = torch.arange(self.grid, device=points.device)
        dx = (cells - peak[..., 0:1])[:, :, None, :]
        dy = (cells - peak[..., 1:2])[:, :, :, None]
        near = (dx.abs() <= 3 * self.sigma) & (dy.abs() <= 3 * self.sigma)
        return MapTargets(torch.exp(-(dx**2 + dy**2) / (2 * self.sigma**2)) * near, valid)

    def loss(
        self, output: Float[Tensor, "b n h w"], targets: MapTargets, supervision: Supervision
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the mean squared error over all cells of the valid landmarks' maps."""
        errors = (output.float() - targets.maps).square().flatten(2).mean(dim=2)
        return {"map": masked_mean(errors, targets.valid * supervision.weight)}

    def score_maps(self, output: Float[Tensor, "b n h w"]) -> Float[Tensor, "b n h w"]:
        """Return the heat maps."""
        return output.float()

    def decode(self, output: Float[Tensor, "b n h w"]) -> Landmarks:
        """Return the peak's cell + 0.5, and a quarter of a cell towards the higher neighbor on each axis."""
        maps = output.float().flatten(2)
        peak, cell = maps.max(dim=2)
        column, row = cell % self.grid, cell // self.grid
        x = column + 0.5 + 0.25 * self._slope_sign(maps, cell, column, 1)
        y = row + 0.5 + 0.25 * self._slope_sign(maps, cell, row, self.grid)
        points = torch.stack([x, y], dim=2) / self.grid
        return Landmarks(points, peak.clamp(0, 1), torch.zeros_like(peak))

    def _slope_sign(self, maps: Tensor, cell: Tensor, position: Tensor, step: int) -> Float[Tensor, "b n"]:
        """Return +1 or -1 towards the higher of a cell's two neighbors along an axis, 0 at the border."""
        inside = (position > 0) & (position < self.grid - 1)
        index = torch.where(inside, cell, torch.full_like(cell, step))  # any cell that has neighbors
        slope = maps.gather(2, (index + step)[..., None]) - maps.gather(2, (index - step)[..., None])
        return slope[..., 0].sign() * inside
