"""A torch network with the interface of an exported model: crops in, landmarks out."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from pipnet.inference.backends.base import CropLandmarks, in_batches
from pipnet.metadata import ModelMetadata
from pipnet.model.device import convolution_settings
from pipnet.model.pipnet import PIPNet


class TorchModel:
    """A `pipnet.inference.backends.base.CropModel` that runs in torch."""

    def __init__(
        self,
        network: PIPNet,
        metadata: ModelMetadata,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Wrap a network.

        Args:
            network: the network; it is put into evaluation mode and moved to the device.
            metadata: its metadata.
            dtype: compute in bf16 or float16, several times faster where the device has instructions for it,
                see `pipnet.model.device.autocast_dtype`.
            device: the device to run on, see `pipnet.model.device.torch_device`.
        """
        self.network, self.metadata, self.dtype = network.eval(), metadata, dtype
        self.to(device)

    def to(self, device: torch.device | str) -> TorchModel:
        """Move the network to a device and return the model."""
        self.device = torch.device(device)
        self.network.to(self.device).to(memory_format=torch.channels_last)
        return self

    def __call__(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> CropLandmarks:
        """Return the landmarks of RGB crops at the model's input size, computed in batches."""
        return in_batches(self.metadata.name, self.metadata, self._run, crops)

    @torch.no_grad()
    def _run(self, crops: UInt8[np.ndarray, "faces s s 3"]) -> tuple[np.ndarray, ...]:
        is_float32 = self.dtype == torch.float32
        images = torch.from_numpy(crops).to(self.device)
        with (
            torch.autocast(self.device.type, None if is_float32 else self.dtype, enabled=not is_float32),
            convolution_settings(self.device, deterministic=True, exact=is_float32),
        ):
            output = self.network.predict(images)
        return tuple(part.float().cpu().numpy() for part in output)
