"""Files and folders that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipnet.errors import DataError, WriteError


@contextlib.contextmanager
def atomic_write(target: Path, partial: Path | None = None) -> Iterator[Path]:
    """Where to write something, which takes its place when all of it is there.

    Example::

        with atomic_write(path) as partial:
            partial.write_bytes(content)

    Args:
        target: the file, or the folder, which may be there if it is empty; folders above it are made.
        partial: where it is written, on the same disk; beside it if None. Processes that may write the
            same target at the same time need one each.

    Raises:
        WriteError: it cannot be written. Then, and after any other error, what was there remains and
            ``partial`` is gone.
        DataError: a name in what is written is no text.
    """
    if target.name in ("", ".."):
        raise WriteError(f"{target}: cannot be written: not the name of a file")
    place = Path(os.path.realpath(target))  # a link stays one
    if place.exists() and not place.is_file() and not place.is_dir():
        yield from _into_device(target, place)
        return
    partial = partial or place.with_name(place.name + ".partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)  # what a kill left behind
        yield partial
        os.replace(partial, place)
    except UnicodeEncodeError:
        raise DataError(f"{target}: cannot be written: a name in it is not UTF-8 text") from None
    except OSError as error:
        raise WriteError(f"{target}: cannot be written: {_reason(error, place, partial)}") from None
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)


def _into_device(target: Path, place: Path) -> Iterator[Path]:
    """A device or a pipe takes what comes: it must not be replaced by a file."""
    try:
        yield place
    except OSError as error:
        raise WriteError(f"{target}: cannot be written: {_reason(error, place, place)}") from None


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """While something is brought to its end: Ctrl-C, SIGTERM and SIGHUP have their effect only afterwards."""
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        ending = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
        before = {number: signal.getsignal(number) for number in ending}
        before = {number: how for number, how in before.items() if how not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, how in before.items():
            signal.signal(number, how)
    for number in came[:1]:
        signal.raise_signal(number)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all, and the folders above it.

    Raises:
        WriteError: it cannot be written.
        DataError: a name in it is no text.
    """
    with atomic_write(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def make_folder(folder: Path) -> None:
    """A folder to write into, and those above it.

    Raises:
        WriteError: it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be made: {error.strerror}") from None


def _reason(error: OSError, place: Path, partial: Path) -> str:
    """Why, and where that is in another file, such as one that was read meanwhile, in which."""
    reason = error.strerror or str(error)
    known = (None, str(place), str(partial), str(place.parent))
    return reason if error.filename in known else f"{error.filename}: {reason}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
