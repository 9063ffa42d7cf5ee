"""Mutations of files: bytes, texts, JSON values, and formats whose checksums must fit to get further."""

from __future__ import annotations

import copy
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

_INTEGERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_NUMBERS = (
    *("0", "-1", "1e999", "-1e400", "nan", "inf", "1e-320", "0x10", "1_0", "", "null", "true", "4294967296"),
    *("9223372036854775808", "-9223372036854775809", "9" * 5000, "0.1e", "1,5", "\u0663"),
)
_TEXTS = (
    *(
        "",
        " ",
        "\x00",
        "\ufeff",
        "\u202e",
        "\ud800",
        "a" * 10_000,
        "../../../etc/passwd",
        "/dev/zero",
        "C:\\x",
    ),
    *("=1+1", "\x1b[2J", "\n\r\t", "{}", "[]", "null", "<!DOCTYPE x>", "&amp;", "%s%n", "e\u0301"),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        2**31,
        2**63,
        10**30,
        0.5,
        -0.0,
        1e308,
        1e-308,
        float("nan"),
        float("inf"),
    ),
    *([], {}, [[]], [None], [0] * 200, {"": None}, {"a": {"a": {"a": 1}}}, *_TEXTS),
)
_LOCATIONS = ("", "\x00", "weights.bin", "../../../etc/passwd", "/dev/zero", "C:\\x")
"""Places of external data; text of protobuf has no surrogates."""


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Return a file with one to eight changes."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        position = _position(len(data), random)
        random.choice(_BYTE_CHANGES)(data, position, random)
    return bytes(data)


def _position(size: int, random: Random) -> int:
    """Return a position, near the beginning or the end in half of the cases: headers are there."""
    if size < 2:
        return 0
    reach = min(size, random.choice((32, 512, size, size)))
    start = random.randrange(reach)
    return start if random.random() < 0.7 else size - 1 - start


def _flip(data: bytearray, position: int, random: Random) -> None:
    if data:
        data[position] ^= 1 << random.randrange(8)


def _set(data: bytearray, position: int, random: Random) -> None:
    if data:
        data[position] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _integer(data: bytearray, position: int, random: Random) -> None:
    size = random.choice((1, 2, 4, 8))
    value = random.choice(_INTEGERS) % 256**size
    data[position : position + size] = value.to_bytes(size, random.choice(("little", "big")))


def _delete(data: bytearray, position: int, random: Random) -> None:
    del data[position : position + random.choice((1, 4, 64, 1024))]


def _insert(data: bytearray, position: int, random: Random) -> None:
    data[position:position] = random.randbytes(random.choice((1, 4, 64)))


def _repeat(data: bytearray, position: int, random: Random) -> None:
    part = data[position : position + random.choice((4, 64, 1024))]
    data[position:position] = part * random.choice((1, 2, 50))


def _cut(data: bytearray, position: int, _: Random) -> None:
    del data[position:]


_BYTE_CHANGES: tuple[Callable[[bytearray, int, Random], None], ...] = (
    *(_flip, _flip, _set, _set, _integer, _integer),
    *(_delete, _insert, _repeat, _cut),
)


def mutate_text(content: bytes, random: Random) -> bytes:
    """Return a text with changed numbers, words, lines or brackets; in some cases with changed bytes."""
    if random.random() < 0.15:
        return mutate_bytes(content, random)
    text = content.decode("utf-8", "replace")
    for _ in range(random.choice((1, 1, 2, 4))):
        text = random.choice((_change_number, _change_number, _change_word, _change_line, _nest))(
            text, random
        )
    return text.encode("utf-8", "surrogatepass" if random.random() < 0.5 else "replace")


def _replace(text: str, pattern: str, values: tuple[str, ...], random: Random) -> str:
    places = [match.span() for match in re.finditer(pattern, text)]
    if not places:
        return text + random.choice(values)
    start, end = random.choice(places)
    return text[:start] + random.choice(values) + text[end:]


def _change_number(text: str, random: Random) -> str:
    return _replace(text, r"-?\d[\d.]*", _NUMBERS, random)


def _change_word(text: str, random: Random) -> str:
    return _replace(text, r"[A-Za-z_]+", _TEXTS, random)


