"""Figures need matplotlib, which is an extra."""

from __future__ import annotations

from typing import Any

from pipnet.errors import MissingExtraError


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, whose parts do not overlap; width and height in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report") from None
    return Figure(figsize=(width, height), layout="constrained")
