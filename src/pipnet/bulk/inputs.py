"""What is annotated: folders, lists, tar shards and Parquet tables, as one row of references to pictures.

A reference is small, and nothing is decoded to make it. Their order depends on the input alone.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipnet.annotations.files import is_folder
from pipnet.errors import DataError, MissingExtraError
from pipnet.io.discovery import files_below
from pipnet.io.image import IMAGE_SUFFIXES, NOT_READ

_CONTAINERS = {".txt", ".tar", ".parquet"}
"""Files that name or hold pictures."""
_OTHER_KIND = "a kind of picture that cannot be read: turn it into JPEG or PNG"
_COLUMNS = ("image", "path")
"""Where pictures are looked for in a Parquet table, unless told otherwise."""
_SURROGATES = "surrogateescape"
"""How Python spells names of files that are not UTF-8."""


class Reference(NamedTuple):
    """Where a picture is."""

    kind: Literal["file", "tar", "row", "lost"]
    """A file; a part of a tar file; a row of a Parquet table; a picture of a kind that cannot be read, or a
    source of which the rest cannot be."""
    file: str
    """Its path from the sources' common folder, absolute where it lies elsewhere."""
    name: str = ""
    """The name in the tar file; the column of the table; why it is lost."""
    start: int = 0
    """The first byte in the tar file; the row of the table."""
    size: int = 0
    """Bytes in the tar file."""

    @property
    def key(self) -> str:
        """What the picture is called in the labels."""
        within = {"tar": f"/{self.name}", "row": f"#{self.start}"}.get(self.kind, "")
        return (self.file + within).encode("utf-8", _SURROGATES).decode("utf-8", "backslashreplace")


def find_sources(names: Sequence[str]) -> list[Path]:
    """The folders and files that names, globs and braces such as ``{000..099}.tar`` mean.

    Raises:
        DataError: nothing has such a name, or it is no folder, list, tar file, table or picture.
    """
    sources = []
    for name in names:
        if not name:  # which would mean the folder that one is in
            raise DataError("an empty name is no folder and no file")
        exists = os.path.lexists(name)
        spellings = [name] if exists else list(_braces(name))
        found = [
            match
            for spelling in spellings
            for match in (
                sorted(glob.glob(spelling, recursive=True))  # noqa: PTH207  (the pattern may be absolute)
                if glob.has_magic(spelling) and not exists
                else [spelling]
            )
        ]
        if not found:
            raise DataError(f"{name}: nothing matches")
        sources += [Path(os.path.abspath(path)) for path in found]  # noqa: PTH100  (links stay)
    for path in sources:
        if not os.path.lexists(path):
            raise DataError(f"{path}: no such file or folder")
        if not is_folder(path) and path.suffix.lower() not in IMAGE_SUFFIXES | _CONTAINERS:
            raise DataError(f"{path}: not a folder, a .txt list, a .tar or .parquet file, or a picture")
    return sources


def common_folder(sources: Sequence[Path]) -> Path:
    """The folder from which pictures are named: a single folder itself, else what all sources share."""
    return Path(os.path.commonpath([path if is_folder(path) else path.parent for path in sources]))


def find_pictures(sources: Sequence[Path], base: Path, column: str | None) -> Iterator[Reference]:
    """The pictures of all sources. Of a folder only the names of one subfolder are held at a time.

    Args:
        sources: see `find_sources`.
        base: see `common_folder`.
        column: of Parquet tables: bytes, Hugging Face's ``{bytes, path}``, or paths; ``image`` or ``path``
            if None.

    Raises:
        DataError: a folder without pictures, or one that cannot be read; a list or a table that is none.
        MissingExtraError: pyarrow is not installed.
    """
    for source in sources:
        if is_folder(source):
            yield from _in_folder(source, base)
        elif source.suffix.lower() == ".txt":
            yield from _in_list(source, base)
        elif source.suffix.lower() == ".tar":
            yield from _in_tar(source, base)
        elif source.suffix.lower() == ".parquet":
            yield from _in_table(source, base, column)
        else:
            yield Reference("file", _from(base, source))


