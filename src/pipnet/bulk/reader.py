"""Reading the pictures of a shard, as bytes, and noticing when the place where they lie is gone."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from pipnet.bulk.inputs import Reference, parquet, table_rows
from pipnet.errors import DataError, ImageError

_LARGEST = 2**30
"""Bytes that a picture's file may have."""


class ImageReader:
    """Reads what references mean. One is made for each shard."""

    def __init__(self, base: Path) -> None:
        """Begin.

        Args:
            base: the folder that references start from, see `common_folder`.
        """
        self._base = base
        self._read: Path | None = None
        self._failed: Path | None = None
        self._table: tuple[str, Iterator[tuple[int, bytes | None]]] | None = None

    def __call__(self, reference: Reference) -> bytes:
        """A picture's content.

        Raises:
            ImageError: this one cannot be read.
            DataError: the tar file or table that it is in is gone.
        """
        path = self._base / reference.file
        if reference.kind == "lost":
            raise ImageError(f"{reference.key}: {reference.name}")
        try:
            if reference.kind == "row":
                content = self._row(path, reference)
            elif reference.kind == "tar":
                content = _part(path, reference)
            else:
                content = _file(path, reference)
        except FileNotFoundError:
            if reference.kind != "file":
                raise DataError(f"{path}: it was there when the work was planned, and is gone") from None
            self._failed = self._failed or path
            raise ImageError(f"{reference.key}: no such file") from None
        except (OSError, ValueError) as error:
            self._failed = self._failed or path
            reason = getattr(error, "strerror", None) or str(error)
            raise ImageError(f"{reference.key}: cannot be read: {' '.join(reason.split()):.160}") from None
        self._read = self._read or path
        return content

    def check(self) -> None:
        """Whether what could not be read failed for itself, and not because a drive or a network is gone.

        Raises:
            DataError: what could be read before cannot be read any more; or nothing could, and the folder
                that all pictures lie below is gone or empty, as where a drive was.
        """
        if self._failed is None:
            return
        path = self._read or self._base
        try:
            if path.is_dir():
                next(path.iterdir())
            else:
                with path.open("rb") as file:
                    file.read(1)
        except StopIteration:
            raise DataError(f"{path}: empty: are the pictures still there? Nothing done is lost") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{path}: {reason}, as others beside it: are the pictures still there? Nothing done is lost"
            ) from None

    def _row(self, path: Path, reference: Reference) -> bytes:
        """The picture of a row. Rows are asked for in their order, so that a table is read once a shard."""
        if self._table is None or self._table[0] != reference.file:
            self._table = reference.file, table_rows(path, reference.name, reference.start)
        try:
            # A table that failed once is at its end: its later rows cannot be read either.
            content = next((value for row, value in self._table[1] if row == reference.start), None)
        except parquet()[0].ArrowException as error:
            raise ValueError(str(error)) from None
        if content is None:
            raise ImageError(f"{reference.key}: no picture in this row, or it cannot be read")
        return content


def _part(path: Path, reference: Reference) -> bytes:
    if reference.size > _LARGEST:
        raise ImageError(f"{reference.key}: {reference.size} bytes, too many for a picture")
    with path.open("rb") as file:
        file.seek(reference.start)
        return file.read(reference.size)


def _file(path: Path, reference: Reference) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
        raise ImageError(f"{reference.key}: not a file")
    if status.st_size > _LARGEST:
        raise ImageError(f"{reference.key}: {status.st_size} bytes, too many for a picture")
    return path.read_bytes()
