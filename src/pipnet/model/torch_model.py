"""A torch network with the interface of an exported model: crops in, landmarks out."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from pipnet.inference.backends.base import CropLandmarks, in_batches
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import PIPNet


class TorchModel:
    """A `pipnet.inference.backends.base.CropModel` that runs in torch, on the CPU."""

    def __init__(self, network: PIPNet, metadata: ModelMetadata, bf16: bool = False) -> None:
        """Wrap a network.

        Args:
            network: the network; it is put into evaluation mode.
            metadata: its metadata.
            bf16: compute in bf16, several times faster on a CPU with instructions for it.
        """
        self.network = network.eval().to(memory_format=torch.channels_last)
        self.metadata, self.bf16 = metadata, bf16

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """Return the landmarks of RGB crops at the model's input size, computed in batches."""
        return in_batches(self.metadata.name, self.metadata, self._run, crops)

    @torch.no_grad()
    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> tuple[np.ndarray, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output = self.network.predict(torch.from_numpy(crops))
        return tuple(part.float().numpy() for part in output)