def _in_folder(folder: Path, base: Path) -> Iterator[Reference]:
    found = False
    for path in files_below(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found = True
            yield Reference("file", _from(base, path))
        elif path.suffix.lower() in NOT_READ:
            found = True
            yield Reference("lost", _from(base, path), _OTHER_KIND)
    if not found:
        raise DataError(f"{folder}: no pictures in it; tar or Parquet files are named: '{folder}/*.tar'")


def _in_list(path: Path, base: Path) -> Iterator[Reference]:
    """A picture a line, relative to the list; read line by line, it may be long."""
    found = False
    try:
        with path.open(encoding="utf-8-sig", errors=_SURROGATES) as lines:
            for line in lines:
                if line.strip():
                    found = True
                    yield Reference("file", _from(base, path.parent / line.rstrip("\r\n")))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not found:
        raise DataError(f"{path}: no pictures in this list")


def _in_tar(path: Path, base: Path) -> Iterator[Reference]:
    """The pictures in a tar file; only its heads are read. Where it is damaged, what comes before is kept."""
    file = _from(base, path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # otherwise it remembers all of them
                ending = Path(member.name).suffix.lower() if member.isreg() else ""
                if ending in IMAGE_SUFFIXES:
                    yield Reference("tar", file, member.name, member.offset_data, member.size)
                elif ending in NOT_READ:
                    yield Reference("lost", f"{file}/{member.name}", _OTHER_KIND)
            end = tar.offset
        with path.open("rb") as content:
            content.seek(end)
            if content.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                yield Reference("lost", file, f"damaged or cut off after {end} bytes")
    except (tarfile.TarError, OSError) as error:
        yield Reference("lost", file, f"not a whole tar file: {' '.join(str(error).split())}")


def _in_table(path: Path, base: Path, column: str | None) -> Iterator[Reference]:
    """The rows of a Parquet table, or the files that its paths name."""
    pa, pq = parquet()
    file = _from(base, path)
    try:
        with pq.ParquetFile(path) as table:
            schema, rows = table.schema_arrow, table.metadata.num_rows
            name = _column(path, schema.names, column)
            kind = schema.field(name).type
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                for batch in table.iter_batches(columns=[name], use_threads=False):
                    for value in batch.column(0).to_pylist():
                        yield (
                            Reference("file", _from(base, path.parent / value))
                            if value
                            else Reference("lost", file, "a row without a path")
                        )
                return
    except (OSError, pa.ArrowException) as error:
        yield Reference("lost", file, f"not a whole Parquet file: {' '.join(str(error).split()):.120}")
        return
    packed = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not (packed or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{path}: column {name!r} holds {kind}, neither pictures nor paths")
    for row in range(rows):
        yield Reference("row", file, name, row)


def table_rows(path: Path, column: str, start: int) -> Iterator[tuple[int, bytes | None]]:
    """The pictures of a Parquet table from a row on, with their numbers; read bit by bit.

    Raises:
        OSError: it cannot be read, or is damaged.
        pyarrow.ArrowException: it is damaged.
    """
    _, pq = parquet()
    # A buffer keeps pyarrow from reading a whole group of rows, which may be a gigabyte.
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
    """Pyarrow and its Parquet part.

    Raises:
        MissingExtraError: not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "bulk") from None
    return pyarrow, pyarrow.parquet


def _column(path: Path, names: Sequence[str], wanted: str | None) -> str:
    for name in (wanted,) if wanted else _COLUMNS:
        if name in names:
            return name
    raise DataError(f"{path}: which --column holds the pictures? There are {', '.join(names):.200}")


def _from(base: Path, path: Path) -> str:
    """A path as references spell it."""
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def _braces(name: str) -> Iterator[str]:
    """The names that ``{a,b}`` and ``{000..099}`` stand for, as shells and WebDataset write them."""
    parts = re.split(r"\{([^{}]*)\}", name)
    choices = [_choices(part) if i % 2 else [part] for i, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))


def _choices(text: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if numbers:
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") else 0
        return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    return text.split(",") if "," in text else [f"{{{text}}}"]
