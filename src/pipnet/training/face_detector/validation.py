"""What a face detector in training finds on scenes, and how well that fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from pipnet.geometry import Image, box_iou, suppress_overlaps
from pipnet.model.face_detector import DenseDetections, FaceDetectorNet
from pipnet.training.face_detector.scenes import Scene

_THRESHOLD, _NMS_IOU = 0.5, 0.4
"""Minimum score of a validated face, and maximum overlap of two."""


def as_input(images: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b 3 h w"]:
    """Return images as the network takes them."""
    return images.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)


def detect(
    network: FaceDetectorNet, image: Image, threshold: float = _THRESHOLD
) -> Float32[np.ndarray, "faces 5"]:
    """Return the faces in an image by descending score: xyxy in its pixels, and the score.

    Args:
        network: in evaluation mode.
        image: RGB; height and width are multiples of 32.
        threshold: minimum score.
    """
    with torch.no_grad():
        output: DenseDetections = network(as_input(torch.from_numpy(np.array(image))[None]))
    boxes, scores = output.boxes[0].numpy() - 0.5, output.logits[0].sigmoid().numpy()
    chosen = scores >= threshold
    kept = suppress_overlaps(boxes[chosen], scores[chosen], _NMS_IOU)
    return np.asarray(np.concatenate([boxes[chosen], scores[chosen, None]], axis=1)[kept])


def match(scenes: Sequence[Scene], detections: Sequence[np.ndarray]) -> dict[str, float]:
    """Return recall and precision at IoU 0.5, and the mean IoU; ignored faces count neither way."""
    true_positives, faces, false_positives, overlaps = 0, 0, 0, []
    for scene, rows in zip(scenes, detections, strict=True):
        taken = np.zeros(len(scene.boxes), bool)
        for row in rows:
            iou = box_iou(scene.boxes, row[:4]) * ~taken if len(scene.boxes) else np.zeros(1, np.float32)
            best = int(iou.argmax())
            if iou[best] >= 0.5:
                taken[best] = True
                if not scene.ignored[best]:
                    overlaps.append(float(iou[best]))
            elif not (len(scene.boxes) and _in_ignored(row[:4], scene)):
                false_positives += 1
        true_positives += int((taken & ~scene.ignored).sum())
        faces += int((~scene.ignored).sum())
    return {
        "recall": true_positives / max(faces, 1),
        "precision": true_positives / max(true_positives + false_positives, 1),
        "iou": float(np.mean(overlaps)) if overlaps else 0.0,
    }


def _in_ignored(box: np.ndarray, scene: Scene) -> bool:
    """Return whether the center of a box lies in an ignored face."""
    center = (box[:2] + box[2:]) / 2
    ignored = scene.boxes[scene.ignored]
    return bool(((center > ignored[:, :2]) & (center < ignored[:, 2:])).all(axis=1).any())
