"""pipnet: facial landmarks, fast, accurate and robust in the wild.

Example::

    from pipnet import FaceLandmarker

    faces = FaceLandmarker.from_pretrained()("photo.jpg")
    faces.points    # (faces, 68, 2), x and y in pixels of the photo
"""

from pipnet.errors import (
    BoxError,
    DataError,
    DownloadError,
    ImageError,
    MissingExtraError,
    ModelError,
    PipnetError,
    RecipeError,
    VideoError,
    WriteError,
)
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.results import Face, FaceLandmarks
from pipnet.scheme import LandmarkScheme

__version__ = "0.1.0"

__all__ = [
    "BoxError",
    "DataError",
    "DownloadError",
    "Face",
    "FaceLandmarker",
    "FaceLandmarks",
    "ImageError",
    "LandmarkScheme",
    "MissingExtraError",
    "ModelError",
    "PipnetError",
    "RecipeError",
    "VideoError",
    "WriteError",
]
