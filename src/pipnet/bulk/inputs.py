"""The inputs of a job: folders, lists, tar files and Parquet tables, as one sequence of references to images.

References are small, and no image is decoded to make them. Their order depends on the inputs alone.
"""

from __future__ import annotations

import glob
import io
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from pipnet.errors import DataError, MissingExtraError, PipnetError, one_line
from pipnet.io.discovery import files_below
from pipnet.io.image import IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES
from pipnet.io.regular_file import open_file
from pipnet.io.text import is_folder

_CONTAINERS = {".txt", ".tar", ".parquet"}
"""Suffixes of files that name or contain images."""
_MAX_SPELLINGS = 1_000_000
"""Maximum number of names that braces stand for."""
_MAX_PATHS = 100
"""Maximum number of paths in a byte of a Parquet table, by compression. An image takes more than a byte."""
_UNSUPPORTED = "unsupported image format: convert it to JPEG or PNG"
_COLUMNS = ("image", "path")
"""Columns of a Parquet table that are tried if none is named."""
_SURROGATES = "surrogateescape"
"""How Python represents file names that are not UTF-8."""


ReferenceKind = Literal["file", "tar", "row", "unreadable"]


class ImageReference(NamedTuple):
    """Where an image is."""

    kind: ReferenceKind
    """A file; a member of a tar file; a row of a Parquet table; or an image of an unsupported format, or a
    damaged container."""
    file: str
    """Path relative to the inputs' common folder; absolute if it is not below that folder."""
    name: str = ""
    """Name in the tar file; column of the table; why it is unreadable."""
    start: int = 0
    """First byte in the tar file; row of the table."""
    size: int = 0
    """Number of bytes in the tar file."""

    @property
    def key(self) -> str:
        """Name of the image in the labels."""
        within = {"tar": f"/{self.name}", "row": f"#{self.start}"}.get(self.kind, "")
        return (self.file + within).encode("utf-8", _SURROGATES).decode("utf-8", "backslashreplace")


def find_inputs(names: Sequence[str]) -> list[Path]:
    """Return the folders and files of names, glob patterns and braces such as ``{000..099}.tar``.

    Raises:
        DataError: nothing matches a name, or it is not a folder, list, tar file, table or image.
    """
    inputs: list[Path] = []
    for name in names:
        if not name:  # Path("") would be the current folder
            raise DataError("an input is an empty name: name a folder or a file")
        if "\0" in name:
            raise DataError(f"{name:.255}: a file name has no null character")
        exists = os.path.lexists(name)
        matches: list[str] = []
        for spelling in [name] if exists else _expand_braces(name):
            if glob.has_magic(spelling) and not exists:
                matches += sorted(glob.glob(spelling, recursive=True))  # noqa: PTH207  (may be absolute)
            else:
                matches.append(spelling)
        if not matches:
            raise DataError(f"{name:.255}: no file matches")
        inputs += [Path(os.path.abspath(match)) for match in matches]  # noqa: PTH100  (keeps links)
    for path in inputs:
        if not os.path.lexists(path):
            raise DataError(f"{path!s:.255}: no such file or folder")
        if not is_folder(path) and path.suffix.lower() not in IMAGE_SUFFIXES | _CONTAINERS:
            raise DataError(f"{path!s:.255}: not a folder, a .txt list, a .tar or .parquet file, or an image")
    return inputs


def common_folder(inputs: Sequence[Path]) -> Path:
    """Return the folder that references are relative to: a single folder itself, else the common parent."""
    return Path(os.path.commonpath([path if is_folder(path) else path.parent for path in inputs]))


def find_references(inputs: Sequence[Path], base: Path, column: str | None) -> Iterator[ImageReference]:
    """Yield the images of all inputs. In memory are the file names of one folder at a time.

    Args:
        inputs: see `find_inputs`.
        base: see `common_folder`.
        column: the column of Parquet tables with images as bytes, Hugging Face's ``{bytes, path}``, or paths;
            ``image`` or ``path`` if None.

    Raises:
        DataError: a folder or list has no images or cannot be read, or a table has no such column.
        MissingExtraError: pyarrow is not installed.
    """
    for path in inputs:
        suffix = path.suffix.lower()
        if is_folder(path):
            yield from _in_folder(path, base)
        elif suffix == ".txt":
            yield from _in_list(path, base)
        elif suffix == ".tar":
            yield from _in_tar(path, base)
        elif suffix == ".parquet":
            yield from _in_table(path, base, column)
        else:
            yield ImageReference("file", _relative(base, path))


