"""Values out of files that anybody may have written: each is what it should be, or a `DataError`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipnet.annotations.files import read_text
from pipnet.errors import DataError

FARTHEST = 1_000_000
"""No picture has this many pixels on a side; what is farther out is damage."""


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        DataError: it cannot be read, or is not JSON, or nested without end.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None
    except ValueError as error:  # also a number of thousands of digits
        raise DataError(f"{path}: not JSON, or cut off: {error}") from None


def number(value: object, where: str) -> float:
    """A finite number of the size of a coordinate, given as one.

    Raises:
        DataError: it is not; ``where`` is named.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{where}: expected a number, not {shown(value)}")
    if not abs(value) <= FARTHEST:  # NaN is in no order
        raise DataError(f"{where}: expected a finite number of pixels, not {shown(value)}")
    return float(value)


def number_in_text(text: str, where: str) -> float:
    """`number`, out of text.

    Raises:
        DataError: it is not a number; ``where`` is named.
    """
    try:
        value = float(text) if "_" not in text else None  # Python alone reads 1_0 as ten
    except ValueError:
        value = None
    return number(text if value is None else value, where)


def words(value: object, where: str) -> str:
    """A text that is not blank.

    Raises:
        DataError: it is not; ``where`` is named.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected a text, not {shown(value)}")
    return value


def table(value: object, where: str) -> Mapping[str, object]:
    """A JSON object.

    Raises:
        DataError: it is not; ``where`` is named.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object {{...}}, not {shown(value)}")
    return value


def rows(value: object, where: str) -> Sequence[object]:
    """A JSON array.

    Raises:
        DataError: it is not; ``where`` is named.
    """
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list [...], not {shown(value)}")
    return value


def identity(value: object, where: str) -> int | float | str:
    """What things are numbered or called by.

    Raises:
        DataError: neither a number nor a text; ``where`` is named.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise DataError(f"{where}: expected a number or a text, not {shown(value)}")
    return value


def shown(value: object) -> str:
    """A value as it may stand in an error: in one short line."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
