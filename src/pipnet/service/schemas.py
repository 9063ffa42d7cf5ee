"""The JSON of requests and answers, for validation and for the OpenAPI description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(extra="forbid")
_MAX_NAME = 255


class ImageInput(BaseModel):
    """An image in JSON."""

    model_config = _STRICT

    image: str = Field(description="The image file as base64, or as a data URL. No path and no http address.")
    name: str = Field("image", description="The name of the image in the answer.", max_length=_MAX_NAME)

    def to_list(self) -> list[ImageInput]:
        """Return the image in a list."""
        return [self]


class BatchInput(BaseModel):
    """Several images in JSON."""

    model_config = _STRICT

    images: list[ImageInput] = Field(min_length=1)

    def to_list(self) -> list[ImageInput]:
        """Return the images."""
        return self.images


class FaceOutput(BaseModel):
    """A face. Values that the model is not calibrated for are null."""

    model_config = _STRICT

    box: list[float] = Field(description="Box of the detector: left, top, right, bottom, in pixels.")
    crop_box: list[float] = Field(description="Box that the crop was cut around, in pixels.")
    detection_score: float = Field(description="The detector's confidence in the face.")
    quality: float | None = Field(description="Mean confidence of the landmarks.")
    points: list[tuple[float, float]] = Field(description="x, y of each landmark in pixels.")
    scores: list[float] = Field(description="Peak of each landmark's score map, in [0, 1].")
    confidence: list[float] | None = Field(
        description="Calibrated probability that a landmark is off by at most 5 % of the face."
    )
    expected_error: list[float] | None = Field(
        description="Expected error of each landmark, as a fraction of the face."
    )
    vote_std: list[float] = Field(description="Standard deviation of the neighbors' votes, in crops.")
    tta_std: list[float] = Field(description="Standard deviation of the augmented predictions, in crops.")


class ImageOutput(BaseModel):
    """The answer for an image: a line of `pipnet detect --json`."""

    model_config = _STRICT

    image: str = Field(description="Name of the image as sent; it is not used for anything else.")
    width: int | None = Field(description="Width in pixels, upright; null if the image cannot be read.")
    height: int | None = Field(description="Height in pixels, upright; null if the image cannot be read.")
    faces: list[FaceOutput] = Field(description="The faces; an empty list if there are none.")
    error: str | None = Field(description="Why the image has no result; null if it has one.")


class BatchOutput(BaseModel):
    """The answers for several images, in the order of the request."""

    model_config = _STRICT

    results: list[ImageOutput]


class ErrorOutput(BaseModel):
    """Why a request has no result, in one line."""

    model_config = _STRICT

    error: str


RESULT_EXAMPLE: dict[str, Any] = {
    "image": "astronaut.jpg",
    "width": 512,
    "height": 512,
    "faces": [
        {
            "box": [177.54, 56.49, 270.73, 179.29],
            "crop_box": [176.18, 85.78, 270.64, 179.74],
            "detection_score": 0.9061,
            "quality": 0.9586,
            "points": [[179.498, 101.32], [179.646, 113.518]],
            "scores": [0.5365, 0.8849],
            "confidence": [0.8769, 0.9328],
            "expected_error": [0.0228, 0.0207],
            "vote_std": [0.0061, 0.0054],
            "tta_std": [0.0, 0.0],
        }
    ],
    "error": None,
}
"""An answer of pipnet-68 for examples/astronaut.jpg, of which only the first two landmarks are kept."""
UNREADABLE_EXAMPLE: dict[str, Any] = {
    "image": "notes.txt",
    "width": None,
    "height": None,
    "faces": [],
    "error": "notes.txt: not an image of a supported format: JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM, AVIF, TGA,"
    " HEIC",
}
"""An answer for a file that is no image."""
PNG_EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADElEQVR4nGNgoA4AAABIAAEuuDx+AAAAAElFTkSuQmCC"
"""A complete PNG file of 8 x 8 black pixels as base64."""
