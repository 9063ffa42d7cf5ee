"""What was begun: a picture that kills or hangs its process is found by it, and given up the third time.

Before each step a worker appends a line to a file of the shard; when it dies, the last line says in what
step, and the job, which sees it die, adds that it did. No line is ever changed, so a kill at any moment
leaves a sound file. Where the job was killed too, the step it was in is hardly to blame.
"""

from __future__ import annotations

import faulthandler
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

STRIKES = 3
"""After this many deaths in the same step it is given up."""
_UNSEEN = 4
"""So many deaths that nobody saw, as of a whole machine, count as one."""
_BEGIN, _STOPPED, _DIED = "begin", "stopped", "died"


class Marks:
    """The steps of all attempts at a shard."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is written yet."""
        self.path = path

    def size(self) -> int:
        """Bytes written so far: more of them say that a worker came to do something."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def stopped(self) -> None:
        """The attempt came to its end, or was ended from outside: the step it was in is not to blame."""
        if self.path.is_file():
            self._append(_STOPPED)

    def died(self) -> None:
        """The process of the attempt ended in the middle of it."""
        if self.path.is_file():
            self._append(_DIED)

    def strikes(self) -> Counter[str]:
        """How many attempts ended in each step."""
        lines = self.path.read_text(errors="replace").splitlines() if self.path.is_file() else []
        ends = {_BEGIN, _STOPPED, _DIED}
        last = [(step, end) for step, end in pairwise([*lines, _BEGIN]) if step not in ends and end in ends]
        seen = Counter(step for step, end in last if end == _DIED)
        unseen = Counter(step for step, end in last if end == _BEGIN)
        return seen + Counter({step: count // _UNSEEN for step, count in unseen.items()})

    def _append(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")


class Attempt(Marks):
    """One attempt at a shard: as a context, it watches that no step takes too long."""

    def __init__(self, path: Path, timeout: float) -> None:
        """Prepare.

        Args:
            path: the marks' file.
            timeout: seconds for each picture after which the process ends itself in the middle of a step.
        """
        super().__init__(path)
        self._timeout = timeout

    def __enter__(self) -> Attempt:
        self._before = self.strikes()
        self._append(_BEGIN)
        self._nowhere = open(os.devnull, "w")  # noqa: PTH123  (closed on leaving)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._nowhere.close()
        if kind is not MemoryError:  # which counts as a death, and is one to come
            self.stopped()

    def step(self, name: str, pictures: int = 1) -> bool:
        """Note that a step on so many pictures begins; False if it ended badly too often, and is left out."""
        if self._before[name] >= STRIKES:
            return False
        self._append(name)
        # Python's own watchdog ends the process also where a decoder never gives control back.
        faulthandler.dump_traceback_later(self._timeout * pictures, exit=True, file=self._nowhere)
        return True
