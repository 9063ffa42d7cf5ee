"""Everything that pipnet raises on purpose.

::

    PipnetError                 catch this to catch them all
    ├── ImageError              a picture is missing, unreadable, of a wrong kind or too large
    ├── VideoError              a video is missing, unreadable, or cannot be written
    ├── BoxError                a face box is empty, NaN or outside the picture
    ├── ModelError              a model file is missing, damaged, hostile or of another kind
    ├── DataError               an annotation or a data folder is not what it should be
    │   └── MissingDataError    a part of a collection is not there
    ├── RecipeError             a recipe has an unknown key or an impossible value
    ├── WriteError              a file cannot be written, such as on a full disk; what was there remains
    ├── DownloadError           a file could not be fetched, or its checksum is wrong
    └── MissingExtraError       an optional dependency is not installed; names the pip command

Each message is one line that says what is wrong and, where there is one, what to do about it.
"""

from __future__ import annotations


class PipnetError(Exception):
    """Base of all errors raised by pipnet."""


class ImageError(PipnetError):
    """A picture is missing, unreadable, of a wrong kind or too large."""


class VideoError(PipnetError):
    """A video is missing, unreadable, or cannot be written."""


class BoxError(PipnetError):
    """A face box is empty, not finite or outside the picture."""


class ModelError(PipnetError):
    """A model file is missing, damaged, hostile or of another kind."""


class DataError(PipnetError):
    """An annotation file or a data folder is not what it should be."""


class MissingDataError(DataError):
    """A file or folder of a collection is not there."""


class RecipeError(PipnetError):
    """A recipe has an unknown key or an impossible value."""


class WriteError(PipnetError):
    """A file or folder cannot be written; what was there before remains."""


class DownloadError(PipnetError):
    """A file could not be fetched, or what came has another checksum."""


class MissingExtraError(PipnetError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install '{installed_from()}[{extra}]'")


def installed_from() -> str:
    """What pip knows this package by: the folder that it was installed from, if it is there, or its name."""
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
