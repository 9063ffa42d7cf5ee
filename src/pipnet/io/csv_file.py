"""Reading and writing CSV files, with errors that name the file and the line.

Spreadsheets run text that begins with ``=``, ``+``, ``-`` or ``@`` as a formula. An apostrophe is written
before such text, as OWASP recommends ("CSV Injection"), and `CsvReader` removes it. Numbers stay as they are.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipnet.errors import DataError
from pipnet.io.atomic import atomic_write
from pipnet.io.text import read_text

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How text begins that is written with an apostrophe: as a formula, or as one with apostrophes before it."""
_QUOTED_FORMULA = re.compile(r"'+[=+\-@\t\r]")


class CsvReader:
    """The rows of a UTF-8 CSV file below its header; commas, semicolons and tabs are recognized.

    The apostrophe before text that spreadsheets would take for a formula is removed.

    Iteration yields ``PATH:LINE`` and the cells of each row that is not blank.
    """

    def __init__(self, path: Path) -> None:
        """Read the file and its header.

        Raises:
            DataError: missing, empty, not UTF-8 or not CSV.
        """
        text = read_text(path)
        header = text.splitlines()[0]
        self.path = path
        self.delimiter = max(",;\t", key=header.count)
        self._reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True)
        self.header: list[str] = self._next() or []
        """The titles of the columns."""

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the place and the cells of each row.

        Raises:
            DataError: not CSV.
        """
        while (cells := self._next()) is not None:
            if any(cell.strip() for cell in cells):
                yield f"{self.path}:{self._reader.line_num}", cells

    def records(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the place and the cells of each row by title; missing cells are empty.

        Raises:
            DataError: not CSV.
        """
        for where, cells in self:
            missing = [""] * (len(self.header) - len(cells))
            yield where, dict(zip(self.header, cells + missing, strict=False))

    def _next(self) -> list[str] | None:
        try:
            cells = next(self._reader, None)
            return cells and [cell[1:] if _QUOTED_FORMULA.match(cell) else cell for cell in cells]
        except csv.Error as error:
            raise DataError(f"{self.path}:{self._reader.line_num}: not CSV: {error}") from None


def write_csv_file(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically, in UTF-8 and with commas; text like a formula gets an apostrophe.

    Raises:
        WriteError: the file cannot be written.
        DataError: a name is not valid text.
    """
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        # The writer quotes cells with characters of its line end: also those with \r, which ends lines too.
        line = io.StringIO(newline="")
        writer = csv.writer(line, lineterminator="\r\n")
        for row in itertools.chain([header], rows):
            line.seek(0)
            line.truncate()
            writer.writerow(map(_without_formula, row))
            file.write(line.getvalue().removesuffix("\r\n") + "\n")


def _without_formula(cell: object) -> object:
    """Return a cell with an apostrophe before text that spreadsheets would take for a formula."""
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _is_number(cell):
        return cell
    return f"'{cell}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
