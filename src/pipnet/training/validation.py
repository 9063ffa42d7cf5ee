"""Errors of held-out faces during training, measured as in `pipnet.evaluation`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipnet.evaluation.metrics import norm_distance, point_errors
from pipnet.model.pipnet import PIPNet
from pipnet.training.dataset import FaceDataset


def face_errors(
    model: PIPNet, dataset: FaceDataset, faces: Sequence[int], together: int, device: torch.device
) -> list[float]:
    """NME of each of these faces as a fraction; NaN where the landmarks of the norm are not known.

    Args:
        model: in evaluation mode.
        dataset: the faces, not varied.
        faces: their numbers.
        together: how many go through the model at once.
        device: where it runs.
    """
    errors = []
    for first in range(0, len(faces), together):
        chunk = faces[first : first + together]
        crops, labels, *_ = zip(*(dataset[i] for i in chunk), strict=True)
        points = model.predict(torch.from_numpy(np.stack(crops)).to(device)).points.float().cpu().numpy()
        errors += [_error(dataset, i, *both) for i, *both in zip(chunk, points, labels, strict=True)]
    return errors


def _error(dataset: FaceDataset, face: int, predicted: np.ndarray, true: np.ndarray) -> float:
    """NME of one face; crops may be stretched, so distances are taken in the picture's pixels."""
    sample, box = dataset.crops.samples[face], dataset.crops.crop_box(face, dataset.rule)
    unit, norm = box[2:] - box[:2], norm_distance(sample.points, dataset.scheme, sample.box)
    return float(np.nanmean(point_errors(predicted * unit, true * unit, norm))) if norm > 0 else float("nan")
