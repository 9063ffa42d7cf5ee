"""Progress of long work: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipnet.errors import printable

Item = TypeVar("Item")
_INTERVAL = 10.0
"""Seconds between lines if standard error is not a terminal."""


def is_quiet() -> bool:
    """Whether the level of the logger ``pipnet`` is set above INFO, so that only warnings and errors show."""
    return logging.getLogger("pipnet").level > logging.INFO


def show_progress(
    items: Iterable[Item],
    total: int | None,
    description: str,
    size: Callable[[Item], int] = lambda _: 1,
    done: int = 0,
) -> Generator[Item, None, None]:
    """Yield the items and show on standard error how many of them are done, unless `is_quiet`.

    Args:
        items: the items to work on.
        total: the size of all items, None if it is unknown. Nothing is shown for a total of 1 or less.
        description: the work, such as ``"detecting"``.
        size: returns the size of an item, for items that do not all count the same.
        done: the size of the items that were done before, as part of the total.
    """
    console = Console(stderr=True, highlight=False)
    description = printable(description)
    if is_quiet() or (total is not None and total <= 1):
        yield from items
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
            task = progress.add_task(description, total=total, completed=done)
            for item in items:
                yield item
                progress.advance(task, size(item))
    else:
        last_line = time.monotonic()
        for item in items:
            if time.monotonic() - last_line >= _INTERVAL:
                last_line = time.monotonic()
                line = f"{description}: {done}" + (f" of {total}" if total else "")
                console.print(line, soft_wrap=True, markup=False)
            yield item
            done += size(item)
