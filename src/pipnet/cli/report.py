"""``pipnet report``: our numbers beside the papers'."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli import say
from pipnet.evaluation.record import read_records
from pipnet.io.atomic import write_text
from pipnet.papers.comparison import compare, markdown, plot_comparison


def report(
    results: list[Path],
    /,
    *,
    row: str = "",
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Set results beside the papers' numbers for the same faces, as a Markdown table on standard output.

    Parameters
    ----------
    results
        What `pipnet evaluate -o` wrote: its folders, folders of such folders, or evaluation.json files.
    row
        Only published rows with this text in paper, table, method, backbone or training set, such as PIP.
    output
        Folder to write report.md and report.png into, instead.
    """
    sections = compare(read_records(results), row)
    text = markdown(sections)
    if output is None:
        print(text, end="")
        return
    write_text(output / "report.md", text)
    plot_comparison(sections, output / "report.png")
    say(f"{output / 'report.md'}\n{output / 'report.png'}")
