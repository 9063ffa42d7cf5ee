"""Errors of the validation faces during training, measured as in `pipnet.evaluation`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipnet.evaluation.metrics import norm_distance, point_errors
from pipnet.model.pipnet import PIPNet
from pipnet.training.dataset import FaceDataset


def face_errors(
    model: PIPNet,
    dataset: FaceDataset,
    faces: Sequence[int],
    batches: Iterable[Sequence[Tensor]],
    device: torch.device,
) -> list[float]:
    """Return the NME of each face as a fraction.

    It is NaN where the landmarks of the norm are unknown, and infinite where a prediction is not finite.

    Args:
        model: the network, in evaluation mode.
        dataset: the faces, without augmentation.
        faces: indices of the faces to measure.
        batches: their crops and labels, see `pipnet.training.dataset.Example`.
        device: the device of the network.
    """
    points, labels = [], []
    for crops, batch_labels, *_ in batches:
        points.append(model.predict(crops.to(device, non_blocking=True)).points.float())
        labels.append(batch_labels)
    if not points:
        return []
    predicted, true = torch.cat(points).cpu().numpy(), torch.cat(labels).numpy()
    return [_error(dataset, i, *both) for i, *both in zip(faces, predicted, true, strict=True)]


def _error(dataset: FaceDataset, face: int, predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the NME of a face. Crops may be stretched, so distances are measured in pixels of the image."""
    sample, box = dataset.crops.samples[face], dataset.crops.crop_region(face)
    unit, norm = box[2:] - box[:2], norm_distance(sample.points, dataset.scheme, sample.box)
    if not norm > 0:
        return float("nan")
    if not np.isfinite(predicted).all():
        return float("inf")
    return float(np.nanmean(point_errors(predicted * unit, true * unit, norm)))
