"""Bundles: chosen faces of a dataset in one file, see `pipnet.datasets.write_bundle`. This module reads them.

A bundle is a ZIP file with one COCO file per subset and `PREPARED`, as in a prepared folder, or for own
annotations with `FACES`; with the faces' images as WebP; with their known label offsets; and with unlabeled
faces in the folder `UNLABELED`. It is unpacked once, into the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipnet.errors import DataError, PipnetError, one_line
from pipnet.hub import cache_folder

PREPARED = "pipnet.json"
"""The file in a prepared folder or a bundle that names its dataset."""
FACES = "faces.json"
"""The COCO file in a bundle of own annotations."""
LABEL_OFFSETS = "label_offsets.json"
"""The known label offsets of the faces in a bundle by their names, in pixels of the bundle's images."""
UNLABELED = "unlabeled"
"""The folder in a bundle with unlabeled faces."""
_MAX_BYTES = 16 * 2**30
"""Maximum size of an unpacked bundle."""
_SUFFIXES = {".json", ".csv", ".webp"}


def is_bundle(path: Path) -> bool:
    """Return whether a path is a ZIP file, the only one that readers take as a dataset."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unpack_bundle(path: Path) -> Path:
    """Return the folder of an unpacked bundle, in the cache folder.

    Raises:
        DataError: the file is damaged, or not a bundle.
        PipnetError: the cache folder cannot be written.
    """
    stat = path.stat()
    key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    folder = cache_folder() / "bundles" / digest
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    except OSError as error:
        raise PipnetError(f"{path}: cannot be unpacked into {folder.parent}: {error.strerror}") from None
    try:
        with zipfile.ZipFile(path) as archive:
            _check_content(path, archive.infolist())
            archive.extractall(building)
        if not folder.is_dir():  # otherwise another process was faster
            os.replace(building, folder)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path}: damaged: {one_line(error)}; bundle it again") from None
    except OSError as error:
        if not folder.is_dir():
            raise PipnetError(
                f"{path}: cannot be unpacked into {folder.parent}: {error.strerror or error}"
            ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _check_content(path: Path, files: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse other archives than bundles, and names that lead out of the folder."""
    names = {file.filename for file in files}
    parts = [PurePosixPath(name) for name in names]
    has_other = any(p.is_absolute() or ".." in p.parts or p.suffix not in _SUFFIXES for p in parts)
    if has_other or not names & {PREPARED, FACES}:
        raise DataError(f"{path}: a .zip file, but not a bundle of faces (pipnet data bundle)")
    if sum(file.file_size for file in files) > _MAX_BYTES:
        raise DataError(f"{path}: larger than {_MAX_BYTES // 2**30} GB when unpacked")
