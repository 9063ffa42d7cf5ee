"""The wire format of protocol buffers, as far as checks of model files need it: fields, not types."""

from __future__ import annotations

from collections.abc import Iterator

Field = tuple[int, int | memoryview]
"""Number and value of a field: an integer, or the bytes of a text, a message or packed numbers."""


def fields(message: bytes | memoryview) -> Iterator[Field]:
    """Yield the fields of a message, in order.

    Raises:
        ValueError: the message is malformed.
    """
    data, position = memoryview(message), 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        if kind == 0:
            value, position = _varint(data, position)
        else:
            size = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                size, position = _varint(data, position)
            if size is None or size > len(data) - position or not number:
                raise ValueError("not a protocol buffer, or cut off")
            value, position = data[position : position + size], position + size
        yield number, value


def integers(values: Iterator[int | memoryview] | list[int | memoryview]) -> Iterator[int]:
    """Yield the numbers of a repeated field of signed integers, packed or not.

    Raises:
        ValueError: the field is malformed.
    """
    for value in values:
        if isinstance(value, int):
            yield _signed(value)
            continue
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            yield _signed(number)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return an integer and the position behind it."""
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        position, value, shift = position + 1, value | (byte & 0x7F) << shift, shift + 7
        if byte < 128:
            return value & (2**64 - 1), position
    raise ValueError("not a protocol buffer, or cut off")
