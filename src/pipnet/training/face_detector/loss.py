"""The loss of the face detector: which cells answer for a face, and how far off they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from pipnet.model.face_detector import POINTS, SIDES, STRIDES, DenseDetections
from pipnet.training.face_detector.scenes import Scene

_SPREAD = 0.12
"""Standard deviation of the score's target around the center of a face, in sides of its box."""
_LEARNS_BOX = 0.5
"""Cells with at least this target learn box and points too."""
_NEAR = 0.6
"""Faces that are too small or large for a map by less than this factor are no background for it."""
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
    faces = _Faces(
        torch.from_numpy(scene.boxes + 0.5),
        torch.from_numpy(scene.points + 0.5),
        torch.from_numpy(scene.ignored),
    )
    parts = [_encode_map(faces, len(scene.image), *level) for level in zip(STRIDES, SIDES, strict=True)]
    return Targets(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Faces(NamedTuple):
    """The faces of a scene in the network's pixels."""

    boxes: Float[Tensor, "faces 4"]
    points: Float[Tensor, "faces points 2"]
    ignored: Bool[Tensor, " faces"]


def _encode_map(faces: _Faces, size: int, stride: int, sides: tuple[float, float]) -> Targets:
    """Return the targets of one map, which learns the faces whose sides are in this range."""
    n = size // stride
    if not len(faces.boxes):
        nothing = torch.zeros(n * n, 4), torch.full((n * n, POINTS, 2), torch.nan)
        return Targets(torch.zeros(n * n), torch.ones(n * n), *nothing)
    axis = (torch.arange(n) + 0.5) * stride
    centers = torch.stack([axis.repeat(n), axis.repeat_interleave(n)], dim=1)[:, None]
    low, high = faces.boxes[:, :2], faces.boxes[:, 2:]
    side, middle = (high - low).prod(dim=1).sqrt(), (low + high) / 2
    spread = (_SPREAD * side).clamp(min=0.4 * stride)
    score = torch.exp(-0.5 * ((centers - middle).norm(dim=2) / spread) ** 2)
    column, row = (middle / stride).long().clamp(0, n - 1).unbind(dim=1)
    score[row * n + column, torch.arange(len(side))] = 1.0
    is_learned = (side >= sides[0]) & (side < sides[1]) & ~faces.ignored
    best = (score * is_learned).max(dim=1)
    # Neither learned nor background: ignored faces, and those that are a little too small or too large.
    is_near = (side >= _NEAR * sides[0]) & (side < sides[1] / _NEAR) | faces.ignored
    is_inside = ((centers > low) & (centers < high)).all(dim=2)
    weight = (~(is_inside & is_near & ~is_learned).any(dim=1) | (best.values >= _LEARNS_BOX)).float()
    return Targets(best.values, weight, faces.boxes[best.indices], faces.points[best.indices])


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
