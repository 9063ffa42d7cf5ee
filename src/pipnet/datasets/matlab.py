"""Matlab's two file formats: version 5 to 7, which is read here, and 7.3, which is HDF5.

Native readers of both crash on crafted files. So the few kinds of arrays that datasets need are read in
Python, and HDF5 is read in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipnet.errors import DataError, MissingDataError, MissingExtraError
from pipnet.io.regular_file import read_file, typed_errors

_MAX_BYTES = 2**28
"""Maximum size of a file, and of its content after decompression. AFLW's has 20 MB."""
_MAX_DEPTH = 4
"""Maximum depth of cells in cells."""
_MATRIX, _COMPRESSED = 14, 15
_CELL, _CHAR = 1, 4
_IS_COMPLEX = 0x800
_NUMBERS = dict(enumerate(("i1", "u1", "i2", "u2", "i4", "u4", "f4"), 1)) | {9: "f8", 12: "i8", 13: "u8"}
"""NumPy types by the number of a data type."""
_CLASSES = dict(enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), 6))
"""NumPy types by the number of an array's class."""
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
"""Encodings of texts by the number of a data type."""


def read_mat(path: Path, *keys: str) -> list[np.ndarray]:
    """Return variables of a ``.mat`` file of version 5 to 7, in the requested order.

    Numbers keep their type and shape; a text is an array of one string a row; a cell array is an array of
    objects. Other classes, such as structures, are not read.

    Raises:
        DataError: the file is missing, damaged or of another version, or lacks a variable.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    with typed_errors(DataError, f"{path}: not a readable Matlab file"):
        variables = _variables(read_file(path, _MAX_BYTES), keys)
    missing = [key for key in keys if key not in variables]
    if missing:
        raise DataError(f"{path}: holds no variable {missing[0]!r}")
    return [variables[key] for key in keys]


def cell_texts(cells: np.ndarray, where: str) -> list[str]:
    """Return the texts of a cell array; ``where`` starts the error message.

    Raises:
        DataError: a cell does not hold a text, or there are none.
    """
    texts = []
    for cell in np.ravel(cells) if cells.dtype == object else []:
        text = np.ravel(cell)
        if text.dtype.kind != "U" or len(text) != 1:
            raise DataError(f"{where}: a cell does not hold a text")
        texts.append(str(text[0]))
    if not texts:
        raise DataError(f"{where}: not a list of texts")
    return texts


def read_mat73(path: Path, *keys: str) -> Generator[np.ndarray, None, None]:
    """Yield variables of a ``.mat`` file of version 7.3, read by h5py in a process of its own.

    HDF5 transposes Matlab's arrays: (1345, 87) in Matlab is (87, 1345) here.

    Args:
        path: the file.
        keys: variables. Of a cell array, each cell's array is yielded.

    Raises:
        DataError: the file is missing or damaged, refers to other files, or lacks a variable.
        MissingExtraError: h5py is not installed.
    """
    if find_spec("h5py") is None:
        raise MissingExtraError("h5py", "data")
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    # One thread: the limit of memory counts the stacks of threads. "::" is HDF5's word for no plug-ins.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
    script = Path(__file__).with_name("hdf5_process.py")
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", str(script), str(path), *keys],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            while (array := _receive(process.stdout, path)) is not None:
                yield array
        finally:
            process.kill()


def _receive(stream: IO[bytes], path: Path) -> np.ndarray | None:
    """Return the next array that the process sends; None at the end."""
    try:
        message: dict[str, Any] = json.loads(stream.readline(4096))
    except ValueError:  # it died
        raise DataError(f"{path}: not a readable Matlab 7.3 file: the reader crashed on it") from None
    if "error" in message:
        raise DataError(f"{path}: not a readable Matlab 7.3 file: {message['error']}")
    if "shape" not in message:
        return None
    dtype, shape = np.dtype(message["dtype"]), message["shape"]
    content = stream.read(math.prod(shape) * dtype.itemsize)
    with typed_errors(DataError, f"{path}: not a readable Matlab 7.3 file"):
        return np.frombuffer(content, dtype).reshape(shape)


class _Elements:
    """The data elements in a part of a file, in order."""

    def __init__(self, content: bytes | memoryview, order: str) -> None:
        self._rest, self.order = memoryview(content), order

    def __len__(self) -> int:
        """Return the number of bytes that are left."""
        return len(self._rest)

    def next(self) -> tuple[int, memoryview]:
        """Return the type and the bytes of the next element."""
        head = self._take(8)
        kind, size = struct.unpack(f"{self.order}II", head)
        if kind >> 16:  # a small element: its size is in the first word, its data in the second
            return kind & 0xFFFF, head[4 : 4 + (kind >> 16)]
        data = self._take(size)
        if kind != _COMPRESSED:
            self._rest = self._rest[-size % 8 :]
        return kind, data

    def numbers(self) -> np.ndarray:
        """Return the numbers of the next element."""
        kind, data = self.next()
        if kind not in _NUMBERS:
            raise ValueError(f"an element of type {kind} where numbers are expected")
        return np.frombuffer(data, f"{self.order}{_NUMBERS[kind]}")

    def _take(self, size: int) -> memoryview:
        if size > len(self._rest):
            raise ValueError("cut off")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _variables(content: bytes, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return those of a file's variables that are requested, by name."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or 0 in content[:4]:
        raise ValueError("not Matlab 5 to 7: save it with -v7")
    if content[124:126] in (b"\x00\x02", b"\x02\x00"):
        raise ValueError("Matlab 7.3, expected 5 to 7: save it with -v7")
    variables: dict[str, np.ndarray] = {}
    elements, budget = _Elements(content[128:], order), _MAX_BYTES
    while len(elements):
        kind, data = elements.next()
        if kind == _COMPRESSED:
            decompressor = zlib.decompressobj()
            unpacked = decompressor.decompress(data, budget + 1)
            budget -= len(unpacked)
            if not decompressor.eof or budget < 0:
                raise ValueError(f"cut off, or more than {_MAX_BYTES:,} bytes after decompression")
            kind, data = _Elements(unpacked, order).next()
        if kind == _MATRIX:
            with contextlib.suppress(_OtherClass):
                name, array = _matrix(_Elements(data, order), keys, 0)
                if name in keys:
                    variables.setdefault(name, array)
    return variables


class _OtherClass(Exception):  # noqa: N818  (no error: the variable is skipped)
    """A variable of a class that is not read, or one that is not requested."""


def _matrix(elements: _Elements, keys: tuple[str, ...] | None, depth: int) -> tuple[str, np.ndarray]:
    """Return name and value of an array.

    Args:
        elements: its elements.
        keys: the names of interest; None for cells, which have no name.
        depth: number of cells around it.
    """
    if not len(elements):
        return "", np.zeros((0, 0))
    flags = elements.numbers()
    shape = [int(side) for side in elements.numbers()]
    name = bytes(elements.next()[1]).decode("latin-1")
    if keys is not None and name not in keys:
        raise _OtherClass
    if not len(flags) or min(shape, default=-1) < 0 or len(shape) > 8:
        raise ValueError(f"variable {name!r:.80} has no valid shape")
    kind = int(flags[0]) & 0xFF
    if kind == _CELL:
        return name, _cells(elements, shape, depth)
    if kind == _CHAR:
        return name, _texts(*elements.next(), elements.order, shape)
    if kind not in _CLASSES:  # such as a structure
        raise _OtherClass
    values = elements.numbers().astype(_CLASSES[kind])
    if int(flags[0]) & _IS_COMPLEX:
        values = values + 1j * elements.numbers()
    if len(values) != math.prod(shape):
        raise ValueError(f"variable {name!r:.80} has {len(values)} numbers for the shape {tuple(shape)}")
    return name, values.reshape(shape, order="F")


def _cells(elements: _Elements, shape: list[int], depth: int) -> np.ndarray:
    count = math.prod(shape)
    if depth >= _MAX_DEPTH or 8 * count > len(elements):  # each has a tag of 8 bytes
        raise ValueError("a cell array is cut off, or nested too deeply")
    cells = np.empty(count, object)
    for i in range(count):
        kind, data = elements.next()
        if kind != _MATRIX:
            raise ValueError("a cell is not an array")
        cells[i] = _matrix(_Elements(data, elements.order), None, depth + 1)[1]
    return cells.reshape(shape, order="F")


def _texts(kind: int, data: memoryview, order: str, shape: list[int]) -> np.ndarray:
    """Return the rows of a text."""
    if kind not in _ENCODINGS:
        raise ValueError(f"a text of type {kind}")
    encoding = _ENCODINGS[kind]
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    text = bytes(data).decode(encoding)
    if len(text) != math.prod(shape):
        raise ValueError(f"a text of {len(text)} characters for the shape {tuple(shape)}")
    if len(shape) != 2 or shape[0] == 1 or not text:
        return np.array([text] if text else [], dtype=str)
    rows = np.array(list(text)).reshape(shape, order="F")
    return np.array(["".join(row) for row in rows])
