"""How long work shows that it goes on: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


def track(
    items: Iterable[Item],
    total: int | None,
    what: str,
    size: Callable[[Item], int] = lambda _: 1,
    done: int = 0,
) -> Iterator[Item]:
    """The items, one by one, while how much of them is done is shown on standard error.

    Args:
        items: what is worked on.
        total: the size of all, None if nobody knows; nothing is shown for a single one.
        what: what is done, such as ``"detecting"``.
        size: of an item, where they do not all count alike.
        done: what was done before, of the total.
    """
    console = Console(stderr=True, highlight=False)
    if total is not None and total <= 1:
        yield from items
    elif console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
            task = progress.add_task(what, total=total, completed=done)
            for item in items:
                yield item
                progress.advance(task, size(item))
    else:
        said = time.monotonic()
        for item in items:
            if time.monotonic() - said >= _EVERY:
                said = time.monotonic()
                console.print(f"{what}: {done}" + (f" of {total}" if total else ""), soft_wrap=True)
            yield item
            done += size(item)
