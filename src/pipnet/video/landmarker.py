"""Landmarks of all frames of a video file, or of a camera's latest frames, tracked and smoothed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.hub import DEFAULT_MODEL
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.results import FaceLandmarks
from pipnet.video.camera import LiveReader, is_live
from pipnet.video.causal_smoother import CausalSmoother
from pipnet.video.reader import Frame, VideoReader
from pipnet.video.savgol_smoother import SavgolSmoother
from pipnet.video.tracker import DETECT_EVERY, FaceTracker


class FrameFaces(NamedTuple):
    """A frame and its faces."""

    frame: Frame
    """Image, time in seconds, number."""
    faces: FaceLandmarks
    """As of an image, see `TrackedFaces` for its boxes."""
    track_ids: list[int]
    """Each face's number, the same in all frames."""
    detected: bool
    """Whether the detector ran on this frame."""


class VideoLandmarker:
    """Finds, tracks and smooths the landmarks of a video's faces.

    Example::

        for frame, faces, track_ids, _ in VideoLandmarker().stream("clip.mp4"):
            print(frame.time, track_ids, faces.points)
    """

    def __init__(
        self,
        model: FaceLandmarker | str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        detect_every: int = DETECT_EVERY,
        smooth: bool = True,
        **options: Any,
    ) -> None:
        """Load a model.

        Args:
            model: a landmarker, or a model's name, file, folder or hub id.
            detect_every: search for new faces every so many frames; between, known ones are tracked.
            smooth: smooth the landmarks, in a file by the frames before and after (`SavgolSmoother`), of a camera
                by those before (`CausalSmoother`); False gives them as predicted in each frame.
            options: as of `FaceLandmarker`, for a model by name.

        Raises:
            PipnetError, TypeError: as of `FaceLandmarker`.
        """
        if isinstance(model, FaceLandmarker) and options:
            raise TypeError("options are for models by name: this landmarker has its own")
        self.landmarker = model if isinstance(model, FaceLandmarker) else FaceLandmarker(model, **options)
        self.detect_every, self.smooth = detect_every, smooth

    def stream(self, source: int | str | os.PathLike[str]) -> Iterator[FrameFaces]:
        """Return the faces of each frame.

        Args:
            source: a file, of which every frame is given; or a camera's number, a device, a pipe or an address, of
                which frames that come while one is worked on are dropped, see `LiveReader`.

        Raises:
            VideoError: it cannot be read. A live source is opened for the first frame, and raises then.
            MissingExtraError: PyAV is not installed.
        """
        if isinstance(source, int) or is_live(source):
            return self.track(LiveReader(source), is_live=True)
        return self.track(VideoReader(source), is_live=False)

    def track(self, frames: Iterable[Frame], is_live: bool) -> Generator[FrameFaces, None, None]:
        """Return the faces of each of some frames.

        Args:
            frames: such as a `VideoReader`.
            is_live: give each frame at once; else each waits for the frames of the next quarter of a second, for
                smoothing.

        Raises:
            PipnetError: ``detect_every`` is less than 1.
        """
        smoother = CausalSmoother() if self.smooth and is_live else None
        tracker = FaceTracker(self.landmarker.pipeline, self.detect_every, smoother)
        tracked = (FrameFaces(frame, *tracker(frame.image, frame.time)) for frame in frames)
        yield from smooth_frames(tracked, SavgolSmoother()) if self.smooth and not is_live else tracked


_TimedFaces = tuple[float, dict[int, Float32[np.ndarray, "landmarks 2"]]]
"""The time of a frame, and its faces' landmarks by track ID."""


def smooth_frames(frames: Iterable[FrameFaces], smoother: SavgolSmoother) -> Iterator[FrameFaces]:
    """Return the same frames with smoothed landmarks, each as soon as the frames that it waits for have come."""
    waiting: deque[FrameFaces] = deque()
    window: deque[_TimedFaces] = deque()
    for newest in frames:
        waiting.append(newest)
        window.append((newest.frame.time, dict(zip(newest.track_ids, newest.faces.points, strict=True))))
        while newest.frame.time > waiting[0].frame.time + smoother.reach:
            yield _smooth_frame(waiting.popleft(), window, smoother)
    while waiting:
        yield _smooth_frame(waiting.popleft(), window, smoother)


def _smooth_frame(frame: FrameFaces, window: deque[_TimedFaces], smoother: SavgolSmoother) -> FrameFaces:
    """Return a frame with smoothed landmarks, and drop from the window what is too old for later frames."""
    now, reach = frame.frame.time, smoother.reach
    while window[0][0] < now - reach:
        window.popleft()
    points = frame.faces.points.copy()
    for i, track_id in enumerate(frame.track_ids):
        near = [
            (time, faces[track_id]) for time, faces in window if track_id in faces and time <= now + reach
        ]
        paths, times = np.array([path for _, path in near]), np.array([time - now for time, _ in near])
        points[i] = smoother(frame.faces.points[i], paths, times)
    return frame._replace(faces=replace(frame.faces, points=points))
