"""The log of a training: a progress bar on a terminal, a line an epoch, and metrics and curves on disk."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import Progress

from pipnet.errors import PipnetError
from pipnet.evaluation.matplotlib_figure import plot, require_figures
from pipnet.io.atomic import write_text
from pipnet.progress import is_quiet

_REDRAW_SECONDS = 10.0
"""Minimum time between two drawings of the curves: one takes as long as a short epoch."""


class TrainingLog:
    """``metrics.jsonl``, one row an epoch, and the progress of the current epoch."""

    def __init__(self, run: Path, epochs: int, quiet: bool = False) -> None:
        require_figures()
        self.path = run / "metrics.jsonl"
        self.epochs = epochs
        quiet = quiet or is_quiet()
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.progress = Progress(
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
            redirect_stdout=False,
        )
        self.drawn = time.monotonic()
        self.is_outdated = False

    def __enter__(self) -> TrainingLog:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        if self.is_outdated:
            ignored = () if kind is None else (OSError, PipnetError)  # the first error is reported
            with contextlib.suppress(*ignored):
                self._draw()

    def track(self, batches: Iterable[Any], total: int, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch and advance the progress bar."""
        task = self.progress.add_task(f"epoch {epoch}/{self.epochs}", total=total)
        for batch in batches:
            yield batch
            self.progress.advance(task)
        self.progress.remove_task(task)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all epochs so far."""
        if not self.path.is_file():
            return []
        rows = []
        for line in self.path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line cut off by a full disk or a kill
                rows.append(json.loads(line))
        return rows

    def keep(self, epochs: int) -> None:
        """Delete the rows of later epochs: they were written, but their state was not."""
        rows = [row for row in self.rows() if row["epoch"] <= epochs]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, row: dict[str, Any]) -> None:
        """Add an epoch's row, print it, and redraw the curves after 10 s; `__exit__` draws the rest."""
        self.keep(row["epoch"] - 1)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        nme = "" if row["nme"] is None else f"  validation NME {row['nme']:.3f} %"
        self.console.print(
            f"{time.strftime('%H:%M:%S')} epoch {row['epoch']}/{self.epochs}"
            f"  loss {row['loss']:.4f}{nme}  lr {row['lr']:.2g}  {row['seconds']:.0f} s"
        )
        self.is_outdated = True
        if time.monotonic() - self.drawn >= _REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        draw_curves(self.rows(), self.path.with_name("curves.png"))
        self.drawn, self.is_outdated = time.monotonic(), False


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw loss terms and validation NME over epochs."""
    epochs = [row["epoch"] for row in rows]
    with plot(path, 9, 3.5, columns=2, dpi=110) as (left, right):
        for name in (key for key in rows[-1] if key not in ("epoch", "step", "lr", "nme", "seconds")):
            left.plot(epochs, [row[name] for row in rows], label=name)
        left.set(xlabel="epoch", ylabel="training loss", yscale="log")
        left.legend()
        right.plot(epochs, [row["nme"] for row in rows], color="black")
        right.set(xlabel="epoch", ylabel="validation NME, %", ylim=(0, None))
