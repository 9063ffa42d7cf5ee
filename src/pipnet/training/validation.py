"""Errors of the validation faces during training, measured as in `pipnet.evaluation`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipnet.evaluation.metrics import norm_distance, point_errors
from pipnet.model.pipnet import PIPNet
from pipnet.training.dataset import FaceDataset


def face_errors(
    model: PIPNet, dataset: FaceDataset, faces: Sequence[int], batch_size: int, device: torch.device
) -> list[float]:
    """Return the NME of each face as a fraction.

    It is NaN where the landmarks of the norm are unknown, and infinite where a prediction is not finite.

    Args:
        model: the network, in evaluation mode.
        dataset: the faces, without augmentation.
        faces: indices of the faces to measure.
        batch_size: faces in one forward pass.
        device: the device of the network.
    """
    errors = []
    for first in range(0, len(faces), batch_size):
        chunk = faces[first : first + batch_size]
        crops, labels, *_ = zip(*(dataset[i] for i in chunk), strict=True)
        points = model.predict(torch.from_numpy(np.stack(crops)).to(device)).points.float().cpu().numpy()
        errors += [_error(dataset, i, *both) for i, *both in zip(chunk, points, labels, strict=True)]
    return errors


def _error(dataset: FaceDataset, face: int, predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the NME of a face. Crops may be stretched, so distances are measured in pixels of the image."""
    sample, box = dataset.crops.samples[face], dataset.crops.crop_region(face)
    unit, norm = box[2:] - box[:2], norm_distance(sample.points, dataset.scheme, sample.box)
    if not norm > 0:
        return float("nan")
    if not np.isfinite(predicted).all():
        return float("inf")
    return float(np.nanmean(point_errors(predicted * unit, true * unit, norm)))
