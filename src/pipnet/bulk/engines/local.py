"""Processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from pipnet.bulk.shard import Shard
from pipnet.bulk.store import Record
from pipnet.bulk.worker import Work, Worker
from pipnet.errors import PipnetError


class LocalEngine:
    """Fresh processes, one model each; one that dies is replaced."""

    def __init__(self, work: Work, workers: int) -> None:
        """Prepare; processes are started when there is work for them.

        Raises:
            PipnetError: fewer than one.
        """
        if workers < 1:
            raise PipnetError(f"--workers must be at least 1, not {workers}")
        self.size, self._work = workers, work
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, BaseProcess] = {}
        self._busy: dict[Connection, Shard] = {}

    def give(self, shard: Shard) -> None:
        """See `Engine.give`."""
        idle = [end for end in self._processes if end not in self._busy]
        end = idle[0] if idle else self._start()
        self._busy[end] = shard
        with contextlib.suppress(OSError):  # it died while it was idle, which `wait` notices
            end.send(shard)

    def wait(self) -> tuple[Shard, Record | None]:
        """See `Engine.wait`."""
        end = wait(list(self._busy))[0]
        assert isinstance(end, Connection)
        shard = self._busy.pop(end)
        try:
            said: Record | str = end.recv()
        except (EOFError, OSError):
            self._processes.pop(end).join()
            end.close()
            return shard, None
        if isinstance(said, str):
            raise PipnetError(said)
        return shard, said

    def stop(self) -> None:
        """See `Engine.stop`."""
        for process in self._processes.values():
            process.kill()
        for end, process in self._processes.items():
            process.join()
            end.close()
        self._processes, self._busy = {}, {}

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._work), daemon=True)
        with _surroundings(self._work.threads):
            process.start()
        theirs.close()  # so that its death is the end of the pipe
        self._processes[ours] = process
        return ours


def _serve(end: Connection, work: Work) -> None:
    """The life of a process: it ends with the one that started it, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = Worker(work)
    with contextlib.suppress(EOFError, OSError):
        while True:
            end.send(worker.annotate(end.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _surroundings(threads: int) -> Iterator[None]:
    """What a new process inherits: OpenMP reads its threads as it is loaded, and Ctrl-C is for us alone."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    blocks = hasattr(signal, "pthread_sigmask")
    if blocks:
        resource_tracker.ensure_running()  # where it starts on its own, it unblocks what is blocked here
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