def _in_folder(folder: Path, base: Path) -> Iterator[ImageReference]:
    empty = True
    for path in files_below(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            empty = False
            yield ImageReference("file", _relative(base, path))
        elif path.suffix.lower() in UNSUPPORTED_SUFFIXES:
            empty = False
            yield ImageReference("unreadable", _relative(base, path), _UNSUPPORTED)
    if empty:
        raise DataError(f"{folder}: no images in it; name tar or Parquet files themselves: '{folder}/*.tar'")


def _in_list(path: Path, base: Path) -> Iterator[ImageReference]:
    """Yield the images of a list: a path a line, relative to the list."""
    empty = True
    try:
        with open_file(path) as file, io.TextIOWrapper(file, "utf-8-sig", _SURROGATES) as lines:
            for line in lines:
                if line.strip():
                    empty = False
                    yield ImageReference("file", _relative(base, path.parent / line.rstrip("\r\n")))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if empty:
        raise DataError(f"{path}: no images in this list")


def _in_tar(path: Path, base: Path) -> Iterator[ImageReference]:
    """Yield the images of a tar file from its headers. Of a damaged file, the first part is used."""
    file = _relative(base, path)
    try:
        with open_file(path) as content, tarfile.open(fileobj=_BoundedReader(content), mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # otherwise it keeps all of them in memory
                if member.size < 0 or tar.offset <= member.offset:
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                name = Path(member.name)
                suffix = name.suffix.lower() if member.isreg() and not name.name.startswith(".") else ""
                if suffix and member.issparse():
                    yield ImageReference("unreadable", f"{file}/{member.name}", "a sparse file in a tar file")
                elif suffix in IMAGE_SUFFIXES:
                    yield ImageReference("tar", file, member.name, member.offset_data, member.size)
                elif suffix in UNSUPPORTED_SUFFIXES:
                    yield ImageReference("unreadable", f"{file}/{member.name}", _UNSUPPORTED)
            end = tar.offset
            content.seek(end)
            if content.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                yield ImageReference("unreadable", file, f"damaged tar file: cut off after {end} bytes")
    except MemoryError:
        raise
    except Exception as error:  # tarfile raises any exception for malformed headers
        yield ImageReference("unreadable", file, f"damaged tar file: {one_line(error)}")


class _BoundedReader(io.RawIOBase):
    """A file that is read up to its end only, whatever number of bytes a header declares."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, os.fstat(file.fileno()).st_size

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        if size < 0:
            raise ValueError("a header with a negative size")
        return self._file.read(min(size, max(self._size - self._file.tell(), 0)))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


def _in_table(path: Path, base: Path, column: str | None) -> Iterator[ImageReference]:
    """Yield the rows of a Parquet table, or the files that its paths name."""
    pa, pq = parquet()
    file = _relative(base, path)
    try:
        with open_file(path) as content, pq.ParquetFile(content) as table:
            schema, size = table.schema_arrow, path.stat().st_size
            name = _image_column(path, schema.names, column)
            kind = schema.field(name).type
            is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            rows = _number_of_rows(table, size * _MAX_PATHS if is_text else size)
            if is_text:
                for batch in table.iter_batches(columns=[name], use_threads=False):
                    for value in batch.column(0).to_pylist():
                        yield (
                            ImageReference("file", _relative(base, path.parent / value))
                            if value
                            else ImageReference("unreadable", file, "a row without a path")
                        )
                return
    except (MemoryError, PipnetError):
        raise
    except Exception as error:  # pyarrow raises any exception for damaged files
        yield ImageReference("unreadable", file, f"damaged Parquet file: {one_line(error, 120)}")
        return
    has_bytes = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (has_bytes or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{path}: column {name!r} has the type {kind}, neither images nor paths")
    for row in range(rows):
        yield ImageReference("row", file, name, row)


def _number_of_rows(table: Any, limit: int) -> int:
    """Return the number of rows that a Parquet table declares.

    Raises:
        ValueError: more rows than the file can hold, or other numbers in its row groups.
    """
    metadata = table.metadata
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows or metadata.num_rows > limit:
        raise ValueError(f"{metadata.num_rows:,} rows declared, it can hold at most {limit:,}")
    return sum(rows)


def table_rows(path: Path, column: str, start: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the images of a Parquet table from a row on, with their row numbers, in small batches.

    Raises:
        OSError: the table cannot be read, or is damaged.
        pyarrow.ArrowException: the table is damaged.
    """
    _, pq = parquet()
    # A buffer keeps pyarrow from reading a whole row group, which may be a gigabyte.
    with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as table:
        row = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if row + rows <= start:
                row += rows
                continue
            for batch in table.iter_batches(8, row_groups=[group], columns=[column], use_threads=False):
                for number in range(max(start, row), row + batch.num_rows):
                    value = batch.column(0)[number - row].as_py()
                    yield number, value.get("bytes") if isinstance(value, dict) else value
                row += batch.num_rows


def parquet() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "bulk") from None
    return pyarrow, pyarrow.parquet


def _image_column(path: Path, names: Sequence[str], requested: str | None) -> str:
    for name in (requested,) if requested else _COLUMNS:
        if name in names:
            return name
    raise DataError(f"{path}: name the --column with the images, one of {', '.join(names):.200}")


def _relative(base: Path, path: Path) -> str:
    """Return a path as references spell it."""
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def _expand_braces(name: str) -> Iterator[str]:
    """Yield the names that ``{a,b}`` and ``{000..099}`` stand for in shells and WebDataset."""
    parts = re.split(r"\{([^{}]*)\}", name)
    choices = [_brace_choices(part) if i % 2 else [part] for i, part in enumerate(parts)]
    if math.prod(map(len, choices)) > _MAX_SPELLINGS:
        raise DataError(f"{name:.80}: stands for more than {_MAX_SPELLINGS:,} names")
    return ("".join(chosen) for chosen in product(*choices))


def _brace_choices(text: str) -> Sequence[str]:
    numbers = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", text)
    if numbers:
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") else 0
        if int(last) - int(first) >= _MAX_SPELLINGS:
            raise DataError(f"{{{text}}}: stands for more than {_MAX_SPELLINGS:,} names")
        return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    return text.split(",") if "," in text else [f"{{{text}}}"]
