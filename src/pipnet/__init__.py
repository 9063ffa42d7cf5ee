"""pipnet: facial landmarks, fast, accurate and robust in the wild.

Example::

    from pipnet import FaceLandmarker

    faces = FaceLandmarker()("photo.jpg")
    faces.points    # (faces, 68, 2), x and y in pixels of the photo
"""

from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.errors import (
    BoxError,
    DataError,
    DivergenceError,
    DownloadError,
    ImageError,
    ImageTooLargeError,
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
from pipnet.video.video_landmarker import VideoLandmarker

__version__ = "0.1.0"

__all__ = [
    "BoxError",
    "DataError",
    "DivergenceError",
    "DownloadError",
    "Face",
    "FaceLandmarker",
    "FaceLandmarks",
    "ImageError",
    "ImageTooLargeError",
    "LandmarkScheme",
    "LandmarkerConfig",
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
