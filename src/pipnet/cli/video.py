"""``pipnet video``: landmarks of the faces of a video, followed and steady."""

from __future__ import annotations

import contextlib
import itertools
import json as jsonlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli import say
from pipnet.config import LandmarkerConfig, RuntimeConfig, to_options
from pipnet.errors import PipnetError, VideoError
from pipnet.geometry import Image
from pipnet.inference.draw import draw_names
from pipnet.progress import track
from pipnet.video.camera import LiveReader
from pipnet.video.landmarker import FrameFaces, VideoLandmarker
from pipnet.video.preview import Preview
from pipnet.video.reader import VideoReader
from pipnet.video.tracker import DETECT_EVERY
from pipnet.video.writer import VideoWriter, check_output


@dataclass(frozen=True)
class VideoOutputs:
    """How faces are tracked, and where they go. The flags of ``video`` and ``webcam``."""

    output: Annotated[Path | None, Parameter(alias="-o")] = None
    """The video to write with the landmarks drawn on, such as out.mp4."""
    json: bool = False
    """Write one JSON line a frame to standard output: time in seconds, faces with their track IDs."""
    page: bool = False
    """Show the faces on a page for the browser of this machine; its address is printed."""
    port: int = 0
    """The page's port; any free one if 0."""
    detect_every: int = DETECT_EVERY
    """Search for new faces every so many frames; 1 searches in every frame."""
    raw: bool = False
    """Do not smooth: each frame's landmarks as predicted."""


def video(
    source: Path,
    /,
    *,
    outputs: Annotated[VideoOutputs, Parameter(name="*")] = VideoOutputs(),
    config: Annotated[LandmarkerConfig, Parameter(name="*")] = LandmarkerConfig(),  # noqa: B008  (frozen)
    runtime: Annotated[RuntimeConfig, Parameter(name="*")] = RuntimeConfig(),  # noqa: B008  (frozen)
) -> int:
    """Find and follow the faces of a video.

    A damaged video gives all frames that can be read, one line says what is missing, and the exit code is 1.
    Sound is kept. Ctrl-C, SIGTERM and a closed terminal leave a playable file.

    Parameters
    ----------
    source
        A video file.
    """
    output = outputs.output
    if output is None and not outputs.json and not outputs.page:
        raise PipnetError("nothing is asked for: -o OUT.mp4, --json or --page")
    taken = () if output is None else (output, Path(f"{output}.partial"))  # the latter: what a kill left
    if source.exists() and any(path.exists() and path.samefile(source) for path in taken):
        raise VideoError(f"{output}: the output would overwrite the input")
    return track_faces(VideoReader(source), str(source), outputs, config, runtime)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM (of ``timeout`` or a service manager) and SIGHUP (of a closed terminal) end as Ctrl-C does.

    What is written is closed first, then the program exits with 128 and the signal's number. Signals that
    are handled or ignored already, as by ``nohup``, are left alone.
    """
    came: list[int] = []
    ours: set[int] = set()

    def end(number: int, _: object) -> None:
        for one in ours:
            signal.signal(one, signal.SIG_IGN)  # a terminal may send it twice
        came.append(number)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        both = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has no SIGHUP
        ours.update(number for number in both if signal.getsignal(number) is signal.SIG_DFL)
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    except (SystemExit, OSError):
        if not came:
            raise
        with contextlib.suppress(OSError):  # the terminal may be gone
            say(f"ended by {signal.Signals(came[0]).name}")
        raise SystemExit(128 + came[0]) from None
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@_ended_by_signals()
def track_faces(
    reader: VideoReader | LiveReader,
    name: str,
    outputs: VideoOutputs,
    config: LandmarkerConfig,
    runtime: RuntimeConfig,
) -> int:
    """Find and follow the faces of all frames, and hand out what was asked for.

    Returns:
        The exit code: 1 where the frames ended too early, which one line says.

    Raises:
        PipnetError: a port without a page, and as `follow`.
    """
    if outputs.port and not outputs.page:
        raise PipnetError(f"--port {outputs.port} is of the page: ask for it too, --page")
    if outputs.output is not None:
        check_output(outputs.output)
    video_landmarker = VideoLandmarker(
        detect_every=outputs.detect_every, smooth=not outputs.raw, **to_options(config, runtime)
    )
    is_file = isinstance(reader, VideoReader)
    total = reader.frames if isinstance(reader, VideoReader) else None
    tracked = track(reader, total, Path(name).name)
    frames = video_landmarker.track(tracked, is_live=not is_file)
    count = searched = 0
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(frames))
            first = next(frames)  # before anything is written: there may be no camera
            writer = _writer(reader, outputs, stack)
            preview = _preview(name, outputs, stack)
            for found in itertools.chain([first], frames):
                count, searched = count + 1, searched + found.detected
                if writer is not None or preview is not None:
                    drawn = _drawn(found)
                    if writer is not None:
                        writer.write(drawn, found.frame.time)
                    if preview is not None:
                        preview.show(drawn, f"faces: {len(found.faces)}{_dropped(reader)}")
                if outputs.json:
                    print(to_json(found), flush=True)
                if preview is not None and preview.stopped:
                    break
    finally:
        if count:
            say(f"{name}: {count} frames{_dropped(reader)}, searched for faces in {searched}")
    if writer is not None and writer.sound_lost:
        say(f"{outputs.output}: {writer.sound_lost}")
    if reader.damage:
        say(f"error: {name}: {reader.damage}")
    return 1 if reader.damage else 0


def _preview(name: str, outputs: VideoOutputs, stack: contextlib.ExitStack) -> Preview | None:
    """The page, where it was asked for, to be closed with the stack."""
    if not outputs.page:
        return None
    preview = stack.enter_context(Preview(name, outputs.port))
    say(f"look at {preview.address}")
    return preview


def _writer(
    reader: VideoReader | LiveReader, outputs: VideoOutputs, stack: contextlib.ExitStack
) -> VideoWriter | None:
    """The video to write, where one was asked for, to be closed with the stack; sound is a file's."""
    if outputs.output is None:
        return None
    sound = reader if isinstance(reader, VideoReader) else None
    return stack.enter_context(VideoWriter(outputs.output, reader.fps, sound))


def _drawn(found: FrameFaces) -> Image:
    """The frame with its faces and their numbers."""
    drawn = found.faces.plot()
    draw_names(drawn, found.faces.boxes, [str(number) for number in found.track_ids])
    return drawn


def _dropped(reader: VideoReader | LiveReader) -> str:
    return f", {reader.dropped} dropped" if isinstance(reader, LiveReader) else ""


def to_json(found: FrameFaces) -> str:
    """One line: frame, time, and each face with its number."""
    row = found.faces.to_dict()
    for face, number in zip(row["faces"], found.track_ids, strict=True):
        face["track_id"] = number
    facts = {"frame": found.frame.number, "time": round(found.frame.time, 4)}
    return jsonlib.dumps({**facts, **row})
