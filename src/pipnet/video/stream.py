"""Landmarks of all frames of a video, one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.inference.landmarker import FaceLandmarker
from pipnet.inference.result import FaceLandmarks
from pipnet.video.lookahead import LookAhead
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
    smoothing: LookAhead | Smoothing | None = LookAhead(),  # noqa: B008  (frozen)
) -> Generator[FrameFaces, None, None]:
    """The faces of each frame, with identities, smoothed.

    Args:
        landmarker: finds them.
        frames: such as a `VideoReader`.
        detect_every: see `FaceTracker`.
        smoothing: `LookAhead` waits for the frames of the next quarter of a second before it gives one, which
            is for files; `Smoothing` gives each at once, which is for cameras; None leaves landmarks as they
            are found.
    """
    at_once = smoothing if isinstance(smoothing, Smoothing) else None
    tracker = FaceTracker(landmarker, detect_every, at_once)
    found = (FrameFaces(frame, *tracker(frame.image, frame.time)) for frame in frames)
    yield from steady(found, smoothing) if isinstance(smoothing, LookAhead) else found


_Seen = tuple[float, dict[int, Float32[np.ndarray, "landmarks 2"]]]
"""The time of a frame, and its faces' landmarks by their numbers."""


def steady(frames: Iterable[FrameFaces], settings: LookAhead) -> Iterator[FrameFaces]:
    """The same frames with their landmarks smoothed, each as soon as those that it waits for are there."""
    waiting: deque[FrameFaces] = deque()
    seen: deque[_Seen] = deque()
    for newest in frames:
        waiting.append(newest)
        seen.append((newest.frame.time, dict(zip(newest.ids, newest.faces.points, strict=True))))
        while newest.frame.time > waiting[0].frame.time + settings.reach:
            yield _smoothed(waiting.popleft(), seen, settings)
    while waiting:
        yield _smoothed(waiting.popleft(), seen, settings)


def _smoothed(found: FrameFaces, seen: deque[_Seen], settings: LookAhead) -> FrameFaces:
    """A frame with its landmarks smoothed; what is too old for it, and so for later ones, is forgotten."""
    now, reach = found.frame.time, settings.reach
    while seen[0][0] < now - reach:
        seen.popleft()
    points = found.faces.points.copy()
    for i, number in enumerate(found.ids):
        near = [(time, faces[number]) for time, faces in seen if number in faces and time <= now + reach]
        paths, times = np.array([path for _, path in near]), np.array([time - now for time, _ in near])
        points[i] = settings(found.faces.points[i], paths, times)
    return found._replace(faces=replace(found.faces, points=points))
