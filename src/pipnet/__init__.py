"""pipnet: facial landmarks, fast, accurate and robust in the wild.

Example::

    from pipnet import FaceLandmarker

    faces = FaceLandmarker()("photo.jpg")
    faces.points    # (faces, 68, 2), x and y in pixels of the photo
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipnet.config import LandmarkerConfig, RuntimeConfig
    from pipnet.errors import (
        BoxError,
        DataError,
        DivergenceError,
        DownloadError,
        ImageError,
        ImageTooLargeError,
        MissingDataError,
        MissingExtraError,
        ModelError,
        PipnetError,
        RecipeError,
        VideoError,
        WriteError,
    )
    from pipnet.hub import list_models
    from pipnet.inference.landmarker import FaceLandmarker
    from pipnet.inference.results import Face, FaceLandmarks
    from pipnet.scheme import LandmarkScheme
    from pipnet.video.video_landmarker import FrameFaces, VideoLandmarker

__version__ = "0.1.0"

__all__ = [
    "BoxError",
    "DataError",
    "DivergenceError",
    "DownloadError",
    "Face",
    "FaceLandmarker",
    "FaceLandmarks",
    "FrameFaces",
    "ImageError",
    "ImageTooLargeError",
    "LandmarkScheme",
    "LandmarkerConfig",
    "MissingDataError",
    "MissingExtraError",
    "ModelError",
    "PipnetError",
    "RecipeError",
    "RuntimeConfig",
    "VideoError",
    "VideoLandmarker",
    "WriteError",
    "list_models",
]

_MODULES = {
    "config": ("LandmarkerConfig", "RuntimeConfig"),
    "hub": ("list_models",),
    "inference.landmarker": ("FaceLandmarker",),
    "inference.results": ("Face", "FaceLandmarks"),
    "scheme": ("LandmarkScheme",),
    "video.video_landmarker": ("FrameFaces", "VideoLandmarker"),
}
"""The modules of names; those of all others, the exceptions, are in ``errors``."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that the command line starts at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((module for module, names in _MODULES.items() if name in names), "errors")
    value = getattr(importlib.import_module(f"pipnet.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
