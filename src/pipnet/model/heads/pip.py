"""The Pixel-in-Pixel head (v1 and IJCV 2021): score, offsets and neighbour offsets on one small grid.

For every landmark the head says in which cell it lies (score map), where in that cell (offsets), and
where its C neighbours lie from there (neighbour offsets). One 1 x 1 convolution does all of it; its
output channels are, in this order, N scores, N x, N y, C N neighbour x and C N neighbour y, a neighbour's
channel being C i + j.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from pipnet.model.heads.base import Head, Landmarks
from pipnet.model.neighbors import Merge, merge_matrix, nearest_neighbors

SCORE_WEIGHT = {16: 50.0, 8: 10.0, 4: 8.0, 2: 4.0}
"""The papers' weight of the score loss, by the side of the grid (pipnet.md section 3)."""


class PipTargets(NamedTuple):
    """Where each landmark lies on the grid, in cells."""

    cell: Int64[Tensor, "b n"]
    """Index of the true cell, row by row."""
    offset: Float[Tensor, "b n 2"]
    """Landmark relative to the top-left corner of its cell."""
    neighbor_offset: Float[Tensor, "b n c 2"]
    """Neighbours of a landmark relative to the top-left corner of the landmark's cell."""
    valid: Bool[Tensor, "b n"]
    """The landmark is known and lies in the crop: its maps are trained."""
    neighbor_valid: Bool[Tensor, "b n c"]
    """The landmark is valid and its neighbour is known, be it outside the crop."""


class PipMaps(NamedTuple):
    """The head's output, taken apart."""

    score: Float[Tensor, "b n cells"]
    offset: Float[Tensor, "b n 2 cells"]
    neighbor_offset: Float[Tensor, "b n c 2 cells"]


