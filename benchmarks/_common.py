"""What the benchmark scripts share: provenance, interleaved timing, result files, tables, figures."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipnet.benchmark.noise import NoiseMeter
from pipnet.benchmark.run import processor_name
from pipnet.benchmark.timing import Timing, time_interleaved
from pipnet.evaluation.matplotlib_figure import plot
from pipnet.io.atomic import write_text

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
COLORS = ("#1f6fb4", "#d95f02", "#2a8f5c", "#8a4fb5", "#555555")
"""Colors of the lines of a figure, at most five."""
_EARLIER_COMMIT = "694c23d"
"""The last commit with the checkpoints of earlier weights."""
_PACKAGES = ("numpy", "onnxruntime", "openvino", "torch")


# -- provenance ---------------------------------------------------------------------------------------


def provenance() -> dict[str, str]:
    """Return commit (``-dirty`` if sources or recipes differ from it), machine, versions and date."""
    commit = _git("rev-parse", "--short", "HEAD").stdout.strip()
    is_clean = _git("diff", "--quiet", "HEAD", "--", "src", "recipes").returncode == 0
    return {
        "commit": commit if is_clean else f"{commit}-dirty",
        "machine": processor_name(),
        "versions": ", ".join([f"Python {platform.python_version()}", *_versions()]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _versions() -> Iterator[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def measured_on(results: Mapping[str, Any]) -> str:
    """Return what a page states about the origin of its numbers: commit, machine, and what else is stored."""
    parts = [f"commit {results['commit']}", results["machine"]]
    return ", ".join([*parts, *(results[key] for key in ("versions", "date") if key in results)])


# -- command line and files -----------------------------------------------------------------------------


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the folder of the datasets, and a flag that writes the page again."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of datasets and backbones")
    parser.add_argument(
        "--report",
        action="store_true",
        help="measure nothing: write page and figures from the stored results",
    )
    return parser


def read_results(folder: Path) -> dict[str, Any]:
    """Return the stored results of a benchmark; empty if it never ran."""
    path = folder / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return results


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json`` of a benchmark."""
    write_text(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def write_report(folder: Path, lines: Sequence[str]) -> None:
    """Write ``report.md`` of a benchmark."""
    write_text(folder / "report.md", "\n".join(lines).rstrip() + "\n")


def earlier_checkpoint(name: str) -> Path:
    """Return the file of a checkpoint that is no longer in ``checkpoints``, from the git history."""
    path = ROOT / "out" / f"{name}.safetensors"
    if not path.is_file():
        shown = subprocess.run(
            ["git", "show", f"{_EARLIER_COMMIT}:checkpoints/{name}.safetensors"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(shown.stdout)
    return path


def photo_of(stem: str) -> str:
    """Return AFW's number of a face's photo: ``AFW_134212_1_5`` and ``134212_2`` are of 134212."""
    return stem.removeprefix("AFW_").split("_")[0]


# -- timing -------------------------------------------------------------------------------------------


def compare_speed(
    runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.3
) -> tuple[dict[str, Timing], NoiseMeter]:
    """Time functions interleaved, and return the timings and how much the machine was disturbed.

    State a ratio only if ``meter.noise().problem`` is None; otherwise state the problem.
    """
    meter = NoiseMeter()
    return time_interleaved(runs, rounds, seconds, meter), meter


# -- tables and figures ---------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table; None is an empty cell."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        assert len(row) == len(head), f"{len(row)} cells under {len(head)} titles: {row}"
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |")
    return lines


@contextmanager
def new_figure(path: Path, width: float, height: float, columns: int = 1) -> Iterator[list[Any]]:
    """Yield the axes of a figure, and write it; sizes in inches.

    Lines are labeled where they end (`label_line`), and there are at most five of them.
    """
    with plot(path, width, height, columns) as axes:
        panels = list(axes) if columns > 1 else [axes]
        yield panels
        for panel in panels:
            panel.spines[["top", "right"]].set_visible(False)


def label_line(
    axes: Any,
    x: float,
    y: float,
    text: str,
    color: str,
    offset: tuple[float, float] = (6, 0),
    align: str = "left",
) -> None:
    """Write the name of a line or point beside (x, y), in its color; the offset is in typographic points."""
    options = {"color": color, "fontsize": 9, "va": "center", "ha": align}
    axes.annotate(text, (x, y), offset, textcoords="offset points", zorder=5, **options)
