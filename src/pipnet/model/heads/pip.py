"""The Pixel-in-Pixel head (v1 and IJCV 2021): score, offsets and neighbor offsets on one small grid.

For every landmark the head says in which cell it lies (score map), where in that cell (offsets), and
where its C neighbors lie from there (neighbor offsets). One 1 x 1 convolution does all of it; its
output channels are, in this order, N scores, N x, N y, C N neighbor x and C N neighbor y, a neighbor's
channel being C i + j.

Only score maps are needed whole. Offsets are trained in the true cells and read in the best ones, so that
is where they are computed: whole maps of them, nine tenths of the channels and more, would be thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from pipnet.errors import RecipeError
from pipnet.model.heads.base import Head, Landmarks, masked_mean, shares
from pipnet.model.heads.curriculum import Supervision, Weighting, coarse_scores, score_loss
from pipnet.model.neighbors import Merge, merge_matrix, nearest_neighbors

SCORE_WEIGHT = {16: 50.0, 8: 10.0, 4: 8.0, 2: 4.0}
"""The papers' weight of the score loss, by the side of the grid in cells."""


class PipTargets(NamedTuple):
    """Where each landmark lies on the grid, in cells."""

    cell: Int64[Tensor, "b n"]
    """Index of the true cell, row by row."""
    offset: Float[Tensor, "b n 2"]
    """Landmark relative to the top-left corner of its cell."""
    neighbor_offset: Float[Tensor, "b n c 2"]
    """Neighbors of a landmark relative to the top-left corner of the landmark's cell."""
    valid: Bool[Tensor, "b n"]
    """The landmark is known and lies in the crop: its maps are trained."""
    neighbor_valid: Bool[Tensor, "b n c"]
    """The landmark is valid and its neighbor is known, inside the crop or not."""


class ScoredFeatures(NamedTuple):
    """The score maps, and what offsets are made of in the one cell of each landmark where they count."""

    score: Float[Tensor, "b n h w"]
    features: Float[Tensor, "b f h w"]
    coarse: tuple[Float[Tensor, "b n _g _g"], ...] = ()
    """Score maps of the half and the quarter grid, in a curriculum's training."""


PipOutput = Float[Tensor, "b k h w"] | ScoredFeatures
"""All maps, as one cell has them and as the original code makes them; or the scores alone."""


@dataclass(frozen=True)
class PipLosses:
    """Kinds of loss. The released system and the defaults: L2 on scores, L1 on offsets; v1 ablates both."""

    score: Literal["l2", "l1", "focal"] = "l2"
    """``focal`` is CornerNet's (alpha 2, beta 4) on the sigmoid of the map; scores are then sigmoids too."""
    offset: Literal["l1", "l2"] = "l1"
    """On the offsets of the landmark and of its neighbors alike."""


Reduction = Literal["none", "coordinates", "heatmap"]
"""v1 3.1: one cell without scores is coordinate regression; cells without offsets are a heat map."""


