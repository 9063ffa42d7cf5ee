"""The reference: a ResNet-18 PIPNet in plain float32 PyTorch, run as the original code runs it.

It has five separate 1x1 convolutions (scores, x, y, and x and y of the neighbors), nothing is fused, the
memory layout is channels first, and there is one face at a time. Decoding consists of many small tensor
operations: the arg-max of each score map, the offsets there, for each landmark its own point and the votes of
the landmarks that have it as a neighbor, in rows of equal length, and their mean. The weights are random, and
take the same time.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipnet.model.backbones import Backbone

_LANDMARKS, _NEIGHBORS, _SIZE = 68, 10, 256


class ReferenceNet(nn.Module):
    """ResNet-18 with the five convolutions of the original."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone("resnet18")
        width = self.backbone.out_channels
        self.score = nn.Conv2d(width, _LANDMARKS, 1)
        self.x = nn.Conv2d(width, _LANDMARKS, 1)
        self.y = nn.Conv2d(width, _LANDMARKS, 1)
        self.neighbor_x = nn.Conv2d(width, _LANDMARKS * _NEIGHBORS, 1)
        self.neighbor_y = nn.Conv2d(width, _LANDMARKS * _NEIGHBORS, 1)

    def forward(self, image: Float[Tensor, "1 3 256 256"]) -> tuple[Tensor, ...]:
        """Return the five maps of a normalized image."""
        features = self.backbone(image)
        layers = (self.score, self.x, self.y, self.neighbor_x, self.neighbor_y)
        return tuple(layer(features) for layer in layers)


class Reference:
    """The network and the decoding of one face."""

    def __init__(self, threads: int) -> None:
        torch.manual_seed(0)
        self.net = ReferenceNet().eval()
        self.threads = threads
        self.image = torch.rand(1, 3, _SIZE, _SIZE)
        # For each landmark the landmarks that vote for it, and which of their votes it is. Rows are padded by
        # repetition to the longest one.
        order = np.random.default_rng(0).permuted(np.tile(np.arange(_LANDMARKS), (_LANDMARKS, 1)), axis=1)
        votes = [np.argwhere(order[:, :_NEIGHBORS] == i) for i in range(_LANDMARKS)]
        longest = max(map(len, votes))
        padded = np.stack([np.resize(indices, (longest, 2)) for indices in votes])
        self.voter, self.vote = torch.from_numpy(padded[..., 0]), torch.from_numpy(padded[..., 1])

    @torch.no_grad()
    def __call__(self) -> Float[Tensor, "68 2"]:
        """Run the reference once, and return the landmarks as fractions of the image."""
        torch.set_num_threads(self.threads)
        score, x, y, neighbor_x, neighbor_y = self.net(self.image)
        side = score.shape[3]
        cell = score.view(_LANDMARKS, -1).argmax(dim=1, keepdim=True)
        column, row = (cell % side).float(), torch.div(cell, side, rounding_mode="floor").float()
        point_x = column + x.view(_LANDMARKS, -1).gather(1, cell)
        point_y = row + y.view(_LANDMARKS, -1).gather(1, cell)
        cells = cell.repeat_interleave(_NEIGHBORS, dim=0)
        votes_x = neighbor_x.view(_LANDMARKS * _NEIGHBORS, -1).gather(1, cells).view(_LANDMARKS, _NEIGHBORS)
        votes_y = neighbor_y.view(_LANDMARKS * _NEIGHBORS, -1).gather(1, cells).view(_LANDMARKS, _NEIGHBORS)
        merged = [
            torch.cat([point, (origin + votes)[self.voter, self.vote]], dim=1).mean(dim=1)
            for point, origin, votes in ((point_x, column, votes_x), (point_y, row, votes_y))
        ]
        points: Tensor = torch.stack(merged, dim=1) / side
        return points
