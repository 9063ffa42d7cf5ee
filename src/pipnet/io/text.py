"""Text files with errors in one line, names of images relative to a file, and numbers in sentences."""

from __future__ import annotations

import os
from pathlib import Path

from pipnet.errors import DataError
from pipnet.io.regular_file import read_file


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark (BOM).

    Raises:
        DataError: missing, empty, not readable or not UTF-8.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: byte {error.start}") from None
    if not text.strip():
        raise DataError(f"{path}: empty file")
    return text


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless the number is 1: "1 face", "1,200 faces"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_folder(path: Path) -> bool:
    """Return whether a folder exists; False also for names that the system refuses."""
    return os.path.isdir(path)  # noqa: PTH112  (pathlib raises for such names)


def is_file(path: Path) -> bool:
    """Return whether a file exists; False also for names that the system refuses."""
    return os.path.isfile(path)  # noqa: PTH113  (pathlib raises for such names)


def relative_name(image: Path, folder: Path) -> str:
    """Return the path of an image relative to a folder, with forward slashes.

    Folders are resolved, because ``..`` behind a symbolic link leads to another place. The image itself is
    not resolved, because the name behind a link may be a checksum.
    """
    absolute = Path(os.path.realpath(image.parent), image.name)
    try:
        return Path(os.path.relpath(absolute, os.path.realpath(folder))).as_posix()
    except ValueError:  # another drive of Windows
        return absolute.as_posix()
