"""What every head offers, so that trainer, evaluation and export never ask which head it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipnet.model.distributed import shared_count
from pipnet.model.heads.curriculum import Supervision


class Landmarks(NamedTuple):
    """Decoded landmarks of a batch of crops."""

    points: Float[Tensor, "b landmarks 2"]
    """x, y as fractions of the crop."""
    scores: Float[Tensor, "b landmarks"]
    """In [0, 1]: the peak of each landmark's score map; 1 where a head has none."""
    vote_std: Float[Tensor, "b landmarks"]
    """How far the votes lie apart, as a fraction of the crop; 0 where there is no vote."""


class Head(nn.Module, ABC):
    """Layers, encode, loss and decode of one representation of landmarks."""

    @abstractmethod
    def forward(self, features: Float[Tensor, "b f h w"]) -> Tensor | tuple[Any, ...]:
        """Features -> raw output, whatever it is for this head."""

    @abstractmethod
    def encode(self, points: Float[Tensor, "b landmarks 2"], known: Bool[Tensor, "b landmarks"]) -> Any:
        """Points as fractions of the crop -> targets; unknown points have no say in the loss."""

    @abstractmethod
    def loss(
        self, output: Any, targets: Any, supervision: Supervision | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of the loss, by name. Their sum is what is minimized.

        Args:
            output: of the forward pass.
            targets: what `encode` made of the labels.
            supervision: how each face is trained on; all faces in full and alike if None.
        """

    @abstractmethod
    def decode(self, output: Any) -> Landmarks:
        """Raw output -> landmarks."""


def shares(valid: Bool[Tensor, "b n"], supervision: Supervision | None) -> Float[Tensor, "b n"]:
    """How much each landmark counts in a mean: 0 where it is not valid, else its loss weight."""
    return valid.float() if supervision is None else valid * supervision.weight


def masked_mean(values: Tensor, mask: Tensor) -> Float[Tensor, ""]:
    """The mean of the values that count, over all processes that train together; 0 if none does."""
    return (values * mask).sum() / shared_count(mask.sum())
