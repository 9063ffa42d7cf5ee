"""The Pixel-in-Pixel head (v1 and IJCV 2021): score, offsets and neighbor offsets on one small grid.

For every landmark the head predicts its cell (score map), its position in that cell (offsets), and the
positions of its C neighbors relative to the same cell (neighbor offsets). One 1 x 1 convolution makes all of
it; its output channels are, in this order, N scores, N x, N y, C N neighbor x and C N neighbor y, where the
channel of a neighbor is C i + j.

Only score maps are computed for all cells. Offsets are trained in the true cells and read in the best ones,
and computed only there: complete maps of them, nine tenths of the channels and more, would be thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from pipnet.errors import RecipeError
from pipnet.model.config import Merge, OffsetLoss, Reduction, ScoreLoss, Weighting
from pipnet.model.heads.base import Head, Landmarks, Supervision, masked_mean
from pipnet.model.heads.curriculum import coarse_scores, score_loss
from pipnet.model.neighbors import merge_matrix, nearest_neighbors

SCORE_WEIGHT = {16: 50.0, 8: 10.0, 4: 8.0, 2: 4.0}
"""The papers' weight of the score loss, by the side of the grid in cells."""
_FOCAL_WEIGHT = 0.1
"""The authors' weight of the focal loss, in their runs at stride 32. Theirs is summed over the cells of a
landmark, as in CornerNet; ours, like the other losses, is a mean over them."""


class PipTargets(NamedTuple):
    """The true position of each landmark on the grid, in cells."""

    cell: Int64[Tensor, "b n"]
    """Index of the true cell, row by row."""
    offset: Float[Tensor, "b n 2"]
    """Landmark relative to the top-left corner of its cell."""
    neighbor_offset: Float[Tensor, "b n c 2"]
    """Neighbors of a landmark relative to the top-left corner of the landmark's cell."""
    valid: Bool[Tensor, "b n"]
    """The landmark is known and inside the crop: its maps are trained."""
    neighbor_valid: Bool[Tensor, "b n c"]
    """The landmark is valid and its neighbor is known, inside the crop or not."""


class PipOutput(NamedTuple):
    """The score maps, and the features from which offsets are computed in one cell of each landmark."""

    score: Float[Tensor, "b n h w"]
    features: Float[Tensor, "b f h w"]
    coarse: tuple[Float[Tensor, "b n _g _g"], ...] = ()
    """Score maps of the half and the quarter grid, in the training of a curriculum."""


