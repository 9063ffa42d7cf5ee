"""A network in torch behind the same small interface as an exported one: crops in, landmarks out."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from pipnet.inference.backends.base import CropLandmarks
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import PIPNet

_BATCH = 64


class TorchModel:
    """A network that finds landmarks on crops; see `pipnet.inference.tta.CropModel`."""

    def __init__(self, network: PIPNet, metadata: ModelMetadata, bf16: bool = False) -> None:
        """Wrap a network.

        Args:
            network: the network; it is put into evaluation mode.
            metadata: what it is.
            bf16: compute in bf16, several times faster where the machine does.
        """
        self.network = network.eval().to(memory_format=torch.channels_last)
        self.metadata, self.bf16 = metadata, bf16

    @torch.no_grad()
    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """RGB crops at the model's size -> landmarks, in batches."""
        landmarks = self.metadata.scheme.landmarks
        parts = [(np.zeros((0, landmarks, 2)), np.zeros((0, landmarks)), np.zeros((0, landmarks)))]
        for start in range(0, len(crops), _BATCH):
            batch = torch.from_numpy(crops[start : start + _BATCH])
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                found = self.network.predict(batch)
            parts.append((found.points.numpy(), found.scores.numpy(), found.vote_std.numpy()))
        points, scores, vote_std = (
            np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True)
        )
        return CropLandmarks(points, scores, vote_std)