def _change_line(text: str, random: Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    i, j = random.randrange(len(lines)), random.randrange(len(lines))
    kind = random.randrange(4)
    if kind == 0:
        lines[i] = lines[j]
    elif kind == 1:
        del lines[i]
    elif kind == 2:
        lines.insert(i, lines[j] * random.choice((1, 100)))
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return "".join(lines)


def _nest(text: str, random: Random) -> str:
    position = random.randrange(len(text) + 1)
    opening, closing = random.choice(("[]", "{}", "()", '""', "<>", ("- ", ""), ("&a [*a, ", "]")))
    depth = random.choice((1, 3, 2000))
    return text[:position] + opening * depth + closing * depth + text[position:]


def mutate_json(table: Any, random: Random) -> Any:
    """Return plain data with one to three values changed, removed or repeated."""
    table = copy.deepcopy(table)
    for _ in range(random.choice((1, 1, 2, 3))):
        places = list(_places(table))
        if not places:
            return random.choice(VALUES)
        parent, key = random.choice(places)
        kind = random.randrange(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.append(parent[key])
        elif kind == 2:
            parent[key] = [parent[key]]
        else:
            parent[key] = copy.deepcopy(random.choice(VALUES))
    return table


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def mutate_json_text(content: bytes, random: Random) -> bytes:
    """Return a JSON text with changed values; in some cases with changed characters."""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError):  # it was changed before
        return mutate_text(content, random)
    if random.random() < 0.2:
        return mutate_text(content, random)
    return json.dumps(mutate_json(table, random)).encode()


def mutate_png(content: bytes, random: Random) -> bytes:
    """Return a mutated image; the checksums of a PNG are mended in most cases."""
    data = bytearray(mutate_bytes(content, random))
    if not data.startswith(b"\x89PNG") or random.random() < 0.3:
        return bytes(data)
    position = 8
    while position + 12 <= len(data):
        (size,) = struct.unpack(">I", data[position : position + 4])
        end = position + 8 + size
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(data)


def mutate_tar(content: bytes, random: Random) -> bytes:
    """Return a mutated tar file; the checksum of a header is mended in most cases."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2))):
        headers = [i for i in range(0, len(data) - 511, 512) if data[i + 257 : i + 262] == b"ustar"]
        if not headers or random.random() < 0.2:
            return mutate_bytes(bytes(data), random)
        header = random.choice(headers)
        field, size = random.choice(
            ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (345, 155))
        )
        value = random.choice(
            (
                *(
                    b"-0000001000",
                    b"77777777777",
                    b"\x80" + b"\xff" * 11,
                    b"\xff" * 12,
                    b"abc",
                    b"00000000000",
                ),
                *(b"x", b"g", b"L", b"K", b"S", b"V", b"5", b"1", random.randbytes(size)),
            )
        )
        data[header + field : header + field + size] = value[:size].ljust(size, b"\0")
        if random.random() < 0.9:
            data[header + 148 : header + 156] = b" " * 8
            data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
    return bytes(data)


def mutate_onnx(content: bytes, random: Random) -> bytes:
    """Return a model with a changed operator, attribute, shape, constant or metadata; or changed bytes."""
    if random.random() < 0.3:
        return mutate_bytes(content, random)
    import onnx

    model = onnx.load_from_string(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        random.choice(_MODEL_CHANGES)(model, random)
    return bytes(model.SerializeToString())


def _change_operator(model: Any, random: Random) -> None:
    operators = (
        "Loop",
        "If",
        "Identity",
        "Expand",
        "Tile",
        "Range",
        "Resize",
        "Conv",
        "Reshape",
        "Cast",
        "X",
    )
    random.choice(model.graph.node).op_type = random.choice(operators)


def _change_attribute(model: Any, random: Random) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute]
    attribute = random.choice(attributes)
    if attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice((*_INTEGERS, -1, -(2**63)))
    else:
        attribute.i = random.choice((*_INTEGERS, -1, -(2**63)))


def _change_shape(model: Any, random: Random) -> None:
    tensor = random.choice(model.graph.initializer)
    if tensor.dims and random.random() < 0.8:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice((*_INTEGERS, -1, 3, 5))
    else:
        tensor.data_type = random.randrange(24)


def _change_constant(model: Any, random: Random) -> None:
    small = [t for t in model.graph.initializer if len(t.raw_data) <= 128] or model.graph.initializer
    tensor = random.choice(small)
    if random.random() < 0.2:
        tensor.data_location = 1
        tensor.external_data.add(key="location", value=random.choice(_LOCATIONS))
    data = bytearray(tensor.raw_data)
    _integer(data, random.randrange(len(data) + 1), random)
    tensor.raw_data = bytes(data)[: len(tensor.raw_data)]


def _change_wiring(model: Any, random: Random) -> None:
    node = random.choice(model.graph.node)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    if node.input:
        node.input[random.randrange(len(node.input))] = random.choice(names)


def _change_interface(model: Any, random: Random) -> None:
    value = random.choice((*model.graph.input, *model.graph.output))
    dims = value.type.tensor_type.shape.dim
    if dims and random.random() < 0.7:
        dims[random.randrange(len(dims))].dim_value = random.choice((*_INTEGERS, -1))
    else:
        value.name = random.choice(("image", "scores", "", "x"))


def _change_metadata(model: Any, random: Random) -> None:
    for entry in model.metadata_props:
        if entry.key.startswith("pipnet"):
            content = entry.value.encode()
            entry.value = mutate_json_text(content, random).decode("utf-8", "replace")


_MODEL_CHANGES: tuple[Callable[[Any, Random], None], ...] = (
    *(_change_operator, _change_attribute, _change_attribute, _change_shape, _change_shape),
    *(_change_constant, _change_constant, _change_wiring, _change_interface),
    *(_change_metadata, _change_metadata, _change_metadata),
)
