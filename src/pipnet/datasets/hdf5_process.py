"""Read arrays of an HDF5 file, and write them to standard output. `pipnet.datasets.matlab` runs this script.

HDF5's library can crash, hang or take any memory on a crafted file, so it runs in this process with limits.
Each array is a line of JSON with its type and shape, followed by its bytes. The last line is ``{}``, or
``{"error": REASON}``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 60
"""Time for each array, after which the process ends itself."""
MEMORY = 2**30
"""Maximum memory of the process in bytes."""
MAX_ARRAY = 2**28
"""Maximum size of an array in bytes. COFW's largest image has 4 MB."""
MAX_COMPRESSION = 1100
"""Maximum size of an array over that of its data in the file; deflate reaches 1032."""


def main(path: str, keys: list[str]) -> None:
    """Write the requested variables of a file to standard output."""
    _limit_memory()
    output = sys.stdout.buffer
    try:
        for array in _arrays(path, keys):
            faulthandler.cancel_dump_traceback_later()  # writing waits for the parent process
            output.write(json.dumps({"dtype": array.dtype.str, "shape": array.shape}).encode() + b"\n")
            output.write(array.tobytes())
            _start_watchdog()
        message = {}
    except BrokenPipeError:  # the parent process needs no more
        os._exit(0)
    except Exception as error:  # h5py raises any exception for damaged files
        message = {"error": " ".join(str(error).split())[:160] or type(error).__name__}
    output.write(json.dumps(message).encode() + b"\n")
    output.flush()
    os._exit(0)  # closing a damaged file may crash


def _arrays(path: str, keys: list[str]) -> Iterator[Any]:
    _start_watchdog()
    import h5py

    size = Path(path).stat().st_size
    with h5py.File(path, "r") as file:
        for key in keys:
            if key not in file:
                raise ValueError(f"holds no variable {key!r:.80}")
            if not isinstance(file.get(key, getlink=True), h5py.HardLink):
                raise ValueError(f"{key!r:.80} is a link to another place")
            values = _read(file[key], size)
            if h5py.check_ref_dtype(values.dtype) is None:
                yield values
            else:
                yield from (_read(file[reference], size) for reference in values.ravel())


def _read(dataset: Any, file_size: int) -> Any:
    """Return the content of a data set, if the file can hold it."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise ValueError("a group where an array is expected")
    if dataset.external or dataset.is_virtual:
        raise ValueError("an array is stored in another file, which is refused")
    if dataset.dtype.kind not in "biuf" and h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
        raise ValueError(f"an array of type {dataset.dtype}, expected numbers")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = min(dataset.id.get_storage_size(), file_size)
    if size > MAX_ARRAY or size > MAX_COMPRESSION * stored:
        raise ValueError(f"an array of shape {dataset.shape} in {stored:,} bytes")
    return dataset[()]


def _start_watchdog() -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows, and systems without this limit
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
