"""Signals that end a program: defer them while a file is committed, or exit cleanly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_TERMINATION_SIGNALS = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
"""Sent by ``timeout``, service managers and a closed terminal. Windows has no SIGHUP."""


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP until the end of the block. Ignored signals stay ignored."""
    received: list[int] = []
    signals = {signal.SIGINT, *_TERMINATION_SIGNALS}
    with _handle(signals, received.append, lambda handler: handler not in (None, signal.SIG_IGN)):
        yield
    for number in received[:1]:
        signal.raise_signal(number)


@contextlib.contextmanager
def record_interrupts() -> Iterator[list[int]]:
    """Yield a list that Ctrl-C appends to before it raises `KeyboardInterrupt`, unless it is ignored.

    Some libraries turn the exception into one of their own, such as an `ImportError` during their import.
    """
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        raise KeyboardInterrupt

    with _handle({signal.SIGINT}, interrupt, lambda handler: handler not in (None, signal.SIG_IGN)):
        yield received


@contextlib.contextmanager
def exit_on_signals(notify: Callable[[str], None]) -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `SystemExit`, code 128 plus the signal's number, so that files are closed.

    Signals that already have a handler or are ignored, for example by ``nohup``, are left alone.

    Args:
        notify: is called with the message for the user, such as "ended by SIGTERM".
    """
    received: list[int] = []

    def exit_once(number: int) -> None:
        received.append(number)
        if len(received) == 1:  # a terminal may send it twice
            raise SystemExit(128 + number)

    with _handle(_TERMINATION_SIGNALS, exit_once, lambda handler: handler is signal.SIG_DFL):
        try:
            yield
        except (SystemExit, OSError):
            if not received:
                raise
            with contextlib.suppress(OSError):  # the terminal may be closed
                notify(f"ended by {signal.Signals(received[0]).name}")
            raise SystemExit(128 + received[0]) from None


@contextlib.contextmanager
def _handle(
    signals: set[signal.Signals], function: Callable[[int], None], replaces: Callable[[Any], bool]
) -> Iterator[None]:
    """Call a function on signals, if it replaces their current handlers; those are restored at the end.

    Outside the main thread, where handlers cannot be set, it does nothing.
    """
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in signals}
        handlers = {number: handler for number, handler in handlers.items() if replaces(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: function(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
