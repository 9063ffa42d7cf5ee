"""Tracked and smoothed landmarks of the faces of a video file, a camera, or frames of the caller."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.errors import VideoError
from pipnet.hub import DEFAULT_MODEL
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.results import FaceLandmarks
from pipnet.io.image_source import ImageSource, as_image
from pipnet.video.camera import LiveReader, is_live
from pipnet.video.reader import Frame, VideoReader
from pipnet.video.savgol_smoother import SavgolSmoother
from pipnet.video.tracker import DETECT_EVERY, FaceTracker


class FrameFaces(NamedTuple):
    """A frame and its faces."""

    frame: Frame
    faces: FaceLandmarks
    """The same as for an image, except for the boxes: see `TrackedFaces`."""
    track_ids: list[int]
    """ID of each face, the same in all frames."""
    detected: bool
    """Whether the detector ran on this frame."""


class VideoLandmarker:
    """Detects and tracks the faces of a video, and smooths their landmarks.

    Example::

        for frame, faces, track_ids, _ in VideoLandmarker().stream("clip.mp4"):
            print(frame.time, track_ids, faces.points)

    With frames of your own, such as those of OpenCV, one object follows one video::

        video_landmarker = VideoLandmarker()
        while capturing:
            _, faces, track_ids, _ = video_landmarker.update(image, time.monotonic(), bgr=True)
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
            model: a landmarker, or a model's name, file, folder or hub ID.
            detect_every: number of frames between two runs of the detector; faces are tracked in all frames.
            smooth: smooth the landmarks: those of a file with the frames before and after (`SavgolSmoother`),
                those of a camera and of `update` with the frames before (`CausalSmoother`).
            options: options of `FaceLandmarker`; only if ``model`` is not a landmarker.

        Raises:
            PipnetError, TypeError: see `FaceLandmarker`.
        """
        if isinstance(model, FaceLandmarker) and options:
            raise TypeError(f"pass {', '.join(options)} to the FaceLandmarker: it is loaded already")
        self.landmarker = model if isinstance(model, FaceLandmarker) else FaceLandmarker(model, **options)
        self.detect_every, self.smooth = detect_every, smooth
        self._tracker: FaceTracker | None = None
        self._time, self._frames = -np.inf, 0

    def update(self, frame: ImageSource, time: float, *, bgr: bool = False) -> FrameFaces:
        """Return the faces of the next frame of the caller's own video, without delay.

        Args:
            frame: the frame: an RGB uint8 array (height, width, 3), or any other image that `FaceLandmarker`
                takes. Frames may differ in size.
            time: seconds, from any start; not earlier than that of the last frame. A frame with the same
                time as the last one gets the last frame's landmarks where they are smoothed.
            bgr: whether arrays and tensors are BGR, as OpenCV's frames are. The frame of the result is RGB.

        Returns:
            The same as an element of `stream`. Frame numbers count from 0, and track IDs from 1, since the
            start or the last `reset`.

        Raises:
            ImageError: the frame cannot be read.
            VideoError: the time is earlier than that of the last frame, or not finite.
            PipnetError: ``detect_every`` is less than 1.
        """
        image = as_image(frame, self.landmarker.pipeline.config.max_pixels, bgr)
        if not -np.inf < time < np.inf:
            raise VideoError(f"time must be a finite number of seconds, not {time}")
        if time < self._time:
            raise VideoError(
                f"time {time:g} is earlier than that of the last frame, {self._time:g}: pass frames in order,"
                " and call reset() before another video"
            )
        if self._tracker is None:
            self._tracker = FaceTracker(self.landmarker.pipeline, self.detect_every, self.smooth)
        tracked = self._tracker(image, time)
        result = FrameFaces(Frame(image, time, self._frames), *tracked)
        self._time, self._frames = time, self._frames + 1
        return result

    def reset(self) -> None:
        """Forget the faces and the time of earlier calls of `update`: the next frame begins another video."""
        self._tracker = None
        self._time, self._frames = -np.inf, 0

    def stream(self, source: int | str | os.PathLike[str]) -> Iterator[FrameFaces]:
        """Return the faces of each frame of a video file, or of the latest frames of a live source.

        Args:
            source: a video file, of which no frame is dropped; or a camera number, device, pipe or address,
                of which frames that arrive during processing are dropped, see `LiveReader`.

        Raises:
            VideoError: it cannot be read. A live source is opened at the first frame, and raises then.
            MissingExtraError: PyAV is not installed.
        """
        max_pixels = self.landmarker.pipeline.config.max_pixels
        if isinstance(source, int) or is_live(source):
            return self.track(LiveReader(source, max_pixels))
        return self.track(VideoReader(source, max_pixels))

    def track(self, reader: VideoReader | LiveReader) -> Iterator[FrameFaces]:
        """Return the faces of each frame.

        Smoothing delays each frame of a file by a quarter of a second of video. Frames of a live source are
        returned without delay.

        Raises:
            PipnetError: ``detect_every`` is less than 1.
        """
        smooth_causally = self.smooth and reader.is_live
        tracker = FaceTracker(self.landmarker.pipeline, self.detect_every, smooth_causally)
        tracked = (FrameFaces(frame, *tracker(frame.image, frame.time)) for frame in reader)
        yield from tracked if smooth_causally or not self.smooth else smooth_frames(tracked, SavgolSmoother())


_TimedFaces = tuple[float, dict[int, Float32[np.ndarray, "landmarks 2"]]]
"""The time of a frame, and the landmarks of its faces by track ID."""


def smooth_frames(frames: Iterable[FrameFaces], smoother: SavgolSmoother) -> Iterator[FrameFaces]:
    """Return the frames with smoothed landmarks, each as soon as all frames within its reach are known."""
    waiting: deque[FrameFaces] = deque()
    window: deque[_TimedFaces] = deque()
    for latest in frames:
        waiting.append(latest)
        window.append((latest.frame.time, dict(zip(latest.track_ids, latest.faces.points, strict=True))))
        while latest.frame.time > waiting[0].frame.time + smoother.reach:
            yield _smooth_frame(waiting.popleft(), window, smoother)
    while waiting:
        yield _smooth_frame(waiting.popleft(), window, smoother)


def _smooth_frame(tracked: FrameFaces, window: deque[_TimedFaces], smoother: SavgolSmoother) -> FrameFaces:
    """Return a frame with smoothed landmarks, and drop frames from the window that are too old for it."""
    now, reach = tracked.frame.time, smoother.reach
    while window[0][0] < now - reach:
        window.popleft()
    points = tracked.faces.points.copy()
    for i, track_id in enumerate(tracked.track_ids):
        near = [
            (time, faces[track_id]) for time, faces in window if track_id in faces and time <= now + reach
        ]
        times, path = (np.array(part) for part in zip(*near, strict=True))
        points[i] = smoother(points[i], path, times - now)
    return tracked._replace(faces=replace(tracked.faces, points=points))
