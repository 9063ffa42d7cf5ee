"""Score maps on coarser grids: what self-training's curriculum is made of (IJCV 2021).

The layer that makes the score map of the grid also makes one of the features max-pooled 2 x 2, and one of
those pooled 4 x 4: on an 8 x 8 grid these are 4 x 4 and 2 x 2 cells. A face without labels is first given a
coarse task only, "in which quarter is it?", which even a wrong guess answers well, and later the full one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from pipnet.model.distributed import shared_count

Task = Literal["full", "half", "quarter"]
"""What a face is trained on: all maps; or the scores alone, on a grid of half or a quarter of the cells a
side. On an 8 x 8 grid these are the papers' strides 32, 64 and 128."""
TASKS: tuple[Task, ...] = get_args(Task)
"""A task's number in a batch is its place here."""
Weighting = Literal["published", "equal"]
"""How faces of different tasks weigh in the score loss. ``published``: errors of all cells are summed up
and divided by the number of cells, so that a full face weighs as much as 4 half or 16 quarter ones.
``equal``: each face by the mean over its own cells."""


class Supervision(NamedTuple):
    """How each face of a batch is trained on."""

    task: Int64[Tensor, " b"]
    """Number of its task, see `TASKS`."""
    weight: Float[Tensor, "b n"]
    """Loss weight of each of its landmarks; 1 for a labeled face."""


def coarse_scores(
    weight: Float[Tensor, "n f 1 1"], bias: Float[Tensor, " n"], features: Float[Tensor, "b f h w"]
) -> tuple[Float[Tensor, "b n half half"], Float[Tensor, "b n quarter quarter"]]:
    """The score maps of the half and the quarter grid.

    Args:
        weight: of the layer that makes the score maps.
        bias: the same.
        features: what it is applied to; h and w are divisible by 4.
    """
    half, quarter = F.max_pool2d(features, 2), F.max_pool2d(features, 4)
    return F.conv2d(half, weight, bias), F.conv2d(quarter, weight, bias)


def score_loss(
    kind: Callable[[Tensor, Tensor], Tensor],
    scores: Sequence[Float[Tensor, "b n _g _g"]],
    cell: Int64[Tensor, "b n"],
    valid: Float[Tensor, "b n"],
    task: Int64[Tensor, " b"],
    weighting: Weighting,
) -> Float[Tensor, ""]:
    """The score loss of faces with different tasks, each on the map of its own grid.

    Args:
        kind: loss of each cell, by score and target.
        scores: the maps of the full, the half and the quarter grid.
        cell: index of each landmark's cell on the full grid, row by row.
        valid: how much each landmark counts; 0 where it is unknown.
        task: number of each face's task, see `TASKS`.
        weighting: how the tasks weigh.
    """
    side = scores[0].shape[3]
    row, column = cell // side, cell % side
    total, count = scores[0].new_zeros(()), scores[0].new_zeros(())
    for number, maps in enumerate(scores):
        grid = maps.shape[3]
        factor, scored = side // grid, maps.flatten(2)
        target = torch.zeros_like(scored)
        target.scatter_(2, ((row // factor) * grid + column // factor)[..., None], 1.0)
        counts = valid * (task == number)[:, None]
        share = 1.0 if weighting == "published" else 1.0 / grid**2
        total = total + share * (kind(scored, target).sum(dim=2) * counts).sum()
        count = count + share * grid**2 * counts.sum()
    return total / shared_count(count)
