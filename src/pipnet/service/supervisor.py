"""Several processes that serve the same socket; one that dies is replaced."""

from __future__ import annotations

import logging
import multiprocessing
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event

from pipnet.errors import PipnetError

_LOG = logging.getLogger(__name__)
_POLL = 0.2
"""Seconds between looks at the processes."""
_PAUSE = 1.0
"""Seconds before a process that died is replaced, so that an error at each start does not use a processor."""


class Supervisor:
    """Starts processes, replaces those that die, and stops all on a signal."""

    def __init__(
        self,
        function: Callable[..., None],
        options: object,
        listener: socket.socket,
        processes: int,
        signals: Sequence[int],
    ) -> None:
        """Describe the processes.

        Args:
            function: what each process runs; it gets the options, the socket and an event to set when ready.
            options: its options.
            listener: the socket.
            processes: the number of processes.
            signals: the signals that have come, SIGTERM or Ctrl-C; one of them stops all.
        """
        self._function, self._count, self._signals = function, processes, signals
        self._options, self._listener = options, listener
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[SpawnProcess] = []
        self._replacements: dict[SpawnProcess, Event] = {}

    def run(self, on_ready: Callable[[], None]) -> None:
        """Run until a signal; ``on_ready`` is called when all processes are ready.

        Raises:
            PipnetError: a process ended before it was ready for the first time.
        """
        try:
            started = [self._start() for _ in range(self._count)]
            for process, ready in started:
                while not ready.wait(_POLL) and not self._signals:
                    if not process.is_alive():
                        raise PipnetError(
                            f"a process of the service cannot start: exit code {process.exitcode}"
                        )
            if not self._signals:
                on_ready()
            while not self._signals:
                wait([process.sentinel for process in self._processes], _POLL)
                self._replace_dead()
        finally:
            self._listener.close()  # while it is open here, the system accepts connections that nobody serves
            for process in self._processes:
                process.terminate()  # SIGTERM: it answers what it has accepted
            for process in self._processes:
                process.join()

    def _start(self) -> tuple[SpawnProcess, Event]:
        ready = self._context.Event()
        process = self._context.Process(target=self._function, args=(self._options, self._listener, ready))
        process.start()
        self._processes.append(process)
        return process, ready

    def _replace_dead(self) -> None:
        for process in [process for process in self._processes if not process.is_alive()]:
            if self._signals:
                return
            _LOG.warning("a process of the service died (exit code %s): starting another", process.exitcode)
            self._processes.remove(process)
            self._replacements.pop(process, None)
            time.sleep(_PAUSE)
            replacement, ready = self._start()
            self._replacements[replacement] = ready
        for process in [process for process, ready in self._replacements.items() if ready.is_set()]:
            _LOG.info("a process of the service was replaced")
            del self._replacements[process]
