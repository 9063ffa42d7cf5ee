"""The loss of the face detector: which cells answer for a face, and how far off they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipnet.model.face_detector import SIDES, STRIDES, DenseDetections
from pipnet.training.face_detector.scenes import Scene

_SPREAD = 0.12
"""Standard deviation of the score's target around the center of a face, in sides of its box."""
_LEARNS_BOX = 0.5
"""Cells with at least this target learn box and points too."""
_BOX_WEIGHT, _POINTS_WEIGHT = 4.0, 4.0


class Targets(NamedTuple):
    """What the cells of a batch should answer."""

    score: Float[Tensor, "b cells"]
    """1 in the cell at the center of a face, less around it, 0 elsewhere."""
    weight: Float[Tensor, "b cells"]
    """0 where a face is ignored."""
    box: Float[Tensor, "b cells 4"]
    points: Float[Tensor, "b cells points 2"]
    """NaN where unknown."""


def encode(scene: Scene) -> Targets:
    """Return the targets of one scene, without the batch axis.

    Scenes count pixels from the center of the first one, the network from its corner.
    """
    size = len(scene.image)
    boxes, points = torch.from_numpy(scene.boxes + 0.5), torch.from_numpy(scene.points + 0.5)
    ignored = torch.from_numpy(scene.ignored)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    parts = []
    for stride, (low, high) in zip(STRIDES, SIDES, strict=True):
        n = size // stride
        axis = (torch.arange(n) + 0.5) * stride
        centers = torch.stack([axis.repeat(n), axis.repeat_interleave(n)], dim=1)
        distance = (centers[:, None] - middle[None]).norm(dim=2)
        target = torch.exp(-0.5 * (distance / (_SPREAD * sides).clamp(min=0.4 * stride)) ** 2)
        in_box = ((centers[:, None] > boxes[None, :, :2]) & (centers[:, None] < boxes[None, :, 2:])).all(
            dim=2
        )
        if len(boxes):
            nearest = distance.argmin(dim=0)
            cell = (middle / stride).floor().clamp(0, n - 1).long()
            nearest = cell[:, 1] * n + cell[:, 0]
            target[nearest, torch.arange(len(boxes))] = 1.0
        own = (sides >= low) & (sides < high) & ~ignored
        score = torch.where(own[None], target, torch.zeros(())) if len(boxes) else target
        best = score.max(dim=1) if len(boxes) else None
        weight = torch.ones(n * n)
        # A face of another map's size, or an ignored one, is no negative example for this map.
        other = ~own & ((sides >= low * 0.6) & (sides < high * 1.6) | ignored)
        weight[(in_box & other[None]).any(dim=1)] = 0
        if best is None:
            parts.append(
                Targets(
                    torch.zeros(n * n), weight, torch.zeros(n * n, 4), torch.full((n * n, 5, 2), torch.nan)
                )
            )
            continue
        weight[best.values >= _LEARNS_BOX] = 1
        parts.append(Targets(best.values, weight, boxes[best.indices], points[best.indices]))
    return Targets(*(torch.cat(part) for part in zip(*parts, strict=True)))


def collate(targets: Sequence[Targets]) -> Targets:
    """Return the targets of a batch."""
    return Targets(*(torch.stack(part) for part in zip(*targets, strict=True)))


def loss(output: DenseDetections, targets: Targets) -> dict[str, Tensor]:
    """Return the terms of the loss: score, box and points.

    The score's is the focal loss of CornerNet (Law and Deng 2018), in which cells near a center weigh little
    as negatives.
    """
    count = (targets.score == 1).sum().clamp(min=1)
    probability = output.logits.sigmoid()
    is_center = targets.score == 1
    positive = (1 - probability) ** 2 * F.logsigmoid(output.logits) * is_center
    negative = probability**2 * F.logsigmoid(-output.logits) * (1 - targets.score) ** 4 * ~is_center
    score = -((positive + negative) * targets.weight).sum() / count
    chosen = (targets.score >= _LEARNS_BOX) & (targets.weight > 0)
    if not chosen.any():
        nothing = 0 * output.boxes.sum()
        return {"score": score, "box": nothing, "points": 0 * output.points.sum()}
    cell_weight = targets.score[chosen]
    box = (
        cell_weight * _distance_iou_loss(output.boxes[chosen], targets.box[chosen])
    ).sum() / cell_weight.sum()
    side = (targets.box[chosen][:, 2:] - targets.box[chosen][:, :2]).prod(dim=1).sqrt()
    error = (output.points[chosen] - targets.points[chosen]) / side[:, None, None]
    known = error.isfinite()
    point = F.smooth_l1_loss(
        torch.where(known, error, 0.0), torch.zeros_like(error), beta=0.05, reduction="none"
    )
    points = (point * cell_weight[:, None, None]).sum() / (known * cell_weight[:, None, None]).sum().clamp(
        min=1
    )
    return {"score": score, "box": _BOX_WEIGHT * box, "points": _POINTS_WEIGHT * points}


def _distance_iou_loss(boxes: Float[Tensor, "n 4"], targets: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """Return 1 - IoU plus the distance of the centers (Zheng et al. 2020)."""
    low, high = torch.maximum(boxes[:, :2], targets[:, :2]), torch.minimum(boxes[:, 2:], targets[:, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (targets[:, 2:] - targets[:, :2]).prod(dim=1)
    outer = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
    apart = ((boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2).square().sum(dim=1)
    return 1 - overlap / (areas - overlap) + apart / outer.square().sum(dim=1)
