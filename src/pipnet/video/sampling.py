"""Some frames of a video as pictures: what self-training learns from."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from pipnet.errors import VideoError
from pipnet.io.atomic import atomic_write
from pipnet.io.image import write_image
from pipnet.progress import track
from pipnet.video.reader import VideoReader

_EVERY = 1.0
"""Seconds between two frames; nearer ones show the same face in the same pose."""


def sample_frames(video: Path, folder: Path) -> list[Path]:
    """Write a frame of each second of a video as pictures, or find those that were written before.

    Args:
        video: the video.
        folder: where its own folder of pictures is put; it appears whole or not at all.

    Raises:
        VideoError: missing, or without a frame that can be read. A damaged one gives what it has.
        WriteError: the folder cannot be written.
    """
    try:
        facts = video.stat()
    except FileNotFoundError:
        raise VideoError(f"{video}: no such file") from None
    except OSError as error:
        raise VideoError(f"{video}: cannot be read: {error.strerror}") from None
    which = f"{video.resolve()} {facts.st_size} {facts.st_mtime_ns}"  # another file of this name is another
    own = folder / f"{video.stem}-{hashlib.sha256(which.encode()).hexdigest()[:8]}"
    if not own.is_dir():
        with atomic_write(own) as partial:
            partial.mkdir()
            reader, due = VideoReader(video), 0.0
            for frame in track(reader, reader.frames, f"frames of {video.name}"):
                if frame.time >= due:
                    write_image(partial / f"{frame.number:06d}.png", frame.image)
                    due = frame.time + _EVERY
            if reader.damage:
                print(f"{video}: damaged: {reader.damage}", file=sys.stderr)  # noqa: T201
            if not any(partial.iterdir()):
                raise VideoError(f"{video}: no frame can be read")
    return sorted(own.glob("*.png"))
