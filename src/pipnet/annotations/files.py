"""Text files as every format needs them: read with errors in one line, pictures named from beside them."""

from __future__ import annotations

import os
from pathlib import Path

from pipnet.errors import DataError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without the mark (BOM) that Windows puts before it.

    Raises:
        DataError: missing, empty, not readable or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: byte {error.start}") from None
    if not text.strip():
        raise DataError(f"{path}: empty file")
    return text


def is_folder(path: Path) -> bool:
    """Whether a folder is there, also by a name which the system refuses."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether a file is there, also by a name which the system refuses."""
    try:
        return path.is_file()
    except OSError:
        return False


def relative_name(picture: Path, folder: Path) -> str:
    """How a file in ``folder`` names a picture: the way there from the folder, with forward slashes.

    Folders are resolved, since ``..`` behind a symbolic link would lead elsewhere; the picture is not,
    since the name behind a link may be a checksum.
    """
    absolute = Path(os.path.realpath(picture.parent), picture.name)
    try:
        return Path(os.path.relpath(absolute, os.path.realpath(folder))).as_posix()
    except ValueError:  # another drive of Windows
        return absolute.as_posix()
