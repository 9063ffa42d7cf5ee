"""Opening regular files. Pipes and devices are refused: reading them may block for ever.

Every reason is an `OSError` with a message, which readers turn into their own error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipnet.errors import PipnetError, one_line


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: missing, not readable, a pipe, a device, or a name that the system refuses.
    """
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # for a folder, open raises the usual error
            raise OSError(errno.EINVAL, "a pipe or device, not a file", str(path))
        return Path(path).open("rb")
    except ValueError as error:  # a null character in the name
        raise OSError(errno.EINVAL, one_line(error), str(path)) from None


def read_file(path: str | os.PathLike[str], max_bytes: int | None = None) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: see `open_file`, or more than ``max_bytes``.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is not None and size > max_bytes:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than the limit of {max_bytes:,}", str(path))
        return file.read()


@contextlib.contextmanager
def typed_errors(kind: type[PipnetError], prefix: str) -> Iterator[None]:
    """Turn whatever a library raises for a malformed file into an error of pipnet.

    Errors of pipnet itself pass. A file that declares more than fits into memory is malformed too.

    Args:
        kind: the type of the error.
        prefix: the start of its message: the file, and what it should be.

    Raises:
        PipnetError: of type ``kind``.
    """
    try:
        yield
    except PipnetError:
        raise
    except MemoryError:
        raise kind(f"{prefix}: it needs more memory than there is") from None
    except Exception as error:  # libraries raise any exception for malformed files
        reason = isinstance(error, OSError) and error.strerror
        if isinstance(error, KeyError):
            reason = f"no {error!s:.80}"
        raise kind(f"{prefix}: {reason or one_line(error, 200)}") from None
