"""The protocol of engines, and the loop that gives them shards until all are done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from pipnet.bulk.shard_labeler import Shard
from pipnet.bulk.store import ShardRecord, Store
from pipnet.errors import PipnetError

_MAX_FAILED_STARTS = 5
"""The job stops after this many workers in a row died before their first step."""


@runtime_checkable
class Engine(Protocol):
    """Starts workers, each of which annotates one shard at a time."""

    size: int
    """The number of workers."""

    def submit(self, shard: Shard) -> None:
        """Give a shard to an idle worker, or to a new one if there is none."""
        ...

    def wait(self) -> tuple[Shard, ShardRecord | None]:
        """Return the next finished shard and its record, or None with a shard whose worker died.

        Raises:
            PipnetError: a worker reports that the job cannot continue.
        """
        ...

    def stop(self) -> None:
        """Kill all workers."""
        ...


def run_shards(engine: Engine, shards: Iterator[Shard], store: Store) -> Iterator[ShardRecord]:
    """Yield the records of shards as they finish. A shard whose worker died is submitted again.

    Raises:
        PipnetError: a worker reports that the job cannot continue, or workers die as they start.
    """
    running: dict[int, int] = {}  # number of the shard: size of its journal when it was submitted
    retries: list[Shard] = []
    failed_starts = 0
    try:
        while True:
            while len(running) < engine.size:
                next_shard = retries.pop() if retries else next(shards, None)
                if next_shard is None:
                    break
                running[next_shard.number] = store.journal(next_shard.number).size()
                engine.submit(next_shard)
            if not running:
                return
            shard, record = engine.wait()
            size = running.pop(shard.number)
            if record is not None:
                failed_starts = 0
                yield record
                continue
            journal = store.journal(shard.number)
            if journal.size() > size:
                failed_starts = 0
                journal.record_death()
            else:  # the worker died before its first step, so no image is the cause
                failed_starts += 1
            if failed_starts == _MAX_FAILED_STARTS:
                raise PipnetError(
                    f"{failed_starts} workers in a row died as they started: is there enough memory?"
                )
            retries.append(shard)
    finally:
        engine.stop()
        for number in running:
            with contextlib.suppress(OSError):
                store.journal(number).record_stop()
