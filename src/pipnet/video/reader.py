"""Video files, frame by frame: RGB, upright, each with its time. PyAV reads them (extra ``video``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from pipnet.config import MAX_PIXELS
from pipnet.errors import MissingExtraError, VideoError
from pipnet.geometry import Image

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = {
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".ts",
    ".3gp",
}
"""What counts as a video where a file's ending decides. A file given as a video may have any ending."""
_LATE = 0.25
"""Seconds that a file may be shorter than it says, where it does not count its pictures."""
_ANEW = 1.0
"""Seconds that a clock must go back to have begun anew, as where two files were made one."""
_ONE_CLOCK = {"avi", "asf"}
"""Containers, by FFmpeg's names, that say when a picture is decoded and not when it is shown. What stands for
the latter is then out of order; when it leaves the decoder is right, but for a delay at the beginning."""

_HD = 720
"""Height from which pictures are stored in the colors of HDTV."""
_UNSPECIFIED = 2
"""FFmpeg's number for colors of which nothing is said."""


class Frame(NamedTuple):
    """One picture of a video."""

    image: Image
    """Upright, as a player shows it."""
    time: float
    """Seconds from the beginning of the video."""
    number: int
    """0, 1, 2, ... in the order of the video."""


class _Clock:
    """When pictures are shown, in seconds from the first one: by their own times, as far as these go on."""

    def __init__(self, step: float) -> None:
        self._step, self._time = step, -step
        self._start: float | None = None
        """What a picture's own time would be at 0 seconds."""

    def __call__(self, own: float | None) -> float:
        """The next picture's time, a step after the last one where its own is missing or goes back."""
        expected = self._time + self._step
        if own is not None and (self._start is None or own - self._start < self._time - _ANEW):
            self._start = own - expected  # the clock begins, or begins anew
        since = expected if own is None or self._start is None else own - self._start
        self._time = since if since > self._time else expected
        return self._time


