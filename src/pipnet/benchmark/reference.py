"""The yardstick: a ResNet-18 PIP net in plain float32 PyTorch, run as the original code runs it.

Five separate 1x1 convolutions (scores, x, y, and both of the neighbors), no folding of anything into
anything, channels first, one face at a time, and a decode of many small tensor operations: arg-max of each
score map, the offsets there, each landmark's own point and the votes of those whose neighbor it is, in
rows of equal length, and their mean. The weights are random, which takes the same time.
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
        """A normalized picture -> the five maps."""
        features = self.backbone(image)
        parts = (self.score, self.x, self.y, self.neighbor_x, self.neighbor_y)
        return tuple(part(features) for part in parts)


class Reference:
    """Network and decode of one face."""

    def __init__(self, threads: int) -> None:
        torch.manual_seed(0)
        self.net = ReferenceNet().eval()
        self.threads = threads
        self.image = torch.rand(1, 3, _SIZE, _SIZE)
        # Who votes for whom, each row filled up to the longest: which landmark, and which of its votes.
        chosen = np.random.default_rng(0).permuted(np.tile(np.arange(_LANDMARKS), (_LANDMARKS, 1)), axis=1)
        voters = [np.argwhere(chosen[:, :_NEIGHBORS] == i) for i in range(_LANDMARKS)]
        longest = max(len(who) for who in voters)
        filled = np.stack([np.resize(who, (longest, 2)) for who in voters])
        self.who, self.vote = torch.from_numpy(filled[..., 0]), torch.from_numpy(filled[..., 1])

    @torch.no_grad()
    def __call__(self) -> Float[Tensor, "68 2"]:
        """One run: the landmarks as fractions of the picture."""
        torch.set_num_threads(self.threads)
        score, x, y, neighbor_x, neighbor_y = self.net(self.image)
        side = score.shape[3]
        cell = score.view(_LANDMARKS, -1).argmax(dim=1, keepdim=True)
        column, row = (cell % side).float(), torch.div(cell, side, rounding_mode="floor").float()
        own_x = column + x.view(_LANDMARKS, -1).gather(1, cell)
        own_y = row + y.view(_LANDMARKS, -1).gather(1, cell)
        at = cell.repeat_interleave(_NEIGHBORS, dim=0)
        votes_x = neighbor_x.view(_LANDMARKS * _NEIGHBORS, -1).gather(1, at).view(_LANDMARKS, _NEIGHBORS)
        votes_y = neighbor_y.view(_LANDMARKS * _NEIGHBORS, -1).gather(1, at).view(_LANDMARKS, _NEIGHBORS)
        merged = [
            torch.cat([own, (place + votes)[self.who, self.vote]], dim=1).mean(dim=1)
            for own, place, votes in ((own_x, column, votes_x), (own_y, row, votes_y))
        ]
        points: Tensor = torch.stack(merged, dim=1) / side
        return points
