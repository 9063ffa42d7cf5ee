"""Crash journal: finds the image that kills or hangs its worker, so that it is quarantined.

Before each step a worker appends the step's name to the journal of its shard. If the worker dies, the last
line names the step, and the job appends ``died``. Lines are only appended, so a kill at any moment leaves a
valid file. If the job was killed too, ``died`` is missing, because the step was probably not the cause.
"""

from __future__ import annotations

import faulthandler
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

MAX_FAILURES = 3
"""An input is quarantined after this many failures in its step."""
_INTERRUPTIONS_PER_FAILURE = 4
"""This many attempts without a last note, such as when the machine stops, count as one failure."""
_BEGIN, _STOPPED, _DIED = "begin", "stopped", "died"


class CrashJournal:
    """The steps of all attempts at a shard."""

    def __init__(self, path: Path) -> None:
        """Take the path of the journal; the file need not exist."""
        self.path = path

    def size(self) -> int:
        """Return the number of bytes written so far. A larger size shows that a worker started a step."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def record_stop(self) -> None:
        """Record that the attempt finished or was stopped from outside: its last step did not fail."""
        if self.path.is_file():
            self._append(_STOPPED)

    def record_death(self) -> None:
        """Record that the worker died in its last step."""
        if self.path.is_file():
            self._append(_DIED)

    def failure_counts(self) -> Counter[str]:
        """Return the number of failures of each step."""
        lines = self.path.read_text(errors="replace").splitlines() if self.path.is_file() else []
        markers = {_BEGIN, _STOPPED, _DIED}
        last_steps = [
            (step, end) for step, end in pairwise([*lines, _BEGIN]) if step not in markers and end in markers
        ]
        deaths = Counter(step for step, end in last_steps if end == _DIED)
        interruptions = Counter(step for step, end in last_steps if end == _BEGIN)
        return deaths + Counter(
            {s: count // _INTERRUPTIONS_PER_FAILURE for s, count in interruptions.items()}
        )

    def _append(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")


class Attempt(CrashJournal):
    """One attempt at a shard. As a context manager it ends the process if a step takes too long."""

    def __init__(self, path: Path, timeout: float) -> None:
        """Prepare the attempt.

        Args:
            path: the journal.
            timeout: seconds per image after which the process ends itself.
        """
        super().__init__(path)
        self._timeout = timeout

    def __enter__(self) -> Attempt:
        self._failure_counts = self.failure_counts()
        self._append(_BEGIN)
        self._devnull = open(os.devnull, "w")  # noqa: PTH123  (closed on exit)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._devnull.close()
        if kind is not MemoryError:  # the worker exits on it, and the job records a death
            self.record_stop()

    def start_step(self, name: str, images: int = 1) -> bool:
        """Record the start of a step on a number of images; return False if the step is quarantined."""
        if self._failure_counts[name] >= MAX_FAILURES:
            return False
        self._append(name)
        # faulthandler's watchdog ends the process even if a decoder never returns to Python.
        faulthandler.dump_traceback_later(self._timeout * images, exit=True, file=self._devnull)
        return True
