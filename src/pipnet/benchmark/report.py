"""A benchmark as people look at it: a table, and speed against accuracy."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from pipnet.benchmark.run import Report
from pipnet.evaluation.figure import new_figure, save_figure

_MARKERS = "osD^"
"""One for each ten rows, as there are ten colors."""


def to_table(report: Report) -> Table:
    """The rows, for the terminal."""
    table = Table(title="one crop to landmarks, in turns in one run")
    for title in (
        "",
        "ms",
        "95 %",
        "times the reference",
        "best ms a face (batch)",
        "MB",
        "file MB",
        "NME %",
    ):
        table.add_column(title, justify="right" if title else "left", overflow="fold")
    for line in table_lines(report):
        table.add_row(*line)
    return table


def table_lines(report: Report) -> list[list[str]]:
    """The rows as text, cell by cell."""
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
    """Speed against accuracy; rows without an NME are left out.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = [row for row in report.rows if row.nme is not None]
    figure = new_figure(10, 4.5)
    axes = figure.subplots()
    for number, row in enumerate(rows):
        axes.plot(row.latency.median, row.nme, _MARKERS[number // 10 % len(_MARKERS)], label=row.name)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    data = report.facts.get("data", {})
    axes.set(
        xscale="log",
        xlabel="milliseconds a face, batch 1",
        ylabel=f"NME, % ({data.get('collection', '')} {data.get('subset', '')})",
    )
    axes.grid(alpha=0.3, which="both")
    save_figure(figure, path, dpi=110)