@dataclass(frozen=True)
class PipLosses:
    """Kinds of loss. The released system and the defaults: L2 on scores, L1 on offsets; v1 ablates both."""

    score: ScoreLoss = "l2"
    offset: OffsetLoss = "l1"


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
            reduction: reduction of the head (v1 3.1), see `Reduction`.
            curriculum: train score maps on coarser grids too, with this weighting of tasks.

        Raises:
            RecipeError: C is out of range, or the reduction or the curriculum does not fit the grid or C.
        """
        super().__init__()
        if curriculum and (reduction != "none" or grid != 8):
            raise RecipeError(
                f"a curriculum needs grids of 2 x 2, 4 x 4 and 8 x 8 cells: {grid} x {grid} do not fit"
            )
        if reduction == "coordinates" and grid != 1:
            raise RecipeError(f"reduction 'coordinates' needs one cell (stride = input size), not {grid}")
        if reduction == "heatmap" and neighbors:
            raise RecipeError("reduction 'heatmap' has no offsets, so neighbors must be 0")
        self.losses, self.reduction, self.curriculum = losses or PipLosses(), reduction, curriculum
        self.grid = grid
        self.landmarks = n = len(mean_face)
        default = _FOCAL_WEIGHT * grid**2 if self.losses.score == "focal" else SCORE_WEIGHT.get(grid, 10.0)
        self.score_weight = default if score_weight is None else score_weight
        nbr = nearest_neighbors(np.asarray(mean_face, dtype=np.float64), neighbors)
        self.score_channels = 0 if reduction == "coordinates" else n
        offset_channels = 0 if reduction == "heatmap" else 2 * n * (1 + neighbors)
        self.conv = nn.Conv2d(in_channels, self.score_channels + offset_channels, 1)
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.neighbors: Tensor
        self.merge_weights: Tensor
        self.vote_std_weights: Tensor
        self.voted: Tensor
        self.offset_channels: Tensor
        constants = {
            "neighbors": torch.from_numpy(nbr),
            "merge_weights": torch.from_numpy(merge_matrix(nbr, merge)).float(),
            "vote_std_weights": torch.from_numpy(merge_matrix(nbr, "mean")).float(),
            # the landmark of each prediction: the direct ones, then the votes
            "voted": torch.cat([torch.arange(n), torch.from_numpy(nbr).flatten()]),
            "offset_channels": self._offset_channels(neighbors),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def _offset_channels(self, neighbors: int) -> Int64[Tensor, "n one_and_neighbors 2"]:
        """Return the channels of x and y of each landmark, then of its neighbors."""
        n = self.landmarks
        direct = self.score_channels + torch.arange(2 * n).reshape(2, n, 1)
        votes = self.score_channels + 2 * n + torch.arange(2 * n * neighbors).reshape(2, n, neighbors)
        return torch.cat([direct, votes], dim=2).permute(1, 2, 0)

    def forward(self, features: Float[Tensor, "b f h w"]) -> PipOutput:
        """Return the score maps, and the features for the offsets."""
        if self.reduction == "coordinates":  # the only cell is the best one
            ones = features.new_ones(features.shape[0], self.landmarks, 1, 1)
            return PipOutput(ones, features)
        assert self.conv.bias is not None
        weight, bias = self.conv.weight[: self.landmarks], self.conv.bias[: self.landmarks]
        coarse = coarse_scores(weight, bias, features) if self.curriculum and self.training else ()
        return PipOutput(F.conv2d(features, weight, bias), features, coarse)

    def score_maps(self, output: PipOutput) -> Float[Tensor, "b n h w"]:
        """Return the score maps."""
        if self.reduction == "coordinates":
            super().score_maps(output)
        maps = output.score.float()
        return maps.sigmoid() if self.losses.score == "focal" else maps

    def unmerged_points(self, output: PipOutput) -> Float[Tensor, "b n 2"]:
        """Return the landmarks before the neighbors' votes are merged in."""
        return self.predictions(output)[0][:, : self.landmarks]

    def linear_layer(self, neighbors: int) -> tuple[Float[Tensor, "maps f"], Float[Tensor, " maps"]]:
        """Return weight and bias of the convolution, with the votes for the nearest neighbors only."""
        n, available = self.neighbors.shape
        if self.reduction != "none" or self.curriculum:
            return super().linear_layer(neighbors)
        if neighbors > available:
            raise RecipeError(f"the head has {available} neighbors, fewer than {neighbors}")
        votes = 3 * n + torch.arange(2 * n * available).reshape(2, n, available)[:, :, :neighbors]
        maps = torch.cat([torch.arange(3 * n), votes.flatten()])
        state = self.conv.state_dict()
        return state["weight"][maps, :, 0, 0], state["bias"][maps]

    def set_linear_layer(self, weight: Float[Tensor, "maps f"], bias: Float[Tensor, " maps"]) -> None:
        """Set weight and bias of the convolution."""
        self.conv.load_state_dict({"weight": weight[:, :, None, None], "bias": bias})

    def encode(self, points: Float[Tensor, "b n 2"], known: Bool[Tensor, "b n"]) -> PipTargets:
        """Return the targets of points as fractions of the crop. A point outside takes the nearest cell."""
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
        self, output: PipOutput, targets: PipTargets, supervision: Supervision
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the score loss on complete maps and the offset loss at the true cells.

        Landmarks with another task than the full one count only in the score loss of their grid.
        """
        terms = {}
        if self.reduction != "coordinates":
            scores = [maps.float() for maps in (output.score, *output.coarse)]
            weight = targets.valid * supervision.weight
            cell_loss, weighting = _SCORE_LOSS[self.losses.score], self.curriculum or "equal"
            score = score_loss(cell_loss, scores, targets.cell, weight, supervision.task, weighting)
            terms["score"] = self.score_weight * score
        if self.reduction != "heatmap":
            is_full = supervision.task == 0
            weight = supervision.weight * is_full
            errors = _OFFSET_LOSS[self.losses.offset](
                self.offsets_at(output, targets.cell),
                torch.cat([targets.offset[:, :, None], targets.neighbor_offset], dim=2),
            )
            terms["x"], terms["y"] = (
                masked_mean(e, targets.valid * weight) for e in errors[:, :, 0].unbind(2)
            )
            if self.neighbors.shape[1]:
                # A vote weighs as much as the label of the landmark that it is for, and is trained only where
                # the cell that it is read from is known too.
                votes = targets.neighbor_valid * weight[:, self.neighbors] * is_full[..., None]
                terms["nb_x"], terms["nb_y"] = (
                    masked_mean(axis, votes) for axis in errors[:, :, 1:].unbind(3)
                )
        return terms

    def offsets_at(
        self, output: PipOutput, cell: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n one_and_neighbors 2"]:
        """Return the offsets in one cell of each landmark: its own, then those of its neighbors."""
        if self.reduction == "heatmap":  # the center of the cell
            return torch.full((*cell.shape, 1, 2), 0.5, device=cell.device)
        assert self.conv.bias is not None
        channels = self.offset_channels
        features = output.features.float().flatten(2).transpose(1, 2)
        index = cell[..., None].expand(-1, -1, features.shape[2])
        gathered = features.gather(1, index).transpose(0, 1)
        weight = self.conv.weight.flatten(1).index_select(0, channels.flatten())
        weight = weight.reshape(channels.shape[0], -1, weight.shape[1]).transpose(1, 2)
        offsets = torch.bmm(gathered, weight).transpose(0, 1).reshape(*cell.shape, *channels.shape[1:])
        return offsets + self.conv.bias[channels]

    def decode(self, output: PipOutput) -> Landmarks:
        """Return the position in the best cell of each landmark, with the neighbors' votes merged in."""
        predictions, peak = self.predictions(output)
        points = torch.einsum("np,bpd->bnd", self.merge_weights, predictions)
        squared = (predictions - points[:, self.voted]).square().sum(dim=2)
        vote_std = (squared @ self.vote_std_weights.T).sqrt()
        focal = self.losses.score == "focal" and self.reduction != "coordinates"
        return Landmarks(points, peak.sigmoid() if focal else peak.clamp(0, 1), vote_std)

    def predictions(self, output: PipOutput) -> tuple[Float[Tensor, "b predictions 2"], Float[Tensor, "b n"]]:
        """Return N direct predictions and N C votes, as fractions of the crop, and the peak scores."""
        peak, cell = output.score.float().flatten(2).max(dim=2)
        corner = torch.stack([cell % self.grid, cell // self.grid], dim=2).to(peak.dtype)
        points = corner[:, :, None] + self.offsets_at(output, cell)
        return torch.cat([points[:, :, 0], points[:, :, 1:].flatten(1, 2)], dim=1) / self.grid, peak


def _focal(score: Tensor, target: Tensor) -> Tensor:
    """CornerNet's focal loss for a single positive cell; beta plays no part, as no other cell is near it."""
    p = score.sigmoid().clamp(1e-4, 1 - 1e-4)
    positive, negative = (1 - p) ** 2 * p.log(), p**2 * (1 - p).log()
    return -torch.where(target > 0.5, positive, negative)


_SCORE_LOSS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": partial(F.mse_loss, reduction="none"),
    "l1": partial(F.l1_loss, reduction="none"),
    "focal": _focal,
}
_OFFSET_LOSS = {kind: _SCORE_LOSS[kind] for kind in ("l1", "l2")}