class PipHead(Head):
    """Score, offset and neighbor maps from one 1 x 1 convolution."""

    def __init__(
        self,
        in_channels: int,
        grid: int,
        mean_face: Float[np.ndarray, "n 2"],
        neighbors: int = 10,
        merge: Merge = "mean",
        score_weight: float | None = None,
        losses: PipLosses | None = None,
        reduction: Reduction = "none",
        curriculum: Weighting | None = None,
    ) -> None:
        """Build the head.

        Args:
            in_channels: channels of the features.
            grid: side of the feature map in cells.
            mean_face: mean of the training labels, as fractions of the crop.
            neighbors: C, 0 to N - 1.
            merge: how votes are merged, see `merge_matrix`.
            score_weight: weight of the score loss; the papers' for this grid if None.
            losses: kinds of loss; the papers' if None.
            reduction: what the head is reduced to (v1 3.1), see `Reduction`.
            curriculum: train score maps on coarser grids too, with this weighting of tasks.

        Raises:
            RecipeError: C is out of range, or the reduction or the curriculum does not fit the grid or C.
        """
        super().__init__()
        if curriculum and (reduction != "none" or grid != 8):
            raise RecipeError(
                f"a curriculum is one of scores on 2 x 2, 4 x 4 and 8 x 8 cells: {grid} a side do not fit"
            )
        if reduction == "coordinates" and grid != 1:
            raise RecipeError(f"reduction 'coordinates' needs one cell (stride = input size), not {grid}")
        if reduction == "heatmap" and neighbors:
            raise RecipeError("reduction 'heatmap' has no offsets, so neighbors must be 0")
        self.losses, self.reduction, self.curriculum = losses or PipLosses(), reduction, curriculum
        self.grid = grid
        self.landmarks = len(mean_face)
        self.score_weight = SCORE_WEIGHT.get(grid, 10.0) if score_weight is None else score_weight
        nbr = nearest_neighbors(np.asarray(mean_face, dtype=np.float64), neighbors)
        self.conv = nn.Conv2d(in_channels, sum(self._channels(neighbors)), 1)
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.neighbors: Tensor
        self.merge_weights: Tensor
        self.vote_std_weights: Tensor
        self.voted: Tensor
        self.offset_channels: Tensor
        every = torch.arange(self.landmarks)
        constants = {
            "neighbors": torch.from_numpy(nbr),
            "merge_weights": torch.from_numpy(merge_matrix(nbr, merge)).float(),
            "vote_std_weights": torch.from_numpy(merge_matrix(nbr, "mean")).float(),
            # which landmark each prediction is for: the own ones, then the votes
            "voted": torch.cat([every, torch.from_numpy(nbr).flatten()]),
            "offset_channels": self._offset_channels(neighbors),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, features: Float[Tensor, "b f h w"]) -> PipOutput:
        """Features -> score maps, and what the offsets are made of; all maps where there is but one cell."""
        if self.grid == 1:
            maps: Tensor = self.conv(features)
            return maps
        assert self.conv.bias is not None
        weight, bias = self.conv.weight[: self.landmarks], self.conv.bias[: self.landmarks]
        coarse = coarse_scores(weight, bias, features) if self.curriculum and self.training else ()
        return ScoredFeatures(F.conv2d(features, weight, bias), features, coarse)

    def _channels(self, neighbors: int) -> tuple[int, int, int]:
        """Channels of score, offset and neighbor maps."""
        n = self.landmarks
        scores, offsets = self.reduction != "coordinates", self.reduction != "heatmap"
        return scores * n, offsets * 2 * n, offsets * 2 * n * neighbors

    def _offset_channels(self, neighbors: int) -> Int64[Tensor, "n own_and_votes 2"]:
        """Which channels say x and y of each landmark, and then of its neighbors."""
        n, (scores, *_) = self.landmarks, self._channels(neighbors)
        own = scores + torch.arange(2 * n).reshape(2, n, 1)
        votes = scores + 2 * n + torch.arange(2 * n * neighbors).reshape(2, n, neighbors)
        return torch.cat([own, votes], dim=2).permute(1, 2, 0)

    def score_maps(self, output: PipOutput) -> Float[Tensor, "b n cells"]:
        """The score map of each landmark."""
        maps = output.score if isinstance(output, ScoredFeatures) else output
        if self.reduction == "coordinates":  # the only cell is the best one
            return maps.new_ones(maps.shape[0], self.landmarks, self.grid**2, dtype=torch.float32)
        return maps[:, : self.landmarks].float().flatten(2)

    def offsets_at(
        self, output: PipOutput, cell: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n own_and_votes 2"]:
        """The offsets in one cell of each landmark: its own, then those of its neighbors."""
        if self.reduction == "heatmap":  # the middle of the cell
            return torch.full((*cell.shape, 1, 2), 0.5, device=cell.device)
        channels, cells = self.offset_channels, self.grid**2
        if isinstance(output, ScoredFeatures):
            assert self.conv.bias is not None
            every_cell = output.features.float().flatten(2).transpose(1, 2)
            at = cell[..., None].expand(-1, -1, every_cell.shape[2])
            seen = every_cell.gather(1, at).transpose(0, 1)
            weight = self.conv.weight.flatten(1).index_select(0, channels.flatten())
            weight = weight.reshape(channels.shape[0], -1, weight.shape[1]).transpose(1, 2)
            offsets = torch.bmm(seen, weight).transpose(0, 1).reshape(*cell.shape, *channels.shape[1:])
            return offsets + self.conv.bias[channels]
        index = channels * cells + cell[:, :, None, None]
        return output.float().flatten(1).gather(1, index.flatten(1)).reshape(index.shape)

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

    def loss(
        self, output: PipOutput, targets: PipTargets, supervision: Supervision | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """The score loss on whole maps, the offset loss at the true cells; means over what is valid.

        Faces whose task is not the full one have a say in the score of their grid only.
        """
        scored = own = shares(targets.valid, supervision)
        votes = targets.neighbor_valid.float()
        if supervision is not None:
            full = (supervision.task == 0)[:, None]
            own = scored * full
            # A vote is worth as much as the label of the landmark that it is for.
            votes = targets.neighbor_valid * (supervision.weight * full)[:, self.neighbors]
        terms = {}
        if self.reduction != "coordinates":
            score = self._score_loss(output, targets.cell, scored, supervision)
            terms["score"] = self.score_weight * score
        if self.reduction != "heatmap":
            kind, offsets = _OFFSET_LOSS[self.losses.offset], self.offsets_at(output, targets.cell)
            errors = kind(offsets[:, :, 0], targets.offset)
            terms["x"] = masked_mean(errors[..., 0], own)
            terms["y"] = masked_mean(errors[..., 1], own)
            if self.neighbors.shape[1]:
                errors = kind(offsets[:, :, 1:], targets.neighbor_offset)
                terms["nb_x"] = masked_mean(errors[..., 0], votes)
                terms["nb_y"] = masked_mean(errors[..., 1], votes)
        return terms

    def _score_loss(
        self,
        output: PipOutput,
        cell: Int64[Tensor, "b n"],
        scored: Float[Tensor, "b n"],
        supervision: Supervision | None,
    ) -> Float[Tensor, ""]:
        kind = _SCORE_LOSS[self.losses.score]
        if supervision is not None and self.curriculum:
            assert isinstance(output, ScoredFeatures)
            grids = [maps.float() for maps in (output.score, *output.coarse)]
            return score_loss(kind, grids, cell, scored, supervision.task, self.curriculum)
        score = self.score_maps(output)
        target = torch.zeros_like(score).scatter_(2, cell[..., None], 1.0)
        return masked_mean(kind(score, target).mean(dim=2), scored)

    def decode(self, output: PipOutput) -> Landmarks:
        """The best cell of each landmark, its offsets, and the neighbors' votes merged in."""
        predictions, peak = self.predictions(output)
        points = torch.einsum("np,bpd->bnd", self.merge_weights, predictions)
        away = (predictions - points[:, self.voted]).square().sum(dim=2)
        vote_std = (away @ self.vote_std_weights.T).sqrt()
        focal = self.losses.score == "focal" and self.reduction != "coordinates"
        sure = peak.sigmoid() if focal else peak.clamp(0, 1)
        return Landmarks(points, sure, vote_std)

    def predictions(self, output: PipOutput) -> tuple[Float[Tensor, "b predictions 2"], Float[Tensor, "b n"]]:
        """All predictions as fractions of the crop (N own, then N C votes), and the peak scores."""
        peak, cell = self.score_maps(output).max(dim=2)
        corner = torch.stack([cell % self.grid, cell // self.grid], dim=2).to(peak.dtype)
        there = corner[:, :, None] + self.offsets_at(output, cell)
        own, votes = there[:, :, 0], there[:, :, 1:].flatten(1, 2)
        return torch.cat([own, votes], dim=1) / self.grid, peak


def _focal(score: Tensor, target: Tensor) -> Tensor:
    """CornerNet's focal loss for a single hot cell; there beta plays no part, as no cell is near it."""
    p = score.sigmoid().clamp(1e-4, 1 - 1e-4)
    hot, cold = (1 - p) ** 2 * p.log(), p**2 * (1 - p).log()
    return -torch.where(target > 0.5, hot, cold)


_SCORE_LOSS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": partial(F.mse_loss, reduction="none"),
    "l1": partial(F.l1_loss, reduction="none"),
    "focal": _focal,
}
_OFFSET_LOSS = {kind: _SCORE_LOSS[kind] for kind in ("l1", "l2")}
