"""The engine of processes on this machine."""

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

from pipnet.bulk.shard_labeler import Shard
from pipnet.bulk.store import ShardRecord
from pipnet.bulk.worker import Worker, WorkerConfig
from pipnet.errors import PipnetError


class LocalEngine:
    """Spawned processes with a model each. A process that dies is replaced."""

    def __init__(self, config: WorkerConfig, workers: int) -> None:
        """Prepare the engine; processes start when shards are submitted.

        Raises:
            PipnetError: fewer than 1 worker.
        """
        if workers < 1:
            raise PipnetError(f"--workers must be at least 1, not {workers}")
        self.size, self._config = workers, config
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, BaseProcess] = {}
        self._busy: dict[Connection, Shard] = {}

    def submit(self, shard: Shard) -> None:
        """See `Engine.submit`."""
        idle = [pipe for pipe in self._processes if pipe not in self._busy]
        pipe = idle[0] if idle else self._start()
        self._busy[pipe] = shard
        with contextlib.suppress(OSError):  # the process died while it was idle; `wait` reports it
            pipe.send(shard)

    def wait(self) -> tuple[Shard, ShardRecord | None]:
        """See `Engine.wait`."""
        pipe = wait(list(self._busy))[0]
        assert isinstance(pipe, Connection)
        shard = self._busy.pop(pipe)
        try:
            result: ShardRecord | str = pipe.recv()
        except (EOFError, OSError):
            self._processes.pop(pipe).join()
            pipe.close()
            return shard, None
        if isinstance(result, str):
            raise PipnetError(result)
        return shard, result

    def stop(self) -> None:
        """See `Engine.stop`."""
        for process in self._processes.values():
            process.kill()
        for pipe, process in self._processes.items():
            process.join()
            pipe.close()
        self._processes, self._busy = {}, {}

    def _start(self) -> Connection:
        pipe, child_pipe = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(child_pipe, self._config), daemon=True)
        with _child_environment(self._config.threads):
            process.start()
        child_pipe.close()  # so that the pipe closes when the process dies
        self._processes[pipe] = process
        return pipe


def _serve(pipe: Connection, config: WorkerConfig) -> None:
    """Annotate shards from the pipe until it closes; the process also ends with its parent."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    worker = Worker(config)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(worker.annotate(pipe.recv()))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _child_environment(threads: int) -> Iterator[None]:
    """Set what a new process inherits: OpenMP's threads, which are read once, and SIGINT blocked."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    can_block = hasattr(signal, "pthread_sigmask")
    if can_block:
        resource_tracker.ensure_running()  # otherwise it starts with the process, and unblocks SIGINT here
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if can_block:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
