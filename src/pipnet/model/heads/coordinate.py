"""The Coord Net of the papers' comparison: all coordinates from fully connected layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipnet.model.heads.base import Head, Landmarks, Supervision, masked_mean

_WIDTH = 512


class CoordTargets(NamedTuple):
    """The labels themselves."""

    points: Float[Tensor, "b n 2"]
    """Fractions of the crop; any value where unknown."""
    known: Bool[Tensor, "b n"]


class CoordinateHead(Head):
    """Flattened features -> FC 512 -> FC 512 -> FC 2N, with BN and ReLU between (v1's baseline)."""

    def __init__(self, in_channels: int, grid: int, landmarks: int) -> None:
        super().__init__()
        self.landmarks = landmarks
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * grid * grid, _WIDTH),
            nn.BatchNorm1d(_WIDTH),
            nn.ReLU(inplace=True),
            nn.Linear(_WIDTH, _WIDTH),
            nn.BatchNorm1d(_WIDTH),
            nn.ReLU(inplace=True),
            nn.Linear(_WIDTH, 2 * landmarks),
        )

    def forward(self, features: Float[Tensor, "b f h w"]) -> Float[Tensor, "b n 2"]:
        """Return x and y of each landmark, as fractions of the crop."""
        coordinates: Tensor = self.layers(features)
        return coordinates.reshape(coordinates.shape[0], self.landmarks, 2)

    def encode(self, points: Float[Tensor, "b n 2"], known: Bool[Tensor, "b n"]) -> CoordTargets:
        """Return the points unchanged; those outside of the crop can be regressed too."""
        return CoordTargets(torch.where(known[..., None], points, 0), known)

    def loss(
        self, output: Float[Tensor, "b n 2"], targets: CoordTargets, supervision: Supervision
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the L1 loss on the fractions, a mean over the known points."""
        errors = (output.float() - targets.points).abs()
        weight = targets.known * supervision.weight
        return {"x": masked_mean(errors[..., 0], weight), "y": masked_mean(errors[..., 1], weight)}

    def decode(self, output: Float[Tensor, "b n 2"]) -> Landmarks:
        """Return the coordinates. This head has no measure of confidence: every score is 1."""
        points = output.float()
        return Landmarks(points, torch.ones_like(points[..., 0]), torch.zeros_like(points[..., 0]))
