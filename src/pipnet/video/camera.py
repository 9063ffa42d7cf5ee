"""Cameras and streams: always the newest frame, whatever the time that is spent on one.

PyAV opens them (extra ``video``): it says why a camera cannot be had, which OpenCV does not, and takes
cameras, network streams and pipes in one way.
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

from pipnet.config import MAX_PIXELS
from pipnet.errors import MissingExtraError, VideoError
from pipnet.video.reader import Frame, pictures_of, reason, upright

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

Source = int | str | os.PathLike[str]
"""A camera's number, or a device, pipe or address such as ``rtsp://...``."""
_PATIENCE = 10.0
"""Seconds without a picture after which nobody waits for another."""
_PAUSE = 0.005
"""Seconds between two looks at a camera that is asked before it has a picture."""
_DEVICES = {"darwin": "avfoundation", "win32": "dshow"}
"""FFmpeg's word for cameras on each system; ``v4l2`` on all others."""
_WHY = {
    errno.ENOENT: "there is no such camera",
    errno.ENODEV: "the camera is gone",
    errno.EBUSY: "another program is using it",
    errno.EACCES: "no permission to use it (on Linux, cameras are for the group 'video')",
}
"""What goes wrong with cameras, in the words of their users."""


def is_live(source: str | os.PathLike[str]) -> bool:
    """Whether pictures come by themselves, as from a camera; those of a file wait until they are read."""
    return "://" in os.fspath(source) or Path(source).is_char_device() or Path(source).is_fifo()


def without_password(address: str) -> str:
    """``rtsp://name:password@host/path`` -> ``rtsp://host/path``."""
    return re.sub(r"://[^/]*@", "://", address)


