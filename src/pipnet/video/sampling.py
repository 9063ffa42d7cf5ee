"""Frames of a video as image files, for self-training."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from pipnet.errors import VideoError
from pipnet.io.atomic import atomic_write
from pipnet.io.image import write_image
from pipnet.progress import show_progress
from pipnet.video.reader import VideoReader

_log = logging.getLogger(__name__)
_INTERVAL = 1.0
"""Seconds between two frames; closer ones show the same face in the same pose."""


def sample_frames(video: Path, folder: Path) -> list[Path]:
    """Write one frame of each second of a video as an image file, unless an earlier call did.

    Args:
        video: the video file. Of a corrupt one the readable frames are written, with a warning.
        folder: the parent folder; a subfolder for this video is created in it atomically.

    Returns:
        The image files.

    Raises:
        VideoError: the video is missing or has no readable frame.
        WriteError: the folder cannot be written.
    """
    try:
        stat = video.stat()
    except FileNotFoundError:
        raise VideoError(f"{video}: no such file") from None
    except OSError as error:
        raise VideoError(f"{video}: cannot be read: {error.strerror}") from None
    key = f"{video.resolve()} {stat.st_size} {stat.st_mtime_ns}"  # changes if the file is replaced
    target = folder / f"{video.stem}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    if not target.is_dir():
        with atomic_write(target) as temporary:
            temporary.mkdir()
            reader, next_time = VideoReader(video), 0.0
            for frame in show_progress(reader, reader.frames, f"frames of {video.name}"):
                if frame.time >= next_time:
                    write_image(temporary / f"{frame.number:06d}.png", frame.image)
                    next_time = frame.time + _INTERVAL
            if reader.damage:
                _log.warning("%s: corrupt video: %s", video, reader.damage)
            if not any(temporary.iterdir()):
                raise VideoError(f"{video}: no readable frame")
    return sorted(target.glob("*.png"))