class VideoReader:
    """The frames of a video file, in order, as often as it is iterated over.

    A damaged stream gives all frames that can be decoded; what was wrong then stands in `damage`.

    Example::

        for frame in VideoReader("clip.mp4"):
            faces = landmarker(frame.image)
    """

    def __init__(self, path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> None:
        """Open a video to see what it is.

        Raises:
            VideoError: missing, empty, not a video, or frames of more than ``max_pixels``.
            MissingExtraError: PyAV is not installed.
        """
        self.path = Path(path)
        self._max_pixels = max_pixels
        self._packets = 0
        self.damage: str | None = None
        """Why the last pass over the frames did not give all of them; None where it did."""
        self.complete = False
        """Whether the last pass over the frames came to the end of the file, and nothing was damaged."""
        with self._open() as container:
            stream = self._stream(container)
            self.fps = float(stream.average_rate or 25)
            """Frames a second on the mean."""
            self.frames: int | None = stream.frames or None
            """How many frames the file says it has, where it says so."""
            self._ends = _duration(container, stream)
            times = (_own_time(picture, container) for picture in self._decode(container, stream))
            self.start = next((time for time in times if time is not None), 0.0)
            """When the first picture is shown, in seconds of the clock of the file and its sound."""

    def __iter__(self) -> Iterator[Frame]:
        self.damage, self.complete, self._packets, number = None, False, 0, 0
        clock, time, shown = _Clock(1 / self.fps), -1 / self.fps, 1 / self.fps
        with self._open() as container:
            stream = self._stream(container)
            # Threads that decode several frames at once lose whole ones beside a damaged one at the end.
            stream.thread_type = "SLICE"
            shape = float(stream.sample_aspect_ratio or 1)
            for decoded in self._decode(container, stream):
                time = clock(_own_time(decoded, container))
                try:
                    image = upright(decoded, shape, self._max_pixels)
                except VideoError as error:
                    self.damage = str(error)
                    break
                shown = _shown(decoded) or 1 / self.fps
                yield Frame(image, time, number)
                number += 1
            else:
                self.damage = self._what_is_missing(number, time + shown) or self.damage
        if not number:
            raise VideoError(f"{self.path}: no frame can be decoded: {self.damage or 'it has none'}")
        self.complete = self.damage is None

    def _what_is_missing(self, number: int, end: float) -> str | None:
        """By the file's own account: how many pictures it has, or how long it is.

        Args:
            number: of pictures that were there.
            end: seconds from the beginning until which the last one is shown.
        """
        late = 0.0 if self._ends is None else self._ends - end
        if self.frames is None:
            return f"it ends {late:.1f} seconds early" if late > max(_LATE, 3 / self.fps) else None
        # Packets, not frames: what a cut hides from players is there, but never decoded, or not even read:
        # then it is as long as it says all the same.
        missing = self.frames - self._packets
        whole = missing <= 0 or (self._ends is not None and late < 0.5 / self.fps)
        return None if whole else f"it ends after {number} frames, {missing} are missing"

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        """All frames that can be decoded; a damaged packet is left out, the rest goes on."""
        from av.error import FFmpegError

        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError as error:
                self.damage = reason(error)
                packet = None
            self._packets += packet is not None and packet.size > 0
            try:
                yield from stream.decode(packet)
            except FFmpegError as error:
                self.damage = reason(error)
            if packet is None:  # nothing can be read after this
                return

    def _open(self) -> InputContainer:
        try:
            import av
        except ImportError:
            raise MissingExtraError("av", "video") from None
        if self.path.is_dir():
            raise VideoError(f"{self.path}: a folder, not a video")
        if not self.path.is_file():
            raise VideoError(f"{self.path}: no such file")
        if not self.path.stat().st_size:
            raise VideoError(f"{self.path}: empty file")
        try:
            return av.open(os.fspath(self.path), metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{self.path}: not a video that can be read: {reason(error)}") from None

    def _stream(self, container: InputContainer) -> VideoStream:
        try:
            return pictures_of(container, self._max_pixels)
        except VideoError as error:
            raise VideoError(f"{self.path}: {error}") from None


def pictures_of(container: InputContainer, max_pixels: int) -> VideoStream:
    """The stream of what was opened that holds its pictures.

    Raises:
        VideoError: there is none, or none that can be decoded, or it has frames of more than ``max_pixels``.
    """
    if not container.streams.video:
        raise VideoError("there is no picture in it, only sound")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError("there is no decoder for its pictures here")
    if stream.codec_context.width * stream.codec_context.height > max_pixels:
        raise VideoError(f"frames of more than {max_pixels:,} pixels")
    return stream


def _own_time(picture: av.VideoFrame, container: InputContainer) -> float | None:
    """When a picture is shown, in seconds of the file's clock, where the file says so."""
    ticks = picture.dts if container.format.name in _ONE_CLOCK else picture.pts
    return None if ticks is None or picture.time_base is None else float(ticks * picture.time_base)


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the pictures last in seconds, where the file says so."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is None or len(container.streams) > 1:  # the sound may be longer
        return None
    # This is the time of the end, on a clock that need not begin at 0.
    return (container.duration - max(container.start_time or 0, 0)) / 1e6


def _shown(picture: av.VideoFrame) -> float | None:
    """For how many seconds a picture is shown, where the file says so."""
    if not picture.duration or picture.time_base is None:
        return None
    return float(picture.duration * picture.time_base)


def upright(frame: av.VideoFrame, shape: float, max_pixels: int) -> Image:
    """RGB, as a player shows it: pixels made square, turned as the file says.

    Args:
        frame: as decoded.
        shape: width over height of its pixels.
        max_pixels: larger ones are refused.

    Raises:
        VideoError: the frame, unlike those before it, has more than ``max_pixels``.
    """
    width = round(frame.width * shape) if 0.1 < shape < 10 else frame.width
    if width * frame.height > max_pixels:
        raise VideoError(f"a frame of more than {max_pixels:,} pixels")
    space = color_space(frame.height) if frame.colorspace == _UNSPECIFIED else None
    image = np.asarray(frame.to_ndarray(format="rgb24", src_colorspace=space), dtype=np.uint8)
    if width != frame.width:
        image = np.asarray(cv2.resize(image, (width, frame.height)), dtype=np.uint8)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns), dtype=np.uint8)


def color_space(height: int) -> str:
    """How colors are stored in pictures so high where nothing says it, by custom; in PyAV's words."""
    return "ITU709" if height >= _HD else "ITU601"


def reason(error: Exception) -> str:
    """What FFmpeg says, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:160]
