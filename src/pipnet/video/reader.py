"""Frames of video files: RGB, upright, each with its time. Read with PyAV (extra ``video``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipnet.errors import MissingExtraError, VideoError, one_line
from pipnet.geometry import Image
from pipnet.io.image import MAX_PIXELS
from pipnet.io.regular_file import typed_errors
from pipnet.io.text import counted
from pipnet.warp import resize

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp"),
}
"""Suffixes of the files in a folder that are read as videos. A single video file may have any suffix."""
DEFAULT_FPS = 25.0
"""Frames a second of a video that does not declare them."""
_MAX_MISSING_TIME = 0.25
"""Maximum difference between declared and actual duration of a complete video, in seconds, where the file
does not declare its number of frames."""
_CLOCK_RESET = 1.0
"""Seconds by which timestamps must go back to count as a reset of the clock, as in concatenated files."""
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,asf_o,flv,live_flv,ogg,nut,mxf,gxf,rm,"
    "wtv,dv,nsv,nuv,swf,ivf,obu,av1,h261,h263,h264,hevc,vvc,m4v,vc1,vc1test,dirac,dnxhd,avs2,avs3,cavsvideo,"
    "mjpeg,mjpeg_2000,mpjpeg,smjpeg,yuv4mpegpipe,gif,apng,webp_pipe,jpegxl_anim,flic,cine,bink,smk,roq,ser,v210,"
    "image2,jpeg_pipe,png_pipe,bmp_pipe,tiff_pipe,"  # one image is a video of one frame
    "wav,w64,aiff,mp3,flac,aac"  # to say that they have no video
)
"""Containers that are read, by FFmpeg's names: those that do not refer to other files or addresses."""
_DECODE_TIME_ONLY = {"avi", "asf"}
"""Containers, by FFmpeg's names, that store when a frame is decoded, not when it is shown. Their presentation
timestamps are out of order; those of decoding are right, except for a delay at the beginning."""
_MIN_HD_HEIGHT = 720
"""Minimum height of frames that are stored in the color space of HDTV (BT.709)."""
_UNSPECIFIED_COLOR_SPACE = 2
"""FFmpeg's number."""


class Frame(NamedTuple):
    """One frame of a video."""

    image: Image
    """RGB, upright, as a player shows it."""
    time: float
    """Seconds from the first frame."""
    number: int
    """Index of the frame in the video, from 0."""


