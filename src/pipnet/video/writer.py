"""Writing annotated videos: H.264 with each frame's own time, and the sound of the original as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from pipnet.errors import MissingExtraError, VideoError
from pipnet.geometry import Image
from pipnet.io.atomic import atomic_write, defer_signals
from pipnet.video.reader import VideoReader, color_space, reason

_TIME_BASE = Fraction(1, 90_000)
"""Seconds a tick: fine enough for the times of any camera."""
_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "ipod",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".flv": "flv",
    ".ts": "mpegts",
    ".3gp": "3gp",
    ".gif": "gif",
}
"""FFmpeg's names of the containers that keep each frame's time; AVI, WMV and MPEG's own lose it."""
_TICKS = {".gif": Fraction(1, 100)}
"""Where a container counts more coarsely; frames that fall on the same tick are left out."""
_COLOURS = {"ITU709": 1, "ITU601": 6}
"""H.264's numbers of the ways to store colors."""
_CODECS = {".webm": "libvpx-vp9", ".gif": "gif"}
"""Other endings are written in H.264."""


def _failures() -> tuple[type[Exception], ...]:
    """What PyAV raises: its own kinds, and Python's for files and arguments."""
    from av.error import FFmpegError

    return (FFmpegError, OSError, ValueError)


def check_output(path: Path) -> None:
    """See that a video can be called so.

    Raises:
        VideoError: its ending is of no video that can be written, or it is a folder.
    """
    if path.suffix.lower() not in _FORMATS:
        raise VideoError(f"{path}: not a video that can be written: those end in {', '.join(_FORMATS)}")
    if path.is_dir():
        raise VideoError(f"{path}: cannot be written: it is a folder")


