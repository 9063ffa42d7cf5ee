"""The Coord Net of the papers' comparison: all coordinates from fully connected layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipnet.model.heads.base import Head, Landmarks, masked_mean, shares
from pipnet.model.heads.curriculum import Supervision

_WIDTH = 512


class CoordTargets(NamedTuple):
    """The labels themselves."""

    points: Float[Tensor, "b n 2"]
    """Fractions of the crop; anything where unknown."""
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

    def forward(self, features: Float[Tensor, "b f h w"]) -> Float[Tensor, "b k"]:
        """Features -> x and y of each landmark in turn, as fractions of the crop."""
        coordinates: Tensor = self.layers(features)
        return coordinates

    def encode(self, points: Float[Tensor, "b n 2"], known: Bool[Tensor, "b n"]) -> CoordTargets:
        """The points as they are; those outside the crop can be regressed too."""
        return CoordTargets(torch.where(known[..., None], points, 0), known)

    def loss(
        self, output: Tensor, targets: CoordTargets, supervision: Supervision | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """L1 on the fractions, a mean over the known points."""
        absolute = (self._points(output) - targets.points).abs()
        counts = shares(targets.known, supervision)
        return {"x": masked_mean(absolute[..., 0], counts), "y": masked_mean(absolute[..., 1], counts)}

    def decode(self, output: Tensor) -> Landmarks:
        """The coordinates. There is nothing to tell how sure they are: every score is 1."""
        points = self._points(output)
        sure = torch.ones_like(points[..., 0])
        return Landmarks(points, sure, torch.zeros_like(sure))

    def _points(self, output: Tensor) -> Float[Tensor, "b n 2"]:
        return output.float().reshape(output.shape[0], self.landmarks, 2)
