"""Cameras and network streams: always the latest frame, however long the previous one is processed.

They are read with PyAV (extra ``video``). Unlike OpenCV it says why a camera cannot be opened, and it opens
cameras, network streams and pipes in the same way.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipnet.errors import VideoError
from pipnet.io.image import MAX_PIXELS
from pipnet.video.reader import DEFAULT_FPS, Frame, ffmpeg_message, require_av, to_upright_rgb, video_stream

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

Source = int | str | os.PathLike[str]
"""A camera number, or a device, pipe or address such as ``rtsp://...``."""
READ_TIMEOUT = 10.0
"""Default number of seconds to wait for the next frame."""
_POLL_INTERVAL = 0.005
"""Seconds between two reads of a camera that does not block."""
_CAMERA_FORMATS = {"darwin": "avfoundation", "win32": "dshow"}
"""FFmpeg's format for cameras by operating system; ``v4l2`` on all others."""
_CAMERA_ERRORS = {
    errno.ENOENT: "no such camera",
    errno.ENODEV: "the camera was disconnected",
    errno.EBUSY: "another program is using the camera",
    errno.EACCES: "no permission to use the camera (on Linux, add the user to the group 'video')",
}


def is_live(source: str | os.PathLike[str]) -> bool:
    """Return whether a source delivers frames in real time, like a camera, unlike a file."""
    return "://" in os.fspath(source) or Path(source).is_char_device() or Path(source).is_fifo()


def without_password(address: str) -> str:
    """Remove user name and password: ``rtsp://name:password@host`` becomes ``rtsp://host``."""
    return re.sub(r"://[^/]*@", "://", address)


def cameras() -> list[tuple[str, str]]:
    """Return the cameras of this machine: FFmpeg's name and the description of each.

    Raises:
        VideoError: the operating system does not list them.
        MissingExtraError: PyAV is not installed.
    """
    require_av()
    import av

    try:
        devices = av.enumerate_input_devices(_CAMERA_FORMATS.get(sys.platform, "v4l2"))
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"cameras cannot be listed: {ffmpeg_message(error)}") from None
    return [(device.name, device.description) for device in devices if device.media_types != ["audio"]]


class LiveReader:
    """The latest frames of a camera, device, pipe or network stream.

    A thread reads all frames and keeps only the latest one; frames that arrive while another one is processed
    are dropped. Frame numbers count dropped frames too; times are times of arrival. The source is opened at
    the first frame, and closed with the iterator.

    Example::

        for frame in LiveReader(0):
            faces = landmarker(frame.image)
    """

    is_live = True
    """See `VideoReader.is_live`."""
    frames = None
    """The number of frames is not known."""

    def __init__(
        self, source: Source = 0, max_pixels: int = MAX_PIXELS, read_timeout: float = READ_TIMEOUT
    ) -> None:
        """Choose a source.

        Args:
            source: a camera number, or a device, pipe or address.
            max_pixels: maximum number of pixels of a frame.
            read_timeout: seconds to wait for the next frame.

        Raises:
            VideoError: the source is a file, or does not exist.
        """
        self.source, self._max_pixels, self._read_timeout = source, max_pixels, read_timeout
        self.name = f"camera {source}" if isinstance(source, int) else without_password(os.fspath(source))
        """Name for messages; without the password of an address."""
        self.fps = DEFAULT_FPS
        """Declared number of frames a second, once the source is open."""
        self._pixel_aspect = 1.0
        self.dropped = 0
        """Number of frames that were dropped since the first one."""
        self.damage: str | None = None
        """Why the frames ended; None if the source ended the stream or the iterator was closed."""
        if not (isinstance(source, int) or is_live(source)):
            reason = "a file: use `pipnet video`" if Path(source).is_file() else "no such camera"
            raise VideoError(f"{self.name}: {reason}")

    def __iter__(self) -> Iterator[Frame]:
        self.dropped, self.damage = 0, None
        returned, latest = 0, LatestFrame()
        first: _Arrival | None = None
        thread = threading.Thread(target=self._read, args=(latest,), name=self.name, daemon=True)
        thread.start()
        try:
            while (arrival := latest.take(self._read_timeout)) is not None:
                first = first or arrival
                number = arrival.number - first.number
                self.dropped, returned = number - returned, returned + 1
                image = to_upright_rgb(arrival.frame, self._pixel_aspect, self._max_pixels)
                yield Frame(image, arrival.time - first.time, number)
        except VideoError as error:
            if first is None:
                raise VideoError(f"{self.name}: {error}") from None
            self.damage = str(error)
        finally:
            latest.stop()
            thread.join(1)  # it ends at the next frame; if there is none, it is left behind
        if first is None:
            raise VideoError(f"{self.name}: the stream ended before the first frame")

    def _read(self, latest: LatestFrame) -> None:
        """Read frames until the end; runs in the thread."""
        try:
            with self._open() as container:
                for arrival in self._arrivals(container, latest):
                    if latest.stopped:
                        return
                    latest.put(arrival)
            latest.stop()
        except Exception as error:  # raised again by `LatestFrame.take`
            latest.stop(error)

    def _arrivals(self, container: InputContainer, latest: LatestFrame) -> Iterator[_Arrival]:
        """Yield all frames that can be decoded; corrupt packets, as at the start of a stream, are skipped."""
        import av

        stream, number = video_stream(container, self._max_pixels), 0
        self.fps = float(stream.average_rate or DEFAULT_FPS)
        self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
        packets = container.demux(stream)
        while not latest.stopped:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.BlockingIOError:  # cameras on macOS do not block until the next frame
                time.sleep(_POLL_INTERVAL)
                packets = container.demux(stream)
                continue
            except av.error.FFmpegError as error:
                raise VideoError(_camera_message(error)) from None
            try:
                decoded = stream.decode(packet)
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                yield _Arrival(frame, time.monotonic(), number)
                number += 1

    def _open(self) -> InputContainer:
        require_av()
        import av

        file, options = _open_arguments(self.source)
        # This timeout ends a thread that is left behind: `LatestFrame.take` gives up earlier.
        timeout = 2 * self._read_timeout
        try:
            container: InputContainer = av.open(file, metadata_errors="replace", timeout=timeout, **options)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"cannot be opened: {_camera_message(error)}") from None
        return container