class VideoReader:
    """The frames of a video file, in order. It can be iterated over several times.

    Of a corrupt file all frames that can be decoded are read; `damage` then says what is wrong.

    Example::

        for frame in VideoReader("clip.mp4"):
            faces = landmarker(frame.image)
    """

    is_live = False
    """Whether frames arrive in real time, and are dropped while others are processed."""
    dropped = 0
    """Number of dropped frames, see `LiveReader`."""

    def __init__(self, path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> None:
        """Open a video and read its properties.

        Args:
            path: the file.
            max_pixels: maximum number of pixels of a frame.

        Raises:
            VideoError: missing, empty, not a video, or frames of more than ``max_pixels``.
            MissingExtraError: PyAV is not installed.
        """
        self.path = Path(path)
        self._max_pixels = max_pixels
        self._packets = 0
        self.damage: str | None = None
        """Why the last iteration did not return all frames; None if it did."""
        self.complete = False
        """Whether the last iteration reached the end of the file without damage."""
        with typed_errors(VideoError, f"{self.path}: not a readable video"), self._open() as container:
            stream = self._stream(container)
            self.fps = float(stream.average_rate or DEFAULT_FPS)
            """Mean number of frames a second."""
            self.frames: int | None = stream.frames or None
            """Number of frames that the file declares; None if it does not."""
            self._duration = _duration(container, stream)
            times = (_timestamp(frame, container) for frame in self._decode(container, stream))
            self.start = next((time for time in times if time is not None), 0.0)
            """Timestamp of the first frame, in seconds of the clock that video and audio share."""

    def __iter__(self) -> Iterator[Frame]:
        self.damage, self.complete, self._packets, number = None, False, 0, 0
        clock, time, duration = _Clock(1 / self.fps), -1 / self.fps, 1 / self.fps
        with typed_errors(VideoError, f"{self.path}: not a readable video"), self._open() as container:
            stream = self._stream(container)
            # With threads that decode several frames at once, a corrupt packet near the end loses more
            # frames.
            stream.thread_type = "SLICE"
            pixel_aspect = float(stream.sample_aspect_ratio or 1)
            for decoded in self._decode(container, stream):
                time = clock(_timestamp(decoded, container))
                try:
                    image = to_upright_rgb(decoded, pixel_aspect, self._max_pixels)
                except VideoError as error:
                    self.damage = str(error)
                    break
                duration = _frame_duration(decoded) or 1 / self.fps
                yield Frame(image, time, number)
                number += 1
            else:
                self.damage = self._missing_end(number, time + duration) or self.damage
        if not number:
            raise VideoError(f"{self.path}: no frame can be decoded: {self.damage or 'it has none'}")
        self.complete = self.damage is None

    def _missing_end(self, number: int, end: float) -> str | None:
        """Return what is missing at the end of the file, by the frames or duration that it declares.

        Args:
            number: number of frames that were decoded.
            end: end of the last frame, in seconds from the first one.
        """
        missing_time = 0.0 if self._duration is None else self._duration - end
        if self.frames is None:
            is_short = missing_time > max(_MAX_MISSING_TIME, 3 / self.fps)
            return f"the file ends {missing_time:.1f} seconds early" if is_short else None
        # Packets are compared, not frames: frames that an edit list hides from players are in the file, but
        # not decoded, or not even read. In the latter case the duration is right all the same.
        missing = self.frames - self._packets
        is_complete = missing <= 0 or (self._duration is not None and missing_time < 0.5 / self.fps)
        return None if is_complete else f"the file ends after {counted(number, 'frame')}, {missing} missing"

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        """Yield all frames that can be decoded; corrupt packets are skipped."""
        from av.error import FFmpegError

        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError as error:
                self.damage = ffmpeg_message(error)
                packet = None
            self._packets += packet is not None and packet.size > 0
            try:
                yield from stream.decode(packet)
            except FFmpegError as error:
                self.damage = ffmpeg_message(error)
            if packet is None:  # nothing can be read after this error
                return

    def _open(self) -> InputContainer:
        if self.path.is_dir():
            raise VideoError(f"{self.path}: a folder, not a video")
        if not self.path.is_file():
            raise VideoError(f"{self.path}: no such file")
        if not self.path.stat().st_size:
            raise VideoError(f"{self.path}: empty file")
        return open_container(self.path)

    def _stream(self, container: InputContainer) -> VideoStream:
        try:
            return video_stream(container, self._max_pixels)
        except VideoError as error:
            raise VideoError(f"{self.path}: {error}") from None


def open_container(path: Path) -> InputContainer:
    """Open a video file with FFmpeg; formats that refer to other files, such as playlists, are refused.

    Raises:
        VideoError: not a video of a known format.
        MissingExtraError: PyAV is not installed.
    """
    require_av()
    import av

    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    try:
        return av.open(os.fspath(path), metadata_errors="replace", container_options=options)
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: not a readable video: {ffmpeg_message(error)}") from None


class _Clock:
    """Times of frames in seconds from the first one, from their timestamps as long as these increase."""

    def __init__(self, step: float) -> None:
        self._step, self._time = step, -step
        self._start: float | None = None
        """The timestamp that corresponds to 0 seconds."""

    def __call__(self, timestamp: float | None) -> float:
        """Return the next frame's time: one step later if its timestamp is missing or does not increase."""
        expected = self._time + self._step
        if timestamp is not None and (
            self._start is None or timestamp - self._start < self._time - _CLOCK_RESET
        ):
            self._start = timestamp - expected  # the clock starts or is reset
        time = expected if timestamp is None or self._start is None else timestamp - self._start
        self._time = time if time > self._time else expected
        return self._time


def require_av() -> None:
    """Raise an error that names the extra to install if PyAV is not installed.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise MissingExtraError("av", "video") from None


def video_stream(container: InputContainer, max_pixels: int) -> VideoStream:
    """Return the video stream of a container.

    Raises:
        VideoError: there is none, it cannot be decoded, or its frames have more than ``max_pixels``.
    """
    if not container.streams.video:
        raise VideoError("it has no video, only audio")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError("FFmpeg has no decoder for it")
    if stream.codec_context.width * stream.codec_context.height > max_pixels:
        raise VideoError(f"frames of more than {max_pixels:,} pixels")
    return stream


def to_upright_rgb(frame: av.VideoFrame, pixel_aspect: float, max_pixels: int) -> Image:
    """Return a decoded frame as a player shows it: RGB, with square pixels, rotated as the file declares.

    Args:
        frame: the decoded frame.
        pixel_aspect: width of its pixels, divided by their height.
        max_pixels: maximum number of pixels.

    Raises:
        VideoError: the frame, unlike those before it, has more than ``max_pixels``.
    """
    width = max(round(frame.width * pixel_aspect), 1) if 0.1 < pixel_aspect < 10 else frame.width
    if max(width, frame.width) * frame.height > max_pixels:
        raise VideoError(f"a frame of more than {max_pixels:,} pixels")
    source = color_space(frame.height) if frame.colorspace == _UNSPECIFIED_COLOR_SPACE else None
    try:
        image = np.asarray(frame.to_ndarray(format="rgb24", src_colorspace=source), dtype=np.uint8)
    except (OSError, ValueError) as error:  # FFmpeg cannot convert every format of pixels
        raise VideoError(f"a frame of {frame.format.name} cannot be converted: {one_line(error)}") from None
    if width != frame.width:
        image = resize(image, width, frame.height)
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns), dtype=np.uint8)


def color_space(height: int) -> str:
    """Return PyAV's name of the color space that frames of a height have by convention."""
    return "ITU709" if height >= _MIN_HD_HEIGHT else "ITU601"


def ffmpeg_message(error: Exception) -> str:
    """Return FFmpeg's error message in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:160]


def _timestamp(frame: av.VideoFrame, container: InputContainer) -> float | None:
    """Return when a frame is shown, in seconds of the file's clock; None if the file does not say so."""
    ticks = frame.dts if container.format.name in _DECODE_TIME_ONLY else frame.pts
    return None if ticks is None or frame.time_base is None else float(ticks * frame.time_base)


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the declared duration of the video stream in seconds."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is None or len(container.streams) > 1:  # the audio may be longer
        return None
    # This is the time of the end, on a clock that need not start at 0.
    return (container.duration - max(container.start_time or 0, 0)) / 1e6


def _frame_duration(frame: av.VideoFrame) -> float | None:
    """Return the declared duration of a frame in seconds."""
    if not frame.duration or frame.time_base is None:
        return None
    return float(frame.duration * frame.time_base)
