"""Results as people look at them: a table, the CED curve, the worst faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from rich.table import Table

from pipnet.evaluation.contact_sheet import face_tile, sheet
from pipnet.evaluation.evaluate import FaceErrors, LabeledPicture
from pipnet.evaluation.figure import new_figure, save_figure
from pipnet.evaluation.metrics import cumulative_errors
from pipnet.io.image import write_image
from pipnet.scheme import LandmarkScheme

_TILE_SIZE = 200
"""Side of a face on the contact sheet in pixels."""


def results_table(summary: Mapping[str, Any], title: str) -> Table:
    """A summary (see `FaceErrors.summary`) as a table: one column a frame, one row a number."""
    table = Table(title=title)
    table.add_column("% of the norm")
    columns = {"pixels": "pixels", "official": "official", "offset_removed": "offset removed"}
    for title_of_column in columns.values():
        table.add_column(title_of_column, justify="right")
    frames = [summary[key] for key in columns]
    rows: dict[str, Callable[[Any], str]] = {
        "NME": lambda s: f"{s['nme']:.3f}",
        "  95 % interval": lambda s: "{:.2f} to {:.2f}".format(*s["nme_ci"]),
        "failures above 10 %": lambda s: f"{s['fr10']:.2f}",
        "AUC up to 10 %": lambda s: f"{s['auc10']:.2f}",
        "median": lambda s: f"{s['median']:.3f}",
        "95th percentile": lambda s: f"{s['p95']:.3f}",
    }
    for name, text in rows.items():
        table.add_row(name, *(text(s) for s in frames))
    for region in frames[0]["regions"]:
        table.add_row(f"  {region}", *(f"{s['regions'][region]:.3f}" for s in frames))
    table.caption = f"{summary['faces']} faces, {summary['missed']} missed (failures; no part of the NME)"
    if summary["without_norm"]:
        table.caption += f", {summary['without_norm']} more without a norm"
    return table


def plot_ced(curves: Mapping[str, Float64[np.ndarray, " faces"]], path: Path) -> None:
    """Draw cumulative error distributions: NMEs as fractions, one curve a name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(5.5, 4)
    axes = figure.subplots()
    for name, nmes in curves.items():
        errors, shares = cumulative_errors(nmes)
        axes.plot(100 * errors, 100 * shares, label=f"{name}: {100 * nmes.mean():.2f} %")
    axes.set(xlabel="NME, %", ylabel="faces at or below, %", xlim=(0, 10), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, path)


def plot_rounds(curves: Mapping[str, Sequence[float]], rounds: Sequence[str], path: Path) -> None:
    """Draw NMEs in percent over the rounds of self-training, by their names, one curve a name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for name, nmes in curves.items():
        axes.plot(nmes, marker="o", label=name)
    axes.set(xlabel="round0: labels only" if "round0" in rounds else "", ylabel="NME, %")
    axes.set_xticks(range(len(rounds)), rounds)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def contact_sheet(
    errors: FaceErrors,
    pictures: Iterable[LabeledPicture],
    scheme: LandmarkScheme,
    path: Path,
    count: int = 12,
) -> None:
    """The worst faces: of each pair, true landmarks on the left and predicted ones on the right.

    Args:
        errors: what was measured.
        pictures: the same pictures once more, in any order.
        scheme: what to draw.
        path: the picture to write.
        count: how many faces.
    """
    worst = {errors.samples[i].name: errors.predicted[i] for i in errors.worst(count)}
    pairs = {
        sample.name: np.hstack(
            [
                face_tile(image, points, scheme, _TILE_SIZE, center_on=sample.points)
                for points in (sample.points, worst[sample.name])
            ]
        )
        for image, sample in pictures
        if sample.name in worst
    }
    write_image(path, sheet([pairs[name] for name in worst], min(3, len(pairs))))