class VideoWriter:
    """A video that is playable whenever writing ends, also by an error or Ctrl-C.

    It is written beside its place, as NAME.partial, and takes it when it is closed: what was there remains
    until then. Where the disk is full, it remains for good; if nothing was there, what can be played is kept.

    Example::

        reader = VideoReader("in.mp4")
        with VideoWriter("out.mp4", reader.fps, reader) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, sound: VideoReader | None = None) -> None:
        """Say what to write. Nothing is, before the first frame, whose size is the video's.

        Args:
            path: the file; its ending decides the container.
            fps: frames a second on the mean, which players show.
            sound: the video whose sound is copied from its first picture on, where it has any and the
                container can hold it.

        Raises:
            VideoError: see `check_output`.
            MissingExtraError: PyAV is not installed.
        """
        try:
            import av  # noqa: F401  (to say at once that it is missing)
        except ImportError:
            raise MissingExtraError("av", "video") from None
        self.path = Path(path)
        check_output(self.path)
        self.sound_lost: str | None = None
        """What of the sound could not be copied, and why; None where all was, or where there is none."""
        self._fps, self._sound = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001)), sound
        self._tick = _TICKS.get(self.path.suffix.lower(), _TIME_BASE)
        self._files = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last, self._closed = -1, False
        self._failed: VideoError | None = None
        self._sound_stream: Any = None
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None

    def _open(self, image: Image) -> None:
        """Open the file, with a stream for the sound and one for pictures like this one."""
        import av

        with contextlib.ExitStack() as files:
            self._partial = files.enter_context(atomic_write(self.path))
            name = _FORMATS[self.path.suffix.lower()]
            self._container = av.open(os.fspath(self._partial), "w", format=name)
            if self._sound is not None:
                self._open_sound(self._sound, files)
            self._stream = self._open_stream(image)
            try:
                self._container.start_encoding()
            except _failures() as error:
                if self._sound_stream is None:
                    raise
                self._without_sound(error)  # some containers look at it only now
                self._container.close()
                self._container = av.open(os.fspath(self._partial), "w", format=name)
                self._stream = self._open_stream(image)
            self._files = files.pop_all()

    def _open_sound(self, video: VideoReader, files: contextlib.ExitStack) -> None:
        """Make a stream for the sound before the first frame, as containers ask."""
        import av

        try:
            source = av.open(os.fspath(video.path), metadata_errors="replace")
            files.callback(source.close)
            if source.streams.audio:
                own = source.streams.audio[0]
                self._sound_stream = self._container.add_stream_from_template(own)
                start = Fraction(video.start).limit_denominator(90_000)
                self._packets = _sound_packets(source.demux(own), start)
                if len(source.streams.audio) > 1:
                    self.sound_lost = f"with the first of {len(source.streams.audio)} sound tracks alone"
        except _failures() as error:
            self._without_sound(error)

    def _without_sound(self, error: Exception) -> None:
        self.sound_lost = f"without sound: {reason(error)}"
        self._sound_stream, self._packets, self._waiting = None, iter(()), None

    def write(self, image: Image, time: float) -> None:
        """Add a frame.

        Args:
            image: RGB; brought to the size of the first one.
            time: seconds from the beginning; a frame that is no later than the last is moved just behind it
                (in GIF, whose clock is coarse, left out).

        Raises:
            VideoError: it cannot be encoded or written, such as on a full disk.
            WriteError: the file cannot be made.
        """
        import av

        try:
            if self._stream is None:
                self._open(image)
                self._shape = image.shape
            if image.shape != self._shape:
                image = np.asarray(cv2.resize(image, self._shape[1::-1]), dtype=np.uint8)
            odd = (self._stream.height - image.shape[0], self._stream.width - image.shape[1])
            padded = np.pad(image, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
            tick = round(time / self._tick)
            if tick <= self._last and self._tick != _TIME_BASE:
                return
            self._last = max(tick, self._last + 1)
            if self._stream.pix_fmt == "yuv420p":
                frame = frame.reformat(format="yuv420p", dst_colorspace=color_space(padded.shape[0]))
            frame.pts, frame.time_base = self._last, self._tick
            self._container.mux(self._stream.encode(frame))
            self._copy_sound(self._last * self._tick)
        except _failures() as error:
            self._failed = self._failure(error)
            raise self._failed from None

    def _failure(self, error: Exception) -> VideoError:
        return VideoError(f"{self.path}: cannot be written: {reason(error)}")

    def _open_stream(self, image: Image) -> Any:
        codec = _CODECS.get(self.path.suffix.lower(), "libx264")
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
        stream: Any = self._container.add_stream(codec, rate=self._fps, options=options)
        # Colors are stored for 2 x 2 pixels: an odd side grows by one.
        stream.width, stream.height = image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = self._tick
        if stream.pix_fmt == "yuv420p":
            stream.codec_context.colorspace = _COLOURS[color_space(stream.height)]
            stream.codec_context.color_range = 1  # "limited", as video has it
        return stream

    def close(self) -> None:
        """Write what is left, and the sound up to the last frame; then the video takes its place.

        Where the frames came to the end of the video that the sound is of, all of its sound is copied.
        Ctrl-C and the signals that end a program wait until all is done. Closing again does nothing.

        Raises:
            VideoError: something could not be written.
            WriteError: it cannot take its place.
        """
        if self._last < 0 or self._closed:
            return
        self._closed = True
        with defer_signals(), self._files:
            try:
                self._finish()
            except _failures() as error:
                self._failed = self._failed or self._failure(error)
            if self._failed and (self.path.exists() or not _is_playable(self._partial)):
                raise self._failed
        if self._failed:
            raise self._failed

    def _finish(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
            whole = self._sound is not None and self._sound.complete
            self._copy_sound(None if whole else self._last * self._tick + 1 / self._fps)
        finally:
            self._container.close()

    def _copy_sound(self, until: Fraction | None) -> None:
        """Copy the sound up to a time in seconds, as it lies between the frames; all that is left if None."""
        try:
            while self._waiting is None or until is None or _begins(self._waiting) <= until:
                if self._waiting is not None:
                    self._waiting.stream = self._sound_stream
                    self._container.mux(self._waiting)
                self._waiting = next(self._packets, None)
                if self._waiting is None:
                    return
        except _failures() as error:
            self._without_sound(error)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sound_packets(packets: Iterator[Any], start: Fraction) -> Iterator[Any]:
    """The sound from a time in seconds on, which is 0 on the clock of what is written."""
    for packet in packets:
        if packet.dts is None or _begins(packet) < start:
            continue
        shift = round(start / packet.time_base)
        packet.dts, packet.pts = packet.dts - shift, (packet.pts or packet.dts) - shift
        yield packet


def _begins(packet: Any) -> Fraction:
    """Seconds on the clock of its file at which a packet is decoded."""
    return Fraction(packet.time_base * packet.dts)


def _is_playable(path: Path) -> bool:
    try:
        return next(iter(VideoReader(path)), None) is not None
    except VideoError:
        return False
