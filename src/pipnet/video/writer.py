"""Annotated videos: H.264 with the time of each frame, and the unchanged audio of the original."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.errors import VideoError
from pipnet.geometry import Image
from pipnet.io.atomic import atomic_write
from pipnet.io.signals import defer_signals
from pipnet.video.reader import VideoReader, color_space, ffmpeg_message, open_container, require_av
from pipnet.warp import resize

_TIME_BASE = Fraction(1, 90_000)
"""Seconds a tick of the timestamps: fine enough for any camera."""
_COARSE_TIME_BASES = {".gif": Fraction(1, 100)}
"""Containers with coarser timestamps; of frames with the same timestamp only the first is written."""
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
"""FFmpeg's names of the containers that store the time of each frame; AVI, WMV and MPEG do not."""
_CODECS = {".webm": "libvpx-vp9", ".gif": "gif"}
"""Codecs of containers other than H.264."""
_H264_COLOR_SPACES = {"ITU709": 1, "ITU601": 6}
"""H.264's numbers of color spaces, by PyAV's names."""
_LIMITED_RANGE = 1
"""H.264's number of the color range of video."""


def check_output(path: Path) -> None:
    """Refuse an output file that cannot be a video.

    Raises:
        VideoError: its suffix is not supported, or it is a folder.
    """
    if path.suffix.lower() not in _FORMATS:
        raise VideoError(f"{path}: not a supported video suffix: use {', '.join(_FORMATS)}")
    if path.is_dir():
        raise VideoError(f"{path}: cannot be written: it is a folder")


class _NoFrameError(Exception):
    """The video has no frame, for example after Ctrl-C during the first one."""


