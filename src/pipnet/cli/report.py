"""``pipnet report``: our evaluations compared with the papers' numbers."""

from __future__ import annotations

from pathlib import Path

from pipnet.cli import say
from pipnet.cli.options import OptionalOutput
from pipnet.evaluation.record import read_records
from pipnet.io.atomic import write_text
from pipnet.papers.paper_report import compare, markdown, plot_comparison


def report(
    results: list[Path],
    /,
    *,
    row: str = "",
    output: OptionalOutput = None,
) -> None:
    """Compare evaluations with the papers' numbers for the same faces: a Markdown table on standard output.

    Parameters
    ----------
    results
        The output of `pipnet evaluate -o`: its folders, folders of such folders, or evaluation.json files.
    row
        Keep published rows with this text in paper, table, method, backbone or training set, such as PIP.
    output
        Folder for report.md and report.png, which are then written instead.
    """
    sections = compare(read_records(results), row)
    text = markdown(sections)
    if output is None:
        print(text, end="")
        return
    write_text(output / "report.md", text)
    plot_comparison(sections, output / "report.png")
    say(str(output / "report.md"))
    say(str(output / "report.png"))
