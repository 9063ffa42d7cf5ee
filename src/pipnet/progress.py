"""How long work shows that it goes on: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


def track(items: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
    """The items, one by one, while their number is shown on standard error.

    Args:
        items: what is worked on.
        total: how many there are, None if nobody knows; nothing is shown for a single one.
        what: what is done, such as ``"detecting"``.
    """
    console = Console(stderr=True, highlight=False)
    if total is not None and total <= 1:
        yield from items
    elif console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
            yield from progress.track(items, total=total)
    else:
        said = time.monotonic()
        for number, item in enumerate(items):
            if time.monotonic() - said >= _EVERY:
                said = time.monotonic()
                console.print(f"{what}: {number}" + (f" of {total}" if total else ""), soft_wrap=True)
            yield item