class VideoWriter:
    """Writes a video that can be played whenever writing ends, also by an error or Ctrl-C.

    The video is written to NAME.partial and renamed on `close`; the previous version is kept until then. If
    the disk is full, the previous version is kept for good; if there was none, the part that can be played is
    kept.

    Example::

        reader = VideoReader("in.mp4")
        with VideoWriter("out.mp4", reader.fps, reader) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: float, audio_source: VideoReader | None = None
    ) -> None:
        """Prepare a video. Nothing is written before the first frame, which sets the size of the video.

        Args:
            path: the file; its suffix selects the container.
            fps: mean number of frames a second, which players show.
            audio_source: the video to copy the audio of, from its first frame on, if the container supports
                it.

        Raises:
            VideoError: see `check_output`.
            MissingExtraError: PyAV is not installed.
        """
        require_av()
        self.path = Path(path)
        check_output(self.path)
        self.audio_warning: str | None = None
        """Which audio could not be copied, and why; None if all of it was copied, or if there is none."""
        self._fps = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
        self._audio_source = audio_source
        self._time_base = _COARSE_TIME_BASES.get(self.path.suffix.lower(), _TIME_BASE)
        self._resources = contextlib.ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last_tick, self._closed = -1, False
        self._error: VideoError | None = None
        self._audio_stream: Any = None
        self._audio_packets: Iterator[Any] = iter(())
        self._next_audio_packet: Any = None

    def write(self, image: Image, time: float) -> None:
        """Write a frame.

        Args:
            image: RGB; resized to the size of the first one.
            time: seconds from the start. A frame that is not later than the last one gets the next possible
                time (in GIF, with its coarse timestamps, it is dropped).

        Raises:
            VideoError: it cannot be encoded or written, for example because the disk is full.
            WriteError: the file cannot be created.
        """
        import av

        try:
            if self._stream is None:
                self._open(image)
                self._shape = image.shape
            if image.shape != self._shape:
                image = resize(image, *self._shape[1::-1])
            padding = (
                (0, self._stream.height - image.shape[0]),
                (0, self._stream.width - image.shape[1]),
                (0, 0),
            )
            frame = av.VideoFrame.from_ndarray(np.pad(image, padding, mode="edge"), format="rgb24")
            tick = round(time / self._time_base)
            if tick <= self._last_tick and self._time_base != _TIME_BASE:
                return
            self._last_tick = max(tick, self._last_tick + 1)
            if self._stream.pix_fmt == "yuv420p":
                frame = frame.reformat(format="yuv420p", dst_colorspace=color_space(frame.height))
            frame.pts, frame.time_base = self._last_tick, self._time_base
            self._container.mux(self._stream.encode(frame))
            self._copy_audio(self._last_tick * self._time_base)
        except _write_errors() as error:
            self._error = self._to_video_error(error)
            raise self._error from None

    def close(self) -> None:
        """Write the remaining data and the audio up to the last frame, and move the video to its path.

        If the frames reached the end of the video that the audio is copied from, all of its audio is copied.
        Ctrl-C and termination signals are deferred until the end. Closing again does nothing.

        Raises:
            VideoError: something could not be written.
            WriteError: the video cannot be moved to its path.
        """
        if self._closed:
            return
        self._closed = True
        with defer_signals(), contextlib.suppress(_NoFrameError), self._resources:
            if self._last_tick < 0:
                raise _NoFrameError  # removes the file, if it was opened
            try:
                self._finish()
            except _write_errors() as error:
                self._error = self._error or self._to_video_error(error)
            if self._error and (self.path.exists() or not _is_playable(self._temporary)):
                raise self._error
        if self._error:
            raise self._error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, image: Image) -> None:
        """Open the file, with a stream for the audio and one for frames like this one."""
        import av

        with contextlib.ExitStack() as resources:
            self._temporary = resources.enter_context(atomic_write(self.path))
            name = _FORMATS[self.path.suffix.lower()]
            self._container = av.open(os.fspath(self._temporary), "w", format=name)
            if self._audio_source is not None:
                self._add_audio_stream(self._audio_source, resources)
            self._stream = self._add_video_stream(image)
            try:
                self._container.start_encoding()
            except _write_errors() as error:
                if self._audio_stream is None:
                    raise
                self._disable_audio(error)  # some containers check the audio only now
                self._container.close()
                self._container = av.open(os.fspath(self._temporary), "w", format=name)
                self._stream = self._add_video_stream(image)
            self._resources = resources.pop_all()

    def _add_video_stream(self, image: Image) -> Any:
        codec = _CODECS.get(self.path.suffix.lower(), "libx264")
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
        stream: Any = self._container.add_stream(codec, rate=self._fps, options=options)
        # Colors are stored for blocks of 2 x 2 pixels: an odd side is padded by one pixel.
        height, width = image.shape[:2]
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = self._time_base
        if stream.pix_fmt == "yuv420p":
            stream.codec_context.colorspace = _H264_COLOR_SPACES[color_space(stream.height)]
            stream.codec_context.color_range = _LIMITED_RANGE
        return stream

    def _add_audio_stream(self, video: VideoReader, resources: contextlib.ExitStack) -> None:
        """Add a stream for the audio; containers require this before the first frame."""
        try:
            container = open_container(video.path)
        except VideoError as error:  # the file changed
            self._disable_audio(error)
            return
        try:
            resources.callback(container.close)
            tracks = container.streams.audio
            if tracks:
                self._audio_stream = self._container.add_stream_from_template(tracks[0])
                start = Fraction(video.start).limit_denominator(90_000)
                self._audio_packets = _shift_packets(container.demux(tracks[0]), start)
                if len(tracks) > 1:
                    self.audio_warning = f"only the first of {len(tracks)} audio tracks was copied"
        except _write_errors() as error:
            self._disable_audio(error)

    def _disable_audio(self, error: Exception) -> None:
        self.audio_warning = f"written without audio: {ffmpeg_message(error)}"
        self._audio_stream, self._audio_packets, self._next_audio_packet = None, iter(()), None

    def _copy_audio(self, end: Fraction | None) -> None:
        """Copy the audio up to a time in seconds, interleaved with the frames; all of the rest if None."""
        try:
            while self._next_audio_packet is None or end is None or _start(self._next_audio_packet) <= end:
                if self._next_audio_packet is not None:
                    self._next_audio_packet.stream = self._audio_stream
                    self._container.mux(self._next_audio_packet)
                self._next_audio_packet = next(self._audio_packets, None)
                if self._next_audio_packet is None:
                    return
        except _write_errors() as error:
            self._disable_audio(error)

    def _finish(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
            copy_all = self._audio_source is not None and self._audio_source.complete
            self._copy_audio(None if copy_all else self._last_tick * self._time_base + 1 / self._fps)
        finally:
            self._container.close()

    def _to_video_error(self, error: Exception) -> VideoError:
        return VideoError(f"{self.path}: cannot be written: {ffmpeg_message(error)}")


def _write_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of PyAV: its own, and Python's for files and arguments."""
    from av.error import FFmpegError

    return (FFmpegError, OSError, ValueError)


def _shift_packets(packets: Iterator[Any], start: Fraction) -> Iterator[Any]:
    """Yield the audio packets from a time in seconds on, which becomes time 0."""
    for packet in packets:
        if packet.dts is None or _start(packet) < start:
            continue
        shift = round(start / packet.time_base)
        packet.dts, packet.pts = packet.dts - shift, (packet.pts or packet.dts) - shift
        yield packet


def _start(packet: Any) -> Fraction:
    """Return the decoding time of a packet, in seconds of its file's clock."""
    return Fraction(packet.time_base * packet.dts)


def _is_playable(path: Path) -> bool:
    try:
        return next(iter(VideoReader(path)), None) is not None
    except VideoError:
        return False