def cameras() -> list[tuple[str, str]]:
    """The cameras of this machine: FFmpeg's name of each, and the name that people know.

    Raises:
        VideoError: the system does not tell.
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video") from None
    try:
        found = av.enumerate_input_devices(_DEVICES.get(sys.platform, "v4l2"))
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"cameras cannot be listed: {reason(error)}") from None
    return [(device.name, device.description) for device in found if device.media_types != ["audio"]]


class LiveReader:
    """The newest frame of a camera or a stream, each time that one is asked for.

    A thread reads all the time; a frame that comes while an older one is worked on takes the place of the
    one that waits, which is dropped. Numbers count the dropped ones too, times are those of arrival.
    Nothing is opened before the first frame is asked for, and all is closed with the iterator.

    Example::

        for frame in LiveReader(0):
            faces = landmarker(frame.image)
    """

    def __init__(self, source: Source = 0, max_pixels: int = MAX_PIXELS) -> None:
        """Say what to read.

        Args:
            source: a camera's number, or a device, pipe or address.
            max_pixels: larger frames are refused.

        Raises:
            VideoError: it is a file, or nothing at all.
        """
        self.source, self._max_pixels = source, max_pixels
        self.name = f"camera {source}" if isinstance(source, int) else without_password(os.fspath(source))
        """What messages call it; without name and password, which addresses may hold."""
        self._shape = 1.0
        self.fps = 25.0
        """Frames a second, by its own account once it is open."""
        self.dropped = 0
        """How many frames came and were never given out, since the first that was."""
        self.damage: str | None = None
        """Why the frames ended; None where the sender ended them or nobody asked for more."""
        if not (isinstance(source, int) or is_live(source)):
            what = "a file, which `pipnet video` reads" if Path(source).is_file() else "no such camera"
            raise VideoError(f"{self.name}: {what}")

    def __iter__(self) -> Iterator[Frame]:
        self.dropped, self.damage, given, newest = 0, None, 0, _Newest()
        first: _Arrived | None = None
        thread = threading.Thread(target=self._read, args=(newest,), name=self.name, daemon=True)
        thread.start()
        try:
            while (arrived := newest.take()) is not None:
                first = first or arrived
                number = arrived.number - first.number
                self.dropped, given = number - given, given + 1
                image = upright(arrived.picture, self._shape, self._max_pixels)
                yield Frame(image, arrived.time - first.time, number)
        except VideoError as error:
            if first is None:
                raise VideoError(f"{self.name}: {error}") from None
            self.damage = str(error)
        finally:
            newest.stop()
            thread.join(1)  # it ends with the frame that it waits for; where none comes, it is left behind
        if first is None:
            raise VideoError(f"{self.name}: it ended before the first picture")

    def _read(self, newest: _Newest) -> None:
        """All that the thread does: pass on what comes, and what went wrong."""
        try:
            with self._open() as container:
                for arrived in self._arrivals(container):
                    if newest.stopped:
                        return
                    newest.put(arrived)
            newest.stop()
        except Exception as error:  # raised where the frames are taken
            newest.stop(error)

    def _arrivals(self, container: InputContainer) -> Iterator[_Arrived]:
        """What can be decoded, each with the moment it came. Damage, as where one tunes in, is left out."""
        import av

        stream, number = pictures_of(container, self._max_pixels), 0
        self.fps = float(stream.average_rate or 25)
        self._shape = float(stream.sample_aspect_ratio or 1)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.BlockingIOError:  # macOS's cameras do not wait for the next picture
                time.sleep(_PAUSE)
                packets = container.demux(stream)
                continue
            except av.error.FFmpegError as error:
                raise VideoError(_why(error)) from None
            try:
                decoded = stream.decode(packet)
            except av.error.FFmpegError:
                continue
            for picture in decoded:
                yield _Arrived(picture, time.monotonic(), number)
                number += 1

    def _open(self) -> InputContainer:
        try:
            import av
        except ImportError:
            raise MissingExtraError("av", "video") from None
        where, how = _address(self.source)
        try:
            # The timeout is for a thread that is left behind: whoever waits gave up before.
            container: InputContainer = av.open(
                where, metadata_errors="replace", timeout=2 * _PATIENCE, **how
            )
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"cannot be opened: {_why(error)}") from None
        return container


class _Arrived(NamedTuple):
    """A frame as it came, not yet converted: most may be dropped."""

    picture: av.VideoFrame
    time: float
    """On the monotonic clock, in seconds."""
    number: int
    """Of all that came."""


class _Newest:
    """Where the reading thread leaves the newest frame, and the working one takes it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrived: _Arrived | None = None
        self._error: Exception | None = None
        self.stopped = False
        """Whether there is nothing more to come, or nobody wants more."""

    def put(self, arrived: _Arrived) -> None:
        """Leave a frame, instead of one that was not taken."""
        with self._changed:
            self._arrived = arrived
            self._changed.notify()

    def stop(self, error: Exception | None = None) -> None:
        """Say that this was all, and why."""
        with self._changed:
            self.stopped, self._error = True, error
            self._changed.notify()

    def take(self) -> _Arrived | None:
        """The newest frame, which may have to come first; None where there is no more.

        Raises:
            VideoError: none came for too long.
            Exception: what the reading thread was stopped by.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._arrived or self.stopped, _PATIENCE):
                raise VideoError(f"no picture for {_PATIENCE:g} seconds")
            arrived, self._arrived = self._arrived, None
            if arrived is None and self._error is not None:
                raise self._error
            return arrived


def _why(error: Exception) -> str:
    return _WHY.get(getattr(error, "errno", 0)) or reason(error)


def _address(source: Source) -> tuple[str, dict[str, Any]]:
    """What PyAV opens for a source, and how."""
    if not isinstance(source, int):
        device = Path(source).is_char_device() and sys.platform == "linux"
        return os.fspath(source), {"format": "v4l2"} if device else {}
    if sys.platform == "darwin":
        # FFmpeg asks for 29.97 frames a second, which the cameras of Macs refuse.
        return str(source), {"format": "avfoundation", "options": {"framerate": "30"}}
    if sys.platform == "win32":
        known = cameras()
        if source >= len(known):
            raise VideoError(_WHY[errno.ENOENT])
        return f"video={known[source][0]}", {"format": "dshow"}
    return f"/dev/video{source}", {"format": "v4l2"}
