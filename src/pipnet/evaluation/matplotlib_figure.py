"""Figures by matplotlib, which is in the extra ``report``; their files are written atomically."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipnet.errors import MissingExtraError
from pipnet.io.atomic import atomic_write


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure with a constrained layout; width and height in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report") from None
    return Figure(figsize=(width, height), layout="constrained")


@contextlib.contextmanager
def plot(path: Path, width: float, height: float, columns: int = 1, dpi: int = 120) -> Iterator[Any]:
    """Yield the axes of a figure, an array if it has several columns; then add grids and write it.

    Raises:
        MissingExtraError: matplotlib is not installed.
        WriteError: the figure cannot be written.
    """
    figure = new_figure(width, height)
    yield figure.subplots(1, columns)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi)


def require_figures() -> None:
    """Check, before long work starts, that figures can be drawn when it ends.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    new_figure(1, 1)


def save_figure(figure: Any, path: Path, dpi: int = 120) -> None:
    """Write a figure of `new_figure` and make the folders above it; the suffix decides the format.

    Raises:
        WriteError: it cannot be written.
    """
    disable_formulas(figure)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=dpi, format=path.suffix[1:] or "png")


def disable_formulas(figure: Any) -> None:
    """Show titles, labels and legends as they are: names in them may contain dollar signs.

    Ticks of logarithmic axes remain formulas.
    """
    for axes in figure.axes:
        legend = axes.get_legend()
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *(legend.get_texts() if legend else [])]
        for text in texts:
            text.set_parse_math(False)
