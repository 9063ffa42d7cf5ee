"""Score maps of a face before and after the mean over views: v1's figure 4.

One look at a face from elsewhere may have several peaks, or a wrong one. Other views of the same face err
elsewhere, so that the mean of their maps, each undone into the plain crop, has its peak where most agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from pipnet.config import TTA
from pipnet.evaluation.figure import new_figure, save_figure
from pipnet.geometry import Box, Image, affine, box_to_crop, compose, warp
from pipnet.inference.tta import tta_views
from pipnet.metadata import ModelMetadata
from pipnet.model.pipnet import PIPNet
from pipnet.papers.position_prior import ask

Heat = Float32[np.ndarray, "size size"]


class LandmarkMaps(NamedTuple):
    """What is seen of one landmark, in the plain crop."""

    name: str
    before: Heat
    """Score map of the plain crop alone, each cell as large as it is in the crop."""
    after: Heat
    """Mean of the views' score maps, each undone; over the views that see a place."""
    point_before: Float32[np.ndarray, "2"]
    """The landmark in pixels of the plain crop, from it alone."""
    point_after: Float32[np.ndarray, "2"]
    """The mean over the views."""


def view_maps(
    model: PIPNet, metadata: ModelMetadata, image: Image, box: Box, views: TTA, landmarks: Mapping[str, int]
) -> tuple[Image, list[LandmarkMaps]]:
    """The plain crop of a face, and the score maps of some landmarks.

    Args:
        model: a network with a PIP head.
        metadata: what it was trained on.
        image: a picture.
        box: the box in it that the face's crop is cut around.
        views: the views to take the mean over.
        landmarks: number of each landmark to show, by name.

    Raises:
        ModelError: the model has no score maps.
    """
    size = metadata.input_size
    straight = box_to_crop(metadata.crop(box, image.shape[1], image.shape[0]), size)
    ways = tta_views(views, size)
    crops = [warp(image, straight, size)]
    crops += [warp(image, compose(straight, way.matrix), size) for way in ways]
    answers = ask(model, crops)
    cell = size // answers.maps.shape[-1]
    shown = []
    for name, landmark in landmarks.items():
        total, seen, points = np.zeros((size, size)), np.zeros((size, size)), []
        for number, way in enumerate(ways, start=1):
            of_view = metadata.scheme.flip_permutation[landmark] if way.mirrored else landmark
            total += _undone(_enlarged(answers.maps[number, of_view], cell), way.matrix)
            seen += _undone(np.ones((size, size), np.float32), way.matrix)
            back = np.asarray(cv2.invertAffineTransform(way.matrix), dtype=np.float64)
            points.append(affine(_pixels(answers.points[number, of_view], size), back))
        shown.append(
            LandmarkMaps(
                name,
                _enlarged(answers.maps[0, landmark], cell),
                np.asarray(total / seen.clip(1), dtype=np.float32),
                _pixels(answers.points[0, landmark], size),
                np.asarray(np.mean(points, axis=0), dtype=np.float32),
            )
        )
    return crops[0], shown


def plot_view_maps(crop: Image, shown: Sequence[LandmarkMaps], views: TTA, path: Path) -> None:
    """Draw the maps over the gray crop, each with its peak: above the plain crop's, below the mean.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(2 * len(shown) + 0.4, 4.4)
    grid = figure.subplots(2, len(shown), squeeze=False)
    for column, maps in enumerate(shown):
        grid[0, column].set_title(maps.name, fontsize=9)
        _draw(grid[0, column], crop, maps.before, maps.point_before)
        _draw(grid[1, column], crop, maps.after, maps.point_after)
    for axes, label in zip(grid[:, 0], ("plain crop", f"mean over views ({views})"), strict=True):
        axes.set_ylabel(label, fontsize=9)
    save_figure(figure, path, dpi=110)


def _draw(axes: Any, crop: Image, heat: Heat, point: Float32[np.ndarray, "2"]) -> None:
    peak = float(heat.max())
    share = (heat / max(peak, 1e-6)).clip(0, 1)
    axes.imshow(crop.mean(axis=2), cmap="gray", vmin=0, vmax=400)
    axes.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.25 + 0.75 * share)
    axes.plot(*point, "o", color="cyan", markersize=6, fillstyle="none")
    axes.text(4, len(crop) - 6, f"{peak:.2f}", color="white", fontsize=8)
    axes.set(xticks=[], yticks=[])


def _enlarged(scores: Float32[np.ndarray, "grid grid"], cell: int) -> Heat:
    return np.kron(scores, np.ones((cell, cell), np.float32))


def _undone(heat: Heat, matrix: np.ndarray) -> Heat:
    """A map of a view, in the plain crop; 0 where the view did not reach."""
    return np.asarray(
        cv2.warpAffine(heat, matrix, heat.shape, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP),
        dtype=np.float32,
    )


def _pixels(fractions: Float32[np.ndarray, "2"], size: int) -> Float32[np.ndarray, "2"]:
    return np.asarray(fractions * size - 0.5, dtype=np.float32)
