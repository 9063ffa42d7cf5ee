"""Matlab's two file formats: up to version 7 (read by SciPy) and 7.3, which is HDF5 (read by h5py)."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.errors import DataError, MissingDataError, MissingExtraError

_DAMAGE = (zlib.error, OSError, NotImplementedError, ValueError, TypeError, LookupError)
"""What SciPy raises for a damaged file, in addition to its own error."""


def read_mat(path: Path, *keys: str) -> list[np.ndarray]:
    """Return variables of a ``.mat`` file up to version 7, in the requested order.

    Raises:
        DataError: the file is missing or damaged, or lacks a variable.
        MissingExtraError: SciPy is not installed.
    """
    io = _import("scipy.io", path)
    try:
        content = io.loadmat(path, variable_names=keys)
    except (io.matlab.MatReadError, *_DAMAGE) as error:
        raise DataError(f"{path}: not a readable Matlab file: {error}") from None
    _check_variables(path, keys, content)
    return [content[key] for key in keys]


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


@contextmanager
def open_mat73(path: Path, *keys: str) -> Iterator[Any]:
    """Open a ``.mat`` file of version 7.3 that holds these variables, as an ``h5py.File``.

    HDF5 transposes Matlab's arrays: (1345, 87) in Matlab is (87, 1345) here.

    Raises:
        DataError: the file is missing or damaged, or lacks a variable.
        MissingExtraError: h5py is not installed.
    """
    h5py = _import("h5py", path)
    try:
        with h5py.File(path, "r") as file:
            _check_variables(path, keys, file)
            yield file
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a readable Matlab 7.3 file: {error}") from None


def _import(module: str, path: Path) -> Any:
    """Return the module that reads an existing file."""
    try:
        reader = importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(module.partition(".")[0], "data") from None
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    return reader


def _check_variables(path: Path, keys: tuple[str, ...], content: Any) -> None:
    missing = [key for key in keys if key not in content]
    if missing:
        raise DataError(f"{path}: holds no variable {missing[0]!r}")
