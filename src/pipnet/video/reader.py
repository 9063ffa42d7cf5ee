"""Video files, frame by frame: RGB, upright, each with its time. PyAV reads them (extra ``video``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipnet.errors import MissingExtraError, VideoError
from pipnet.geometry import Image
from pipnet.images import MAX_PIXELS

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


class Frame(NamedTuple):
    """One picture of a video."""

    image: Image
    """Upright, as a player shows it."""
    time: float
    """Seconds from the beginning of the video."""
    number: int
    """0, 1, 2, ... in the order of the video."""


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
        self.damage: str | None = None
        """Why the last pass over the frames did not give all of them; None where it did."""
        with self._open() as container:
            stream = self._stream(container)
            self.fps = float(stream.average_rate or 25)
            """Frames a second on the mean."""
            self.frames: int | None = stream.frames or None
            """How many frames the file says it has, where it says so."""
            if stream.codec_context.width * stream.codec_context.height > max_pixels:
                raise VideoError(f"{self.path}: frames of more than {max_pixels:,} pixels")

    def __iter__(self) -> Iterator[Frame]:
        self.damage, number = None, 0
        with self._open() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            first: float | None = None
            for decoded in self._decode(container, stream):
                time = number / self.fps if decoded.time is None else float(decoded.time)
                first = time if first is None else first
                yield Frame(_upright(decoded), time - first, number)
                number += 1
        if self.damage is None and self.frames is not None and number < self.frames:
            self.damage = f"it ends after {number} of {self.frames} frames"

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
                self.damage = _reason(error)
                packet = None
            try:
                yield from stream.decode(packet)
            except FFmpegError as error:
                self.damage = _reason(error)
            if packet is None:  # nothing can be read after this
                return

    def _open(self) -> InputContainer:
        try:
            import av
        except ImportError:
            raise MissingExtraError("av", "video") from None
        if not self.path.is_file():
            raise VideoError(f"{self.path}: no such file")
        if not self.path.stat().st_size:
            raise VideoError(f"{self.path}: empty file")
        try:
            return av.open(os.fspath(self.path), metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{self.path}: not a video that can be read: {_reason(error)}") from None

    def _stream(self, container: InputContainer) -> VideoStream:
        if not container.streams.video:
            raise VideoError(f"{self.path}: there is no picture in it, only sound")
        return container.streams.video[0]


def _upright(frame: av.VideoFrame) -> Image:
    """RGB, turned as the file says."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns), dtype=np.uint8)


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:160]
