"""Images for checking pseudo-labels: the faces with the highest and the lowest scores, and histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipnet.datasets.pseudo_labels import PseudoLabel
from pipnet.evaluation.contact_sheet import face_tile, sheet
from pipnet.evaluation.matplotlib_figure import new_figure, save_figure
from pipnet.io.image import read_image, write_image
from pipnet.scheme import LandmarkScheme

_TILE = 144
"""Side of a face on the contact sheet in pixels."""
_COLUMNS, _ROWS = 8, 3
_AXES = {
    "mean_score": "mean score",
    "vote_std": "vote_std, % of the crop",
    "label_std": "label_std, % of the crop",
}


def draw_quality(labels: Sequence[PseudoLabel], scheme: LandmarkScheme, folder: Path) -> None:
    """Write ``best_and_worst.jpg``, the highest scores above the lowest ones, and ``quality.png``."""
    order = np.argsort([-label.mean_score for label in labels], kind="stable").tolist()
    count = min(_COLUMNS * _ROWS, len(order))
    sheets = []
    for indices in (order[:count], order[-count:]):
        samples = [labels[i].sample for i in indices]
        tiles = [face_tile(read_image(sample.image), sample.points, scheme, _TILE) for sample in samples]
        sheets.append(sheet(tiles, _COLUMNS, _ROWS))
    write_image(folder / "best_and_worst.jpg", np.vstack(sheets))
    figure = new_figure(9, 2.8)
    for axes, (key, title) in zip(figure.subplots(1, 3), _AXES.items(), strict=True):
        axes.hist([getattr(label, key) for label in labels], bins=40, color="#4a90c2")
        axes.set(xlabel=title, ylabel="faces")
    save_figure(figure, folder / "quality.png", dpi=110)
