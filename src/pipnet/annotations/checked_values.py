"""Checked values from files of unknown origin: each function returns a valid value or raises `DataError`.

``where`` is the start of the error message: the file and the place in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipnet.errors import DataError, one_line
from pipnet.io.text import read_text

MAX_COORDINATE = 1_000_000
"""No image has this many pixels on a side; larger coordinates are errors."""


def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises:
        DataError: it cannot be read, is not JSON, or is nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None
    except ValueError as error:  # also numbers of thousands of digits
        raise DataError(f"{path}: not JSON, or cut off: {one_line(error)}") from None


def as_number(value: object, where: str) -> float:
    """Return a finite number in the range of coordinates, in pixels."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{where}: expected a number, not {quoted(value)}")
    if not abs(value) <= MAX_COORDINATE:  # also true for NaN
        raise DataError(f"{where}: expected a finite number of pixels, not {quoted(value)}")
    return float(value)


def parse_number(text: str, where: str) -> float:
    """Return `as_number` of a text."""
    try:
        value = float(text) if "_" not in text else None  # only Python reads 1_0 as ten
    except ValueError:
        value = None
    return as_number(text if value is None else value, where)


def as_numbers(value: object, where: str) -> list[float]:
    """Return a list of numbers, see `as_number`."""
    return [as_number(item, where) for item in as_list(value, where)]


def as_text(value: object, where: str) -> str:
    """Return a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected a text, not {quoted(value)}")
    return value


def as_object(value: object, where: str) -> Mapping[str, object]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object {{...}}, not {quoted(value)}")
    return value


def as_list(value: object, where: str) -> list[object]:
    """Return a JSON array."""
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list [...], not {quoted(value)}")
    return value


def objects(
    value: object, where: str, plural: str, singular: str
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the objects of a list, each with its place for error messages: ``WHERE: SINGULAR 1``."""
    for i, item in enumerate(as_list(value, f"{where}: {plural}"), start=1):
        place = f"{where}: {singular} {i}"
        yield place, as_object(item, place)


def as_id(value: object, where: str) -> int | float | str:
    """Return an identifier: a number or a text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise DataError(f"{where}: expected a number or a text, not {quoted(value)}")
    return value


def quoted(value: object) -> str:
    """Return a value as it is quoted in an error message: one line of at most 80 characters."""
    if value is None:
        return "a missing value"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
