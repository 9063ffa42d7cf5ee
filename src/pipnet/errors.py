"""All exceptions that pipnet raises on purpose.

::

    PipnetError                 base class of all of them
    ├── ImageError              an image is missing, unreadable, of an unsupported type or too large
    │   └── ImageTooLargeError  an image has more pixels than the limit
    ├── VideoError              a video or camera is missing or unreadable, or a video cannot be written
    ├── BoxError                a face box is empty, not finite or outside the image
    ├── ModelError              a model file is missing, corrupt or not a pipnet model
    │   └── DivergenceError     a training diverges, or weights are the result of such a training
    ├── DataError               an annotation file or a dataset folder is malformed
    │   └── MissingDataError    a file or folder of a dataset is missing
    ├── RecipeError             a recipe has an unknown key or a value out of range
    ├── WriteError              a file or folder cannot be written; the previous version is kept
    ├── DownloadError           a download failed, or its checksum is wrong
    └── MissingExtraError       an optional dependency is not installed; names the pip command

Each message is one line that says what is wrong and, where possible, what to do about it.
"""

from __future__ import annotations

import importlib
import unicodedata
from typing import Any


class PipnetError(Exception):
    """Base class of all exceptions that pipnet raises on purpose."""


class ImageError(PipnetError):
    """An image is missing, unreadable, of an unsupported type or too large."""


class ImageTooLargeError(ImageError):
    """An image has more pixels than the limit."""


class VideoError(PipnetError):
    """A video or camera is missing or unreadable, or a video cannot be written."""


class BoxError(PipnetError):
    """A face box is empty, not finite or outside the image."""


class ModelError(PipnetError):
    """A model file is missing, corrupt or not a pipnet model."""


class DivergenceError(ModelError):
    """A training diverges, or weights are the result of such a training."""


class DataError(PipnetError):
    """An annotation file or a dataset folder is malformed."""


class MissingDataError(DataError):
    """A file or folder of a dataset is missing."""


class RecipeError(PipnetError):
    """A recipe has an unknown key or a value out of range."""


class WriteError(PipnetError):
    """A file or folder cannot be written; the previous version is kept."""


class DownloadError(PipnetError):
    """A download failed, or its checksum is wrong."""


class MissingExtraError(PipnetError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str | None = None) -> None:
        """Name the package and the extra of pipnet that installs it, or none for one of its own."""
        what = package if extra is None else f"'{installed_from()}[{extra}]'"
        super().__init__(f"{package} is not installed: pip install {what}")


def import_optional(package: str) -> Any:
    """Return a package that is none of pipnet's dependencies, such as pandas.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtraError(package) from None


def installed_from() -> str:
    """Return what ``pip install`` calls this package: its source folder if it exists, else its name."""
    import importlib.metadata
    import json
    from pathlib import Path
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        origin = importlib.metadata.distribution("pipnet").read_text("direct_url.json")
        url = urlsplit(json.loads(origin or "{}").get("url", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return "pipnet"
    folder = url2pathname(url.path)
    return folder if url.scheme == "file" and Path(folder).is_dir() else "pipnet"


def one_line(error: BaseException, limit: int = 160) -> str:
    """Return an exception's message as one line, cut at ``limit`` characters; its type if it is empty."""
    return (" ".join(str(error).split()) or type(error).__name__)[:limit]


def printable(text: object) -> str:
    """Return text as one line that is safe to print: unprintable characters are written as escapes.

    These are control characters, line breaks, characters that reverse the direction of text or are invisible,
    and surrogates of file names that are not UTF-8. Spaces of all widths stay.
    """
    return "".join(c if _is_printable(c) else c.encode("unicode_escape").decode() for c in str(text))


def _is_printable(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"
