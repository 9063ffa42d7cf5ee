"""Landmarks of all frames of a video, one by one."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import NamedTuple

from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.result import FaceLandmarks
from pipnet.video.reader import Frame
from pipnet.video.smoothing import Smoothing
from pipnet.video.tracker import DETECT_EVERY, FaceTracker


class FrameFaces(NamedTuple):
    """A frame and its faces."""

    frame: Frame
    """Picture, time in seconds, number."""
    faces: FaceLandmarks
    """As of a picture, see `FaceTracker` for its boxes."""
    ids: list[int]
    """Each face's number, the same in all frames."""
    detected: bool
    """Whether the detector ran on this frame."""


def follow(
    landmarker: FaceLandmarker,
    frames: Iterable[Frame],
    detect_every: int = DETECT_EVERY,
    smoothing: Smoothing | None = Smoothing(),  # noqa: B008  (frozen)
) -> Generator[FrameFaces, None, None]:
    """The faces of each frame, with identities, smoothed.

    Args:
        landmarker: finds them.
        frames: such as a `VideoReader`.
        detect_every: see `FaceTracker`.
        smoothing: see `FaceTracker`.
    """
    tracker = FaceTracker(landmarker, detect_every, smoothing)
    for frame in frames:
        yield FrameFaces(frame, *tracker(frame.image, frame.time))
