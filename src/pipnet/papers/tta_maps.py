"""Score maps of a face before and after test-time augmentation: v1's figure 4.

On a face of another dataset, one crop's score map may have several peaks, or a wrong one. Augmented crops of
the same face have other errors, so the mean of their maps, each transformed back into the plain crop, peaks
where most agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.config import TTA
from pipnet.evaluation.matplotlib_figure import new_figure, save_figure
from pipnet.geometry import Box, Image, affine, box_to_crop, compose, invert
from pipnet.inference.tta import augmented_crops
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import PIPNet
from pipnet.papers.position_prior import draw_score_map, predict_score_maps
from pipnet.warp import sample_map, warp

ScoreMap = Float32[np.ndarray, "size size"]


class LandmarkMaps(NamedTuple):
    """Score maps and positions of one landmark, all in the plain crop."""

    name: str
    plain_map: ScoreMap
    """Score map of the plain crop; each cell of the grid is as large as it is in the crop."""
    mean_map: ScoreMap
    """Mean of the augmented crops' score maps; each pixel's mean is over the crops that contain it."""
    plain_point: Float32[np.ndarray, "2"]
    """The landmark predicted on the plain crop, in pixels of it."""
    mean_point: Float32[np.ndarray, "2"]
    """Mean of the landmarks predicted on the augmented crops, in pixels of the plain crop."""


def tta_maps(
    model: PIPNet, metadata: ModelMetadata, image: Image, box: Box, tta: TTA, landmarks: Mapping[str, int]
) -> tuple[Image, list[LandmarkMaps]]:
    """Return the plain crop of a face, and the score maps of some landmarks.

    Args:
        model: a network with a PIP head.
        metadata: its metadata.
        image: the image.
        box: the box that the face's crop is cut around, xyxy in pixels of the image.
        tta: the test-time augmentation.
        landmarks: indices of the landmarks, by their titles.

    Raises:
        ModelError: the model has no score maps.
    """
    size = metadata.input_size
    to_crop = box_to_crop(metadata.crop.region(box, image.shape[1], image.shape[0]), size)
    augmentations = augmented_crops(tta, size)
    crops = [warp(image, to_crop, size)]
    crops += [warp(image, compose(to_crop, augmented.matrix), size) for augmented in augmentations]
    prediction = predict_score_maps(model, crops)
    points = prediction.points * size - 0.5
    cell = np.ones((size // prediction.score_maps.shape[-1],) * 2, np.float32)
    landmark_maps = []
    for name, landmark in landmarks.items():
        total, covered, unaugmented_points = np.zeros((size, size)), np.zeros((size, size)), []
        for number, augmented in enumerate(augmentations, start=1):
            index = metadata.scheme.flip_permutation[landmark] if augmented.mirrored else landmark
            # An augmented crop's map in the plain crop is 0 where the augmented crop does not reach.
            total += sample_map(np.kron(prediction.score_maps[number, index], cell), augmented.matrix, size)
            covered += sample_map(np.ones((size, size), np.float32), augmented.matrix, size)
            unaugmented_points.append(affine(points[number, index], invert(augmented.matrix)))
        landmark_maps.append(
            LandmarkMaps(
                name,
                np.kron(prediction.score_maps[0, landmark], cell),
                (total / covered.clip(1)).astype(np.float32),
                points[0, landmark],
                np.mean(unaugmented_points, axis=0).astype(np.float32),
            )
        )
    return crops[0], landmark_maps


def plot_tta_maps(crop: Image, landmark_maps: Sequence[LandmarkMaps], tta: TTA, path: Path) -> None:
    """Draw the maps with their peaks over the gray crop: the plain crop's above, the means below.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(2 * len(landmark_maps) + 0.4, 4.4)
    grid = figure.subplots(2, len(landmark_maps), squeeze=False)
    for axes, maps in zip(grid.T, landmark_maps, strict=True):
        axes[0].set_title(maps.name, fontsize=9)
        draw_score_map(axes[0], crop, maps.plain_map, (maps.plain_point + 0.5) / len(crop))
        draw_score_map(axes[1], crop, maps.mean_map, (maps.mean_point + 0.5) / len(crop))
    for axes, label in zip(grid[:, 0], ("plain crop", f"mean, TTA {tta}"), strict=True):
        axes.set_ylabel(label, fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    save_figure(figure, path, dpi=110)
