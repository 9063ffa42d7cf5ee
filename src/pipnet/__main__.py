"""The program ``pipnet``, also ``python -m pipnet``.

This module imports nothing heavy before Ctrl-C is handled: the imports of a command take a second, in which
Python would answer with a traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn


def main() -> int:
    """Run the command line of this process and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored signals stay ignored
        signal.signal(signal.SIGINT, _exit_interrupted)
    _open_standard_files()
    try:
        from pipnet.cli import main as run

        return run()
    except KeyboardInterrupt:  # a second one, while the first was reported
        _exit_interrupted()


def _exit_interrupted(*_: object) -> NoReturn:
    """End the process at once, as Ctrl-C does while nothing needs to be closed."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(130)


def _open_standard_files() -> None:
    """Open standard files that the shell closed (``>&-``), so that no file of ours gets their numbers.

    Libraries in C would write their messages into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


if __name__ == "__main__":
    sys.exit(main())
