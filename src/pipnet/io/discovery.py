"""Walking through folders, always in the same way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(folder: Path, on_error: Callable[[OSError], object]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, in a stable order and without what is hidden; links to folders are followed.

    A folder that was walked already, such as a link to one above itself, is not walked again by a link.

    Args:
        folder: where to begin.
        on_error: is given what keeps a folder from being read.

    Yields:
        A folder, the names of those in it, which may be taken out to keep them from being walked, and the
        names of its files, without such as ``._a.jpg`` of macOS.
    """
    walked: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        walked.add(os.path.realpath(parent))
        kept = []
        for name in sorted(f for f in folders if not f.startswith(".")):
            path = Path(parent, name)
            if path.is_symlink():
                target = os.path.realpath(path)
                if target in walked:
                    continue
                walked.add(target)
            kept.append(name)
        folders[:] = kept
        yield Path(parent), folders, sorted(f for f in files if not f.startswith("."))
