"""Reports of the benchmark: a table, and a figure of speed and accuracy."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipnet.benchmark.run import Report
from pipnet.evaluation.matplotlib_figure import new_figure, save_figure

_MARKERS = "osD^"
"""Markers of the figure. Each is used for ten rows, because there are ten colors."""
_COLUMNS = ("", "ms", "95 %", "times", "best (batch)", "MB", "file", "NME %")
"""Titles: the row's name; median and 95th percentile of a face; times faster than the reference; least
milliseconds a face and its batch size; memory and file in megabytes; error."""


def to_table(report: Report) -> Table:
    """Return the rows as a table for the terminal."""
    caption = "ms a face; times: faster than the reference; best: least ms a face in a batch; MB: memory"
    problem = report.noise and report.noise.problem
    table = Table(
        title="one crop to landmarks, interleaved in one run",
        caption=f"{caption}\n{problem[0].upper()}{problem[1:]}" if problem else caption,
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )
    lines = table_lines(report)
    shown = [i for i, _ in enumerate(_COLUMNS) if i == 0 or any(line[i] for line in lines)]
    for i in shown:
        # In a narrow terminal names are folded, numbers are not.
        table.add_column(_COLUMNS[i], justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    for line in lines:
        table.add_row(*(line[i] for i in shown))
    return table


def table_lines(report: Report) -> list[list[str]]:
    """Return the cells of the rows as text."""
    lines = []
    for row in report.rows:
        best = min(row.per_face.items(), key=lambda item: item[1]) if row.per_face else None
        nme = "" if row.nme is None else f"{row.nme:.3f}" + (f" ({row.missed} missed)" if row.missed else "")
        lines.append(
            [
                row.name,
                f"{row.latency.median:.2f}",
                f"{row.latency.p95:.2f}",
                "" if row.ratio is None else f"{row.ratio:.1f}",
                "" if best is None else f"{best[1]:.2f} ({best[0]})",
                "" if row.megabytes is None else f"{row.megabytes:.0f}",
                "" if row.file_megabytes is None else f"{row.file_megabytes:.1f}",
                nme,
            ]
        )
    return lines


def draw(report: Report, path: Path) -> None:
    """Draw the NME over the latency of the rows that have an NME.

    Raises:
        MissingExtraError: matplotlib is not installed.
        WriteError: the figure cannot be written.
    """
    figure = new_figure(10, 4.5)
    axes = figure.subplots()
    for i, row in enumerate(row for row in report.rows if row.nme is not None):
        axes.plot(row.latency.median, row.nme, _MARKERS[i // 10 % len(_MARKERS)], label=row.name)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    data = report.facts.get("data", {})
    axes.set(
        xscale="log",
        xlabel="milliseconds a face, batch 1",
        ylabel=f"NME, % ({data.get('dataset', '')} {data.get('subset', '')})",
    )
    axes.grid(alpha=0.3, which="both")
    save_figure(figure, path, dpi=110)
