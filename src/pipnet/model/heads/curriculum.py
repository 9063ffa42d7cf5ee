"""Score maps on coarser grids, for self-training's curriculum (IJCV 2021).

The layer that makes the score map of the grid is also applied to the features max-pooled 2 x 2 and 4 x 4: on
an 8 x 8 grid these are 4 x 4 and 2 x 2 cells. An unlabeled face is first trained on a coarse task only, "in
which quarter is it?", whose answer is right even for a bad pseudo-label, and later on the full one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from pipnet.model.config import Weighting
from pipnet.model.distributed import count_per_rank


def coarse_scores(
    weight: Float[Tensor, "n f 1 1"], bias: Float[Tensor, " n"], features: Float[Tensor, "b f h w"]
) -> tuple[Float[Tensor, "b n half half"], Float[Tensor, "b n quarter quarter"]]:
    """Return the score maps of the half and the quarter grid.

    Args:
        weight: of the layer that makes the score maps.
        bias: of the same layer.
        features: its input; h and w are divisible by 4.
    """
    half, quarter = F.max_pool2d(features, 2), F.max_pool2d(features, 4)
    return F.conv2d(half, weight, bias), F.conv2d(quarter, weight, bias)


def score_loss(
    cell_loss: Callable[[Tensor, Tensor], Tensor],
    scores: Sequence[Float[Tensor, "b n _g _g"]],
    cell: Int64[Tensor, "b n"],
    weight: Float[Tensor, "b n"],
    task: Int64[Tensor, "b n"],
    weighting: Weighting,
) -> Float[Tensor, ""]:
    """Return the score loss of landmarks with different tasks, each on the map of its task's grid.

    Args:
        cell_loss: loss of each cell, by score and target.
        scores: the maps of the full grid and, in a curriculum, of the half and the quarter grid.
        cell: index of each landmark's cell on the full grid, row by row.
        weight: loss weight of each landmark; 0 where it is unknown.
        task: number of each landmark's task, see `pipnet.model.config.TASKS`.
        weighting: how the tasks are weighted.
    """
    side = scores[0].shape[3]
    row, column = cell // side, cell % side
    total, count = scores[0].new_zeros(()), scores[0].new_zeros(())
    for number, maps in enumerate(scores):
        grid = maps.shape[3]
        factor, flat = side // grid, maps.flatten(2)
        target = torch.zeros_like(flat)
        target.scatter_(2, ((row // factor) * grid + column // factor)[..., None], 1.0)
        task_weight = weight * (task == number)
        cell_weight = 1.0 if weighting == "published" else 1.0 / grid**2
        total = total + cell_weight * (cell_loss(flat, target).sum(dim=2) * task_weight).sum()
        count = count + cell_weight * grid**2 * task_weight.sum()
    return total / count_per_rank(count)
