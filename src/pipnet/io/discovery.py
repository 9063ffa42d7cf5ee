"""Finding files and images below folders, always in the same order and by the same rules."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipnet.errors import DataError
from pipnet.io.image import IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES
from pipnet.io.text import counted

STANDARD_INPUT = "/dev/stdin"
"""The name of standard input, on all systems; on the command line also ``-``."""


@dataclass(frozen=True)
class FoundImage:
    """An image file, or the reason why a requested name is none."""

    path: Path
    root: Path
    """The requested folder, or the folder of a requested file. Results keep the path below it."""
    error: str | None = None
    is_standard_input: bool = False
    """Whether the image is read from standard input; its path is only a name."""


def walk(folder: Path, on_error: Callable[[OSError], object]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk like `os.walk`, in sorted order and without hidden files; links to folders are followed.

    A folder is walked once: a link to a folder that was walked already, or that is walked without the link
    because it lies below ``folder``, is left out.

    Args:
        folder: where to start.
        on_error: called with the error of each folder that cannot be read.

    Yields:
        A folder, the names of its subfolders, which may be removed from the list to skip them, and the names
        of its files, without hidden ones such as ``._a.jpg`` of macOS.
    """
    walked: set[str] = set()
    top = Path(os.path.realpath(folder))
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        walked.add(os.path.realpath(parent))
        kept = []
        for name in sorted(f for f in folders if not f.startswith(".")):
            path = Path(parent, name)
            if path.is_symlink():
                target = os.path.realpath(path)
                if target in walked or _is_walked_below(top, Path(target)):
                    continue
                walked.add(target)
            kept.append(name)
        folders[:] = kept
        yield Path(parent), folders, sorted(f for f in files if not f.startswith("."))


def _is_walked_below(top: Path, target: Path) -> bool:
    """Whether the target of a link is a subfolder that is not hidden."""
    if not target.is_relative_to(top):
        return False
    return not any(part.startswith(".") for part in target.relative_to(top).parts)


def files_below(
    folder: Path, skip: Path | None = None, on_error: Callable[[OSError], object] | None = None
) -> Iterator[Path]:
    """Yield all files below a folder, see `walk`.

    Args:
        folder: where to start.
        skip: a folder to leave out.
        on_error: called with the error of each folder that cannot be read; if None, the first one is raised
            after the files that can be found.

    Raises:
        DataError: a folder cannot be read, and ``on_error`` is None.
    """
    errors: list[OSError] = []
    for parent, folders, names in walk(folder, on_error or errors.append):
        if skip is not None:
            folders[:] = [name for name in folders if (parent / name).resolve() != skip.resolve()]
        yield from (parent / name for name in names)
    if errors:
        raise DataError(f"{errors[0].filename}: cannot be read: {errors[0].strerror}")


def images_below(folder: Path) -> Iterator[Path]:
    """Yield all image files below a folder, by their suffix.

    Raises:
        DataError: a folder cannot be read.
    """
    return (path for path in files_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES)


def find_images(names: Sequence[str], skip: Path | None = None) -> Iterator[FoundImage]:
    """Yield the images of files, folders and glob patterns, in a stable order; errors are yielded too.

    Args:
        names: paths of files and folders, glob patterns of them, and `STANDARD_INPUT`.
        skip: a folder of results, which is left out if it is inside a requested folder.
    """
    for name in names:
        path = Path(name)
        try:
            if not name:  # Path("") would be the current folder
                yield FoundImage(path, path, "the name of an image is empty")
            elif name == STANDARD_INPUT:
                yield FoundImage(Path("stdin"), Path(), is_standard_input=True)
            elif "://" in name:
                yield FoundImage(path, path, f"{name:.80}: URLs are not supported: download the image first")
            elif path.is_dir():
                yield from _images_of_folder(path, skip)
            elif glob.has_magic(name) and not path.exists():
                yield from _images_of_pattern(name, skip)
            else:
                yield FoundImage(path, path.parent)
        except OSError as error:  # a name that the system refuses, such as one in a locked folder
            yield FoundImage(path, path.parent, f"{name}: {error.strerror}")


def _images_of_pattern(pattern: str, skip: Path | None) -> Iterator[FoundImage]:
    matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))  # noqa: PTH207
    folders = {match for match in matches if match.is_dir()}
    for match in matches:
        if not folders.isdisjoint(match.parents):
            continue  # it is found in its folder
        if match not in folders:
            yield FoundImage(match, match.parent)
        elif skip is None or match.resolve() != skip.resolve():
            yield from _images_of_folder(match, skip)
    if not matches:
        path = Path(pattern)
        yield FoundImage(path, path.parent, f"{pattern}: no file matches this pattern")


def _images_of_folder(folder: Path, skip: Path | None) -> Iterator[FoundImage]:
    errors: list[OSError] = []
    has_images = False
    unsupported: list[Path] = []
    for path in files_below(folder, skip, errors.append):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_fifo():  # opening a pipe blocks
            has_images = True
            yield FoundImage(path, folder)
        elif path.suffix.lower() in UNSUPPORTED_SUFFIXES:
            unsupported.append(path)
    for error in errors:
        where = Path(error.filename or folder)
        yield FoundImage(where, folder, f"{where}: cannot be read: {error.strerror}")
    if unsupported:
        what = f"{counted(len(unsupported), 'image')} in unsupported formats, such as {unsupported[0]}"
        yield FoundImage(folder, folder, f"{folder}: {what}: convert them to JPEG or PNG")
    elif not has_images and not errors:
        yield FoundImage(folder, folder, f"{folder}: no images in this folder")
