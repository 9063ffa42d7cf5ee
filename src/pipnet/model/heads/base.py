"""The interface of every head, so that trainer, evaluation, pruning and export never ask which head it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pipnet.errors import ModelError, RecipeError
from pipnet.model.distributed import count_per_rank


class Landmarks(NamedTuple):
    """Decoded landmarks of a batch of crops."""

    points: Float[Tensor, "b landmarks 2"]
    """x, y as fractions of the crop."""
    scores: Float[Tensor, "b landmarks"]
    """In [0, 1]: the peak of each landmark's score map; 1 for a head without score maps."""
    vote_std: Float[Tensor, "b landmarks"]
    """Spread of the neighbors' votes, as a fraction of the crop; 0 where there is no vote."""


class Supervision(NamedTuple):
    """The training tasks and the loss weights of a batch."""

    task: Int64[Tensor, "b n"]
    """Number of the task of each landmark, see `pipnet.model.config.TASKS`; 0 for a labeled face."""
    weight: Float[Tensor, "b n"]
    """Loss weight of each landmark; 1 for a labeled face."""

    @classmethod
    def full(cls, batch: int, landmarks: int, device: torch.device | None = None) -> Supervision:
        """Return the supervision of labeled faces: the full task and weight 1."""
        task = torch.zeros(batch, landmarks, dtype=torch.int64, device=device)
        return cls(task, torch.ones(batch, landmarks, device=device))


class Head(nn.Module, ABC):
    """Layers, encode, loss and decode of one representation of landmarks."""

    @abstractmethod
    def forward(self, features: Float[Tensor, "b f h w"]) -> Any:
        """Return the raw output for a map of features; each head has its own type of output."""

    @abstractmethod
    def encode(self, points: Float[Tensor, "b landmarks 2"], known: Bool[Tensor, "b landmarks"]) -> Any:
        """Return the targets of points as fractions of the crop; unknown points are left out of the loss."""

    @abstractmethod
    def loss(self, output: Any, targets: Any, supervision: Supervision) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted terms of the loss by name. Their sum is minimized.

        Args:
            output: the raw output of the forward pass.
            targets: the targets of `encode`.
            supervision: task and loss weight of each landmark.
        """

    @abstractmethod
    def decode(self, output: Any) -> Landmarks:
        """Return the landmarks of a raw output."""

    def score_maps(self, output: Any) -> Float[Tensor, "b landmarks h w"]:  # noqa: ARG002
        """Return the score map of each landmark, whose peak is its score.

        Raises:
            ModelError: this head has no score maps.
        """
        raise ModelError(f"a {type(self).__name__} without score maps: only pip and map heads have them")

    def unmerged_points(self, output: Any) -> Float[Tensor, "b landmarks 2"]:
        """Return the landmarks before any neighbors' votes are merged in, as fractions of the crop."""
        return self.decode(output).points

    def linear_layer(
        self,
        neighbors: int,  # noqa: ARG002
    ) -> tuple[Float[Tensor, "maps f"], Float[Tensor, " maps"]]:
        """Return weight and bias of the linear layer that this head applies to the features of each cell.

        Args:
            neighbors: leave out the outputs of all but this many neighbors, the nearest ones.

        Raises:
            RecipeError: this head is not one linear layer, or has fewer neighbors.
        """
        raise RecipeError("only a pip head without reduction and curriculum can be pruned")

    def set_linear_layer(self, weight: Float[Tensor, "maps f"], bias: Float[Tensor, " maps"]) -> None:
        """Set the linear layer to what `linear_layer` returned, of a head of this size."""
        raise NotImplementedError


def masked_mean(values: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Return the weighted mean over the processes of a distributed training; 0 if all weights are 0."""
    return (values * weight).sum() / count_per_rank(weight.sum())
