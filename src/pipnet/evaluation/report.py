"""Reports of an evaluation: a table, the CED curve, the worst faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from rich.table import Table

from pipnet.evaluation.contact_sheet import face_tile, sheet, with_caption
from pipnet.evaluation.evaluate import FaceErrors, LabeledImage
from pipnet.evaluation.matplotlib_figure import plot
from pipnet.evaluation.metrics import cumulative_errors
from pipnet.inference.draw import DrawStyle
from pipnet.io.image import write_image
from pipnet.io.text import counted
from pipnet.scheme import LandmarkScheme

_TILE_SIZE = 200
"""Side of a face on the contact sheet in pixels."""
SHEET_FACES = 12
_LABEL_STYLE = DrawStyle(color="orange")
"""Labels have another color than predictions."""
_FRAMES = {"pixels": "pixels", "official": "official", "offset_removed": "offset removed"}
"""Titles of the columns by their keys in `FaceErrors.summary`."""
_ROWS: dict[str, Callable[[Any], str]] = {
    "NME": lambda metrics: f"{metrics['nme']:.3f}",
    "  95 % interval": lambda metrics: "{:.2f} to {:.2f}".format(*metrics["nme_ci"]),
    "failures above 10 %": lambda metrics: f"{metrics['fr10']:.2f}",
    "AUC up to 10 %": lambda metrics: f"{metrics['auc10']:.2f}",
    "median": lambda metrics: f"{metrics['median']:.3f}",
    "95th percentile": lambda metrics: f"{metrics['p95']:.3f}",
}


def results_table(summary: Mapping[str, Any], title: str) -> Table:
    """Return a summary (see `FaceErrors.summary`) as a table: a column a frame, a row a metric.

    Labels without a known offset have no column for the errors without it.
    """
    table = Table(title=title)
    table.add_column("% of the norm")
    frames = []
    for key, column in _FRAMES.items():
        if key != "offset_removed" or summary[key] != summary["pixels"]:
            table.add_column(column, justify="right")
            frames.append(summary[key])
    for name, text in _ROWS.items():
        table.add_row(name, *(text(metrics) for metrics in frames))
    for region in frames[0]["regions"]:
        table.add_row(f"  {region}", *(f"{metrics['regions'][region]:.3f}" for metrics in frames))
    faces = counted(summary["faces"], "face")
    table.caption = f"{faces}, {summary['missed']} missed (failures; not part of the NME)"
    if summary["without_norm"]:
        table.caption += f", {summary['without_norm']} more without a norm"
    return table


def plot_ced(curves: Mapping[str, Float64[np.ndarray, " faces"]], path: Path) -> None:
    """Draw cumulative error distributions of NMEs, which are fractions: one curve a name.

    Raises:
        MissingExtraError: matplotlib is not installed.
        WriteError: the figure cannot be written.
    """
    with plot(path, 5.5, 4) as axes:
        for name, nmes in curves.items():
            errors, shares = cumulative_errors(nmes)
            axes.plot(100 * errors, 100 * shares, label=f"{name}: {100 * nmes.mean():.2f} %")
        axes.set(xlabel="NME, %", ylabel="faces at or below, %", xlim=(0, 10), ylim=(0, 100))
        axes.legend(loc="lower right")


def plot_rounds(curves: Mapping[str, Sequence[float]], rounds: Sequence[str], path: Path) -> None:
    """Draw NMEs in percent over the rounds of self-training: one curve a name.

    Args:
        curves: NMEs in percent, one a round, by the name of the curve.
        rounds: names of the rounds.
        path: the figure to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
        WriteError: the figure cannot be written.
    """
    with plot(path, 6, 4) as axes:
        for name, nmes in curves.items():
            axes.plot(nmes, marker="o", label=name)
        axes.set(xlabel="round0: labels only" if "round0" in rounds else "", ylabel="NME, %")
        axes.set_xticks(range(len(rounds)), rounds)
        axes.legend(fontsize=8)


def contact_sheet(
    errors: FaceErrors, images: Iterable[LabeledImage], scheme: LandmarkScheme, path: Path
) -> None:
    """Write a contact sheet of the faces with the largest NME: labels left in orange, predictions right.

    Below each face are its name and its NME.

    Args:
        errors: the result of the evaluation.
        images: the evaluated faces once more, at least the worst, in any order.
        scheme: the scheme of the landmarks.
        path: the image to write.

    Raises:
        WriteError: the image cannot be written.
    """
    worst = {errors.samples[i].name: i for i in errors.worst(SHEET_FACES)}
    pairs = {}
    for image, sample in images:
        if sample.name not in worst:
            continue
        i = worst[sample.name]
        label = face_tile(image, sample.points, scheme, _TILE_SIZE, sample.points, _LABEL_STYLE)
        predicted = face_tile(image, errors.predicted[i], scheme, _TILE_SIZE, sample.points)
        text = f"{sample.name}: NME {100 * errors.nmes[i]:.2f} %, label, prediction"
        pairs[sample.name] = with_caption(np.hstack([label, predicted]), text)
    write_image(path, sheet([pairs[name] for name in worst], columns=min(3, len(pairs))))
