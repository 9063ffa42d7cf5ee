"""A torch network with the interface of an exported model: crops in, landmarks out."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from pipnet.inference.backends.base import CropLandmarks
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import PIPNet

_BATCH_SIZE = 64


class TorchModel:
    """A `pipnet.inference.backends.base.CropModel` that runs in torch, on the CPU."""

    def __init__(self, network: PIPNet, metadata: ModelMetadata, bf16: bool = False) -> None:
        """Wrap a network.

        Args:
            network: the network; it is put into evaluation mode.
            metadata: its metadata.
            bf16: compute in bf16, several times faster on a CPU that has instructions for it.
        """
        self.network = network.eval().to(memory_format=torch.channels_last)
        self.metadata, self.bf16 = metadata, bf16

    @torch.no_grad()
    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """Return the landmarks of RGB crops of the model's input size, computed in batches."""
        landmarks = self.metadata.scheme.landmarks
        empty = np.zeros((0, landmarks))
        parts: list[tuple[np.ndarray, ...]] = [(np.zeros((0, landmarks, 2)), empty, empty)]
        for start in range(0, len(crops), _BATCH_SIZE):
            batch = torch.from_numpy(crops[start : start + _BATCH_SIZE])
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                output = self.network.predict(batch)
            parts.append(tuple(part.numpy() for part in output))
        return CropLandmarks(*(np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True)))