class _Arrival(NamedTuple):
    """A decoded frame before its conversion to RGB, since most may be dropped."""

    frame: av.VideoFrame
    time: float
    """Seconds on the monotonic clock."""
    number: int
    """Index among all frames that arrived."""


class LatestFrame:
    """Passes the latest frame from the reading thread to the consumer; older frames are dropped."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrival: _Arrival | None = None
        self._error: Exception | None = None
        self.stopped = False
        """Whether the stream ended or the consumer stopped."""

    def put(self, arrival: _Arrival) -> None:
        """Set the latest frame; a frame that was not taken is dropped."""
        with self._changed:
            self._arrival = arrival
            self._changed.notify()

    def stop(self, error: Exception | None = None) -> None:
        """End the stream, with the error that ended it."""
        with self._changed:
            self.stopped, self._error = True, error
            self._changed.notify()

    def take(self, timeout: float) -> _Arrival | None:
        """Wait for the latest frame and return it; None at the end of the stream.

        Args:
            timeout: seconds to wait.

        Raises:
            VideoError: no frame arrived in time.
            Exception: the error that ended the stream.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._arrival or self.stopped, timeout):
                raise VideoError(f"no frame for {timeout:g} seconds")
            arrival, self._arrival = self._arrival, None
            if arrival is None and self._error is not None:
                raise self._error
            return arrival


def _camera_message(error: Exception) -> str:
    return _CAMERA_ERRORS.get(getattr(error, "errno", 0)) or ffmpeg_message(error)


def _open_arguments(source: Source) -> tuple[str, dict[str, Any]]:
    """Return the file name and options to open a source with PyAV."""
    if not isinstance(source, int):
        is_device = Path(source).is_char_device() and sys.platform == "linux"
        return os.fspath(source), {"format": "v4l2"} if is_device else {}
    if sys.platform == "darwin":
        # FFmpeg's default of 29.97 frames a second is refused by the cameras of Macs.
        return str(source), {"format": "avfoundation", "options": {"framerate": "30"}}
    if sys.platform == "win32":
        devices = cameras()
        if source >= len(devices):
            raise VideoError(_CAMERA_ERRORS[errno.ENOENT])
        return f"video={devices[source][0]}", {"format": "dshow"}
    return f"/dev/video{source}", {"format": "v4l2"}
