"""The network of the face detector ``pipnet-face``: score, box and five points in the cell where a face is.

It follows the idea of the PIP head: no upsampling, and one cell of a low-resolution map answers for an object
by a score and by offsets inside and beyond the cell. Small faces are found at stride 8, medium ones
at stride 16, large ones at stride 32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipnet.errors import ModelError, one_line
from pipnet.model.config import FaceDetectorConfig

STRIDES = (8, 16, 32)
"""Strides of the output maps in pixels."""
SIDES = ((0.0, 44.0), (36.0, 120.0), (100.0, float("inf")))
"""Sides of the faces that each map learns, the square root of the box's area in pixels; they overlap."""
POINTS = 5
"""Right eye, left eye, nose tip, right and left corner of the mouth, right and left as the person's."""
_CHANNELS = 1 + 4 + 2 * POINTS


class DenseDetections(NamedTuple):
    """The answers of all cells of all maps."""

    logits: Float[Tensor, "b cells"]
    """Score of a face in the cell, before the sigmoid."""
    boxes: Float[Tensor, "b cells 4"]
    """xyxy in pixels of the input; the top-left corner of the image is (0, 0)."""
    points: Float[Tensor, "b cells points 2"]
    """x, y in the same pixels."""


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution, batch norm and ReLU."""
    padding = 0 if kernel == stride else kernel // 2
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Block(nn.Module):
    """A depthwise and a pointwise convolution, with a shortcut where the shape stays the same."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = conv(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = conv(inputs, outputs, 1)
        self.has_shortcut = inputs == outputs and stride == 1

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Return the block's features."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return x + y if self.has_shortcut else y


class FaceDetectorNet(nn.Module):
    """Maps an image to the answers of all cells."""

    def __init__(self, config: FaceDetectorConfig | None = None) -> None:
        super().__init__()
        config = config or FaceDetectorConfig()
        self.config = config
        self.normalize = nn.BatchNorm2d(3, affine=False)
        self.normalize.running_mean = torch.full((3,), 127.5)
        self.normalize.running_var = torch.full((3,), 64.0**2)
        self.stem = nn.Sequential(conv(3, config.stem, 4, 4), Block(config.stem, config.stem))
        inputs = (config.stem, *config.widths[:2])
        self.stages = nn.ModuleList(
            nn.Sequential(Block(before, width, 2), *(Block(width, width) for _ in range(depth)))
            for before, width, depth in zip(inputs, config.widths, config.depths, strict=True)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(conv(width, width, 3, groups=width), nn.Conv2d(width, _CHANNELS, 1))
            for width in config.widths
        )
        for head in self.heads:
            assert isinstance(head, nn.Sequential)
            assert isinstance(head[-1], nn.Conv2d)
            nn.init.normal_(head[-1].weight, std=0.01)
            nn.init.zeros_(head[-1].bias)  # type: ignore[arg-type]
            with torch.no_grad():
                head[-1].bias[0] = -5.0  # type: ignore[index]  # most cells have no face

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> DenseDetections:
        """Return the answers of all cells.

        Args:
            image: RGB, 0 to 255; height and width are multiples of 32.
        """
        return decode(*self.cells(image))

    def cells(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "n 3"]]:
        """Return the outputs of all cells, map by map and row by row, and x, y and stride of the cells.

        The channels c are the logit of the score; the offset of the box's middle from the cell's center, in
        cells; the logarithms of half its width and height in cells; and the offsets of the points from its
        middle, in its sides. x and y are those of the center, in cells of the map; the stride is in pixels.
        """
        features = self.stem(F.batch_norm(image, self.normalize.running_mean, self.normalize.running_var))
        outputs, cells = [], []
        for stride, stage, head in zip(STRIDES, self.stages, self.heads, strict=True):
            features = stage(features)
            maps = head(features)
            outputs.append(maps.flatten(2).transpose(1, 2).float())
            rows, columns = (
                torch.arange(side, device=maps.device, dtype=torch.float32) + 0.5 for side in maps.shape[2:]
            )
            x, y = torch.meshgrid(columns, rows, indexing="xy")
            cells.append(torch.stack([x, y, torch.full_like(x, stride)], dim=2).flatten(0, 1))
        return torch.cat(outputs, dim=1), torch.cat(cells)


def decode(outputs: Float[Tensor, "b n c"], cells: Float[Tensor, "n 3"]) -> DenseDetections:
    """Return the detections of cells, see `FaceDetectorNet.cells`."""
    centers, stride = cells[:, :2], cells[:, 2:]
    size = outputs[:, :, 3:5].clamp(max=6).exp() * stride * 2
    middle = (centers + outputs[:, :, 1:3]) * stride
    boxes = torch.cat([middle - size / 2, middle + size / 2], dim=2)
    # Offsets of points count in sides of the box, so that faces of all sizes weigh alike.
    offsets = outputs[:, :, 5:].reshape(*outputs.shape[:2], POINTS, 2)
    return DenseDetections(outputs[:, :, 0], boxes, middle[:, :, None] + offsets * size[:, :, None])


def load_face_detector(path: Path) -> tuple[FaceDetectorNet, dict[str, Any]]:
    """Return the network of a face detector's checkpoint, in evaluation mode, and its recipe.

    Raises:
        ModelError: the file is missing, damaged, or not a face detector of pipnet.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            recipe = json.loads((file.metadata() or {})["recipe"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        sizes: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in recipe["model"].items()
        }
        model = FaceDetectorNet(FaceDetectorConfig(**sizes))
        model.load_state_dict(tensors)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: not a face detector of pipnet: {one_line(error, 120)}") from None
    return model.eval(), recipe
