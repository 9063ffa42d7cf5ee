"""Pseudo-labels as people look at them: the surest and the least sure faces, and histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipnet.datasets.pseudo_labels import PseudoLabel
from pipnet.evaluation.figure import new_figure, save_figure
from pipnet.geometry import CropConfig, Image, affine, box_to_crop, crop, tight_box
from pipnet.inference.draw import draw_faces
from pipnet.io.image import read_image, write_image
from pipnet.scheme import LandmarkScheme

_SHOWN = 144
"""Side of a face on the contact sheet in pixels."""
_COLUMNS, _ROWS = 8, 3


def draw_quality(labels: Sequence[PseudoLabel], scheme: LandmarkScheme, folder: Path) -> None:
    """Write ``best_and_worst.jpg``, the surest faces above the least sure ones, and ``quality.png``."""
    order = np.argsort([-label.mean_score for label in labels], kind="stable").tolist()
    count = min(_COLUMNS * _ROWS, len(order))
    write_image(
        folder / "best_and_worst.jpg",
        np.vstack([_sheet([labels[i] for i in part], scheme) for part in (order[:count], order[-count:])]),
    )
    figure = new_figure(9, 2.8)
    units = {"mean_score": "mean score", "vote_std": "spread of votes, % of the crop"}
    units["label_std"] = "disagreement of views, % of the crop"
    for axes, (key, unit) in zip(figure.subplots(1, 3), units.items(), strict=True):
        axes.hist([getattr(label, key) for label in labels], bins=40, color="#4a90c2")
        axes.set(xlabel=unit, ylabel="faces")
    save_figure(figure, folder / "quality.png", dpi=110)


def _sheet(labels: Sequence[PseudoLabel], scheme: LandmarkScheme) -> Image:
    tiles = [_tile(label, scheme) for label in labels]
    tiles += [np.zeros((_SHOWN, _SHOWN, 3), np.uint8)] * (_COLUMNS * _ROWS - len(tiles))
    rows = [np.hstack(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)]
    return np.vstack(rows)


def _tile(label: PseudoLabel, scheme: LandmarkScheme) -> Image:
    image = read_image(label.sample.image)
    box = CropConfig(scale=1.5)(tight_box(label.sample.points), image.shape[1], image.shape[0])
    points = affine(label.sample.points, box_to_crop(box, _SHOWN)).astype(np.float32)
    return draw_faces(crop(image, box, _SHOWN), points[None], np.zeros((0, 4), np.float32), scheme)
