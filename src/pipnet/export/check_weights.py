"""Refuse to export weights that a diverged training left."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from PIL import ImageDraw

from pipnet.errors import DivergenceError
from pipnet.geometry import Image
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import PIPNet

_MAX_DISTANCE = 10.0
"""Maximum distance of a landmark from the crop's center, in sides of the crop. A trained network puts no
landmark even one crop away."""


def check_weights(model: PIPNet, metadata: ModelMetadata) -> None:
    """Refuse weights that put a landmark of a gray crop, or of a drawn mean face, ten crops away.

    Args:
        model: the network, in evaluation mode.
        metadata: its metadata.

    Raises:
        DivergenceError: a landmark is far away or not finite.
    """
    size = model.config.input_size
    crops = np.stack([np.full((size, size, 3), 128, np.uint8), _drawn_face(metadata, size)])
    device = next(model.parameters()).device
    with torch.no_grad():
        points = model.predict(torch.from_numpy(crops).to(device)).points.float().cpu().numpy()
    distance = np.abs(points - 0.5).max(axis=(0, 2))
    bad = np.flatnonzero(~(distance <= _MAX_DISTANCE))
    if len(bad):
        name, first = metadata.scheme.landmark_names[bad[0]], float(distance[bad[0]])
        raise DivergenceError(
            f"model {metadata.name!r:.80}: cannot be exported: {len(bad)} of {len(distance)} landmarks of a "
            f"drawn face are not within ten crops, such as {name} ({first:.2g} crops away): the training "
            "diverged; train again with a lower optim.lr"
        )


def _drawn_face(metadata: ModelMetadata, size: int) -> Image:
    """Return a crop with the mean face as dark points on gray."""
    canvas = PIL.Image.new("RGB", (size, size), (190, 160, 140))
    draw = ImageDraw.Draw(canvas)
    for x, y in metadata.mean_face * size:
        draw.circle((x, y), max(size / 80, 1), (60, 40, 30))
    return np.asarray(canvas)
