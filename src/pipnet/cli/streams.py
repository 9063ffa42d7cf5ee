"""Standard output and standard error that may be closed, full, or of an encoding without some characters."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

from rich.console import Console
from rich.segment import Segment, Segments
from rich.table import Table

from pipnet.errors import printable


class OutputStream:
    """Standard output or standard error, which are replaced by nothing once they cannot be written.

    Otherwise Python would try again when it ends, and complain.
    """

    def __init__(self, stream: Any, is_required: bool) -> None:
        """Wrap a stream; ``is_required``: whether an error is raised, once."""
        self._stream, self._is_required = stream, is_required
        self.error: OSError | None = None
        """Why the stream could not be written."""

    def write(self, text: str) -> int:
        """Write text, and return its length."""
        with self._handle_errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._handle_errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _handle_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            is_first, self.error = self.error is None, error
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            if self._is_required and is_first:
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def standard_streams() -> Iterator[OutputStream]:
    """Yield standard output, as a stream whose errors are known; drop messages that cannot be written.

    Characters that the encoding of standard output does not have are written as escapes. Where the shell
    closed standard output (``>&-``), results are dropped.
    """
    with contextlib.ExitStack() as stack:
        if sys.stdout is None:
            output = OutputStream(stack.enter_context(open(os.devnull, "w")), True)  # noqa: PTH123
        else:
            output = OutputStream(sys.stdout, True)
            if hasattr(sys.stdout, "reconfigure"):
                stack.callback(_set_errors, sys.stdout, sys.stdout.errors)
                _set_errors(sys.stdout, "backslashreplace")
        stack.enter_context(contextlib.redirect_stdout(cast("IO[str]", output)))
        if sys.stderr is not None:
            messages = OutputStream(sys.stderr, False)
            stack.enter_context(contextlib.redirect_stderr(cast("IO[str]", messages)))
        yield output


def _set_errors(stream: Any, errors: str | None) -> None:
    with contextlib.suppress(OSError):  # it flushes the stream
        stream.reconfigure(errors=errors)


def print_table(table: Table) -> None:
    """Print a table on standard error. Text in it is not taken for markup, and is safe to print."""
    console = Console(stderr=True, markup=False, highlight=False)
    lines = console.render_lines(table, pad=False, new_lines=True)
    safe = [
        Segment("\n" if text == "\n" else printable(text), style) for line in lines for text, style, _ in line
    ]
    console.print(Segments(safe), end="")