class PipHead(Head):
    """Score, offset and neighbour maps from one 1 x 1 convolution."""

    def __init__(
        self,
        in_channels: int,
        grid: int,
        mean_face: Float[np.ndarray, "n 2"],
        neighbors: int = 10,
        merge: Merge = "mean",
        score_weight: float | None = None,
    ) -> None:
        """Build the head.

        Args:
            in_channels: channels of the features.
            grid: side of the feature map in cells.
            mean_face: mean of the training labels, as fractions of the crop.
            neighbors: C, 0 to N - 1.
            merge: how votes are merged, see `merge_matrix`.
            score_weight: weight of the score loss; the papers' for this grid if None.

        Raises:
            RecipeError: C is out of range.
        """
        super().__init__()
        self.grid = grid
        self.landmarks = len(mean_face)
        self.score_weight = SCORE_WEIGHT.get(grid, 10.0) if score_weight is None else score_weight
        nbr = nearest_neighbors(np.asarray(mean_face, dtype=np.float64), neighbors)
        self.conv = nn.Conv2d(in_channels, self.landmarks * (3 + 2 * neighbors), 1)
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.neighbors: Tensor
        self.merge_weights: Tensor
        self.spread_weights: Tensor
        self.voted: Tensor
        every = torch.arange(self.landmarks)
        constants = {
            "neighbors": torch.from_numpy(nbr),
            "merge_weights": torch.from_numpy(merge_matrix(nbr, merge)).float(),
            "spread_weights": torch.from_numpy(merge_matrix(nbr, "mean")).float(),
            # which landmark each prediction is for: the own ones, then the votes
            "voted": torch.cat([every, torch.from_numpy(nbr).flatten()]),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, features: Float[Tensor, "b f h w"]) -> Float[Tensor, "b k h w"]:
        """Features -> all maps, see the head of this file for the order of channels."""
        maps: Tensor = self.conv(features)
        return maps

    def take_apart(self, output: Float[Tensor, "b k h w"]) -> PipMaps:
        """The maps by what they mean."""
        b, (n, c), cells = output.shape[0], self.neighbors.shape, self.grid**2
        flat = output.reshape(b, n * (3 + 2 * c), cells)
        score, offset, neighbor_offset = torch.split(flat, [n, 2 * n, 2 * n * c], dim=1)
        return PipMaps(
            score,
            offset.reshape(b, 2, n, cells).transpose(1, 2),
            neighbor_offset.reshape(b, 2, n, c, cells).permute(0, 2, 3, 1, 4),
        )

    def encode(self, points: Float[Tensor, "b n 2"], known: Bool[Tensor, "b n"]) -> PipTargets:
        """Points as fractions of the crop -> targets. A point outside takes the nearest cell."""
        scaled = torch.where(known[..., None], points, 0).double() * self.grid
        corner = scaled.floor().clamp(0, self.grid - 1)
        inside = ((points >= 0) & (points < 1)).all(dim=2)
        valid = known & inside
        return PipTargets(
            cell=(corner[..., 1] * self.grid + corner[..., 0]).long(),
            offset=(scaled - corner).float(),
            neighbor_offset=(scaled[:, self.neighbors] - corner[:, :, None]).float(),
            valid=valid,
            neighbor_valid=valid[..., None] & known[:, self.neighbors],
        )

    def loss(self, output: Tensor, targets: PipTargets) -> dict[str, Float[Tensor, ""]]:
        """L2 on the score maps, L1 on the offsets at the true cells; means over what is valid."""
        maps = self.take_apart(output.float())
        c = self.neighbors.shape[1]
        cell = targets.cell[..., None]
        score_target = torch.zeros_like(maps.score).scatter_(2, cell, 1.0)
        offset = maps.offset.gather(3, cell[..., None].expand(-1, -1, 2, 1))[..., 0]
        at = cell[..., None, None].expand(-1, -1, c, 2, 1)
        neighbor_offset = maps.neighbor_offset.gather(4, at)[..., 0]

        squared = F.mse_loss(maps.score, score_target, reduction="none").mean(dim=2)
        absolute = (offset - targets.offset).abs()
        neighbor_absolute = (neighbor_offset - targets.neighbor_offset).abs()
        terms = {
            "score": self.score_weight * _masked_mean(squared, targets.valid),
            "x": _masked_mean(absolute[..., 0], targets.valid),
            "y": _masked_mean(absolute[..., 1], targets.valid),
        }
        if c:
            terms["nb_x"] = _masked_mean(neighbor_absolute[..., 0], targets.neighbor_valid)
            terms["nb_y"] = _masked_mean(neighbor_absolute[..., 1], targets.neighbor_valid)
        return terms

    def decode(self, output: Tensor) -> Landmarks:
        """The best cell of each landmark, its offsets, and the neighbours' votes merged in."""
        predictions, peak = self.predictions(output)
        points = torch.einsum("np,bpd->bnd", self.merge_weights, predictions)
        away = (predictions - points[:, self.voted]).square().sum(dim=2)
        spread = (away @ self.spread_weights.T).sqrt()
        return Landmarks(points, peak.clamp(0, 1), spread)

    def predictions(self, output: Tensor) -> tuple[Float[Tensor, "b predictions 2"], Float[Tensor, "b n"]]:
        """All predictions as fractions of the crop (N own, then N C votes), and the peak scores."""
        maps = self.take_apart(output.float())
        n, c = self.neighbors.shape
        peak, cell = maps.score.max(dim=2)
        corner = torch.stack([cell % self.grid, cell // self.grid], dim=2).to(peak.dtype)
        cell = cell[..., None]
        offset = maps.offset.gather(3, cell[..., None].expand(-1, -1, 2, 1))[..., 0]
        predictions = corner + offset
        if c:
            at = cell[..., None, None].expand(-1, -1, c, 2, 1)
            votes = corner[:, :, None] + maps.neighbor_offset.gather(4, at)[..., 0]
            predictions = torch.cat([predictions, votes.reshape(-1, n * c, 2)], dim=1)
        return predictions / self.grid, peak


def _masked_mean(values: Tensor, mask: Tensor) -> Float[Tensor, ""]:
    """The mean of the values that count; 0 if none does."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
