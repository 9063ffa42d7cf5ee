"""Handing shards to processes until all are done, whichever way processes are started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from pipnet.bulk.shard import Shard
from pipnet.bulk.store import Record, Store
from pipnet.errors import PipnetError

_IN_VAIN = 5
"""Deaths in a row of processes that came to nothing, after which the job stops."""


@runtime_checkable
class Engine(Protocol):
    """Starts processes, each of which annotates one shard at a time."""

    size: int
    """How many of them there are."""

    def give(self, shard: Shard) -> None:
        """Give a shard to an idle process, or to a new one if there is none."""
        ...

    def wait(self) -> tuple[Shard, Record | None]:
        """The next shard that is finished, or None with one whose process died.

        Raises:
            PipnetError: a process says that the job cannot go on.
        """
        ...

    def stop(self) -> None:
        """End all processes, now."""
        ...


def run(engine: Engine, shards: Iterator[Shard], store: Store) -> Iterator[Record]:
    """The records of shards as they are finished. A shard whose process died is done again.

    Raises:
        PipnetError: a process says that the job cannot go on, or processes die before they do anything.
    """
    busy: dict[int, int] = {}  # shard and the size of its marks when it was given
    again: list[Shard] = []
    in_vain = 0
    try:
        while True:
            while len(busy) < engine.size:
                shard = again.pop() if again else next(shards, None)
                if shard is None:
                    break
                busy[shard.number] = store.marks(shard.number).size()
                engine.give(shard)
            if not busy:
                return
            shard, record = engine.wait()
            before = busy.pop(shard.number)
            if record is not None:
                in_vain = 0
                yield record
                continue
            marks = store.marks(shard.number)
            in_vain = in_vain + 1 if marks.size() == before else 0
            if not in_vain:  # else it had begun nothing that could be to blame
                marks.died()
            if in_vain == _IN_VAIN:
                raise PipnetError(
                    f"{in_vain} processes in a row died as they started: is there enough memory?"
                )
            again.append(shard)
    finally:
        engine.stop()
        for number in busy:
            with contextlib.suppress(OSError):
                store.marks(number).stopped()
