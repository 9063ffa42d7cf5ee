"""Atomic writes: a file or folder appears complete or not at all, even if the process is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipnet.errors import DataError, WriteError


@contextlib.contextmanager
def atomic_write(target: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces the target at the end of the block.

    Example::

        with atomic_write(path) as temporary:
            temporary.write_bytes(content)

    The target gets the default permissions (umask), even if the temporary file has others.

    Args:
        target: the file, or the folder, which may exist if it is empty. Parent folders are created.
        temporary: the temporary path, on the same disk; ``target`` with ".partial" appended if None.
            Processes that may write the same target at the same time need different ones.

    Raises:
        WriteError: it cannot be written. After this and any other error the previous version of the target is
            kept and ``temporary`` is removed.
        DataError: a name in the content cannot be encoded as UTF-8.
    """
    if target.name in ("", "..") or "\0" in str(target):
        raise WriteError(f"{target}: cannot be written: not a file name")
    place = Path(os.path.realpath(target))  # a symbolic link is kept
    if place.exists() and not place.is_file() and not place.is_dir():
        yield from _write_device(target, place)
        return
    temporary = temporary or place.with_name(place.name + ".partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)  # left behind by a killed process
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        if temporary.is_file() and temporary.stat().st_mode != mode:
            temporary.chmod(mode)
        os.replace(temporary, place)
    except UnicodeEncodeError:
        raise DataError(f"{target}: cannot be written: a name in it is not UTF-8 text") from None
    except OSError as error:
        raise WriteError(f"{target}: cannot be written: {_reason(error, place, temporary)}") from None
    finally:
        with contextlib.suppress(OSError):
            _remove(temporary)


def _write_device(target: Path, place: Path) -> Iterator[Path]:
    """Yield a device or pipe itself: it must not be replaced by a file."""
    try:
        yield place
    except OSError as error:
        raise WriteError(f"{target}: cannot be written: {_reason(error, place, place)}") from None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically, and create its parent folders.

    Raises:
        WriteError: it cannot be written.
        DataError: the text cannot be encoded as UTF-8.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def check_writable(path: Path) -> None:
    """Create the folder of a file that is written later, and refuse a path that cannot be written.

    Raises:
        WriteError: it is a folder, or its folder cannot be created or written to.
    """
    if path.is_dir():
        raise WriteError(f"{path}: cannot be written: it is a folder")
    make_folder(path.parent)
    with contextlib.suppress(_UnusedError), atomic_write(path) as temporary:
        temporary.touch()
        raise _UnusedError


class _UnusedError(Exception):
    """Ends an atomic write without its file."""


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        WriteError: it cannot be created, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be made: {error.strerror}") from None
    except ValueError as error:  # a null character, or one that the file system cannot encode
        raise WriteError(f"{folder}: cannot be made: {error}") from None


def _reason(error: OSError, place: Path, temporary: Path) -> str:
    """Return the reason; with the file name if another file failed, such as an input read in the block."""
    reason = error.strerror or str(error)
    known = (None, str(place), str(temporary), str(place.parent))
    return reason if error.filename in known else f"{error.filename}: {reason}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
