"""Matlab's two file formats: up to version 7 (read by SciPy) and 7.3, which is HDF5 (read by h5py)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.errors import DataError, MissingDataError, MissingExtraError


def read_mat(path: Path, *keys: str) -> list[np.ndarray]:
    """Variables of a ``.mat`` file up to version 7, in the order asked for.

    Raises:
        DataError: missing, damaged, or without one of the variables.
        MissingExtraError: SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise MissingExtraError("scipy", "data") from None
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    try:
        content = loadmat(path, variable_names=keys)
    except (
        *(MatReadError, zlib.error, OSError, NotImplementedError),
        *(ValueError, TypeError, KeyError, IndexError),
    ) as error:
        raise DataError(f"{path}: not a Matlab file that can be read: {error}") from None
    missing = [key for key in keys if key not in content]
    if missing:
        raise DataError(f"{path}: holds no variable {missing[0]!r}")
    return [content[key] for key in keys]


def cell_texts(cells: np.ndarray, where: str) -> list[str]:
    """The texts of a cell array; ``where`` is named in errors.

    Raises:
        DataError: a cell holds something else.
    """
    texts = []
    for cell in np.ravel(cells) if cells.dtype == object else []:
        text = np.ravel(cell)
        if text.dtype.kind != "U" or len(text) != 1:
            raise DataError(f"{where}: a cell holds no text")
        texts.append(str(text[0]))
    if not texts:
        raise DataError(f"{where}: not a list of texts")
    return texts


@contextmanager
def open_mat73(path: Path, *keys: str) -> Iterator[Any]:
    """A ``.mat`` file of version 7.3, open for reading and known to hold the variables.

    HDF5 holds arrays the other way round than Matlab: what is (1345, 87) there is (87, 1345) here.

    Raises:
        DataError: missing, damaged, or without one of the variables.
        MissingExtraError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("h5py", "data") from None
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise DataError(f"{path}: holds no variable {missing[0]!r}")
            yield file
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a Matlab 7.3 file that can be read: {error}") from None
