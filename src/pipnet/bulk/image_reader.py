"""Reading the encoded images of a shard, and noticing when the drive or network with the images is gone."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from pipnet.bulk.inputs import ImageReference, table_rows
from pipnet.errors import DataError, ImageError, one_line
from pipnet.io.regular_file import open_file

_MAX_BYTES = 2**30
"""Maximum size of an image file."""


class ImageReader:
    """Reads the images that references name. Each shard has its own reader."""

    def __init__(self, base: Path) -> None:
        """Take the folder that references are relative to, see `common_folder`."""
        self._base = base
        self._last_readable: Path | None = None
        self._unreadable: Path | None = None
        self._table: tuple[str, Iterator[tuple[int, bytes | None]]] | None = None

    def __call__(self, reference: ImageReference) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: this image cannot be read.
            DataError: its tar file or table is missing.
        """
        path = self._base / reference.file
        if reference.kind == "unreadable":
            raise ImageError(f"{reference.key}: {reference.name}")
        try:
            if reference.kind == "row":
                content = self._read_row(path, reference)
            elif reference.kind == "tar":
                content = _read_member(path, reference)
            else:
                content = _read_file(path, reference)
        except FileNotFoundError:
            if reference.kind != "file":
                raise DataError(f"{path}: missing, though it existed when the job was planned") from None
            self._unreadable = self._unreadable or path
            raise ImageError(f"{reference.key}: no such file") from None
        except (OSError, ValueError) as error:
            self._unreadable = self._unreadable or path
            reason = getattr(error, "strerror", None) or str(error)
            raise ImageError(f"{reference.key}: cannot be read: {' '.join(reason.split()):.160}") from None
        self._last_readable = self._last_readable or path
        return content

    def check(self) -> None:
        """Check that unreadable images are not due to a missing drive or network.

        Raises:
            DataError: a file that was readable before no longer is; or no image was readable, and the common
                folder of all images is missing or empty, as after a drive was unmounted.
        """
        if self._unreadable is None:
            return
        path = self._last_readable or self._base
        hint = "are the images still available? Finished shards are kept"
        try:
            if path.is_dir():
                next(path.iterdir())
            else:
                with open_file(path) as file:
                    file.read(1)
        except StopIteration:
            raise DataError(f"{path}: empty: {hint}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path}: {reason}, like other files: {hint}") from None

    def _read_row(self, path: Path, reference: ImageReference) -> bytes:
        """Return the image of a row. Rows are requested in order, so a table is read once for a shard."""
        if self._table is None or self._table[0] != reference.file:
            self._table = reference.file, table_rows(path, reference.name, reference.start)
        try:
            # After an error the iterator is exhausted, so the later rows of the table are unreadable too.
            content = next((value for row, value in self._table[1] if row == reference.start), None)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # pyarrow raises any exception for damaged files
            raise ValueError(one_line(error)) from None
        if content is None:
            raise ImageError(f"{reference.key}: no image in this row, or it cannot be read")
        return content


def _read_member(path: Path, reference: ImageReference) -> bytes:
    _check_size(reference, reference.size)
    with open_file(path) as file:
        file.seek(reference.start)
        return file.read(reference.size)


def _read_file(path: Path, reference: ImageReference) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        raise ImageError(f"{reference.key}: not a file")
    _check_size(reference, status.st_size)
    return path.read_bytes()


def _check_size(reference: ImageReference, size: int) -> None:
    if size > _MAX_BYTES:
        raise ImageError(f"{reference.key}: {size} bytes, the maximum for an image is {_MAX_BYTES}")
