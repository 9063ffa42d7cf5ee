"""``pipnet video``: tracked and smoothed landmarks of the faces of a video."""

from __future__ import annotations

import contextlib
import itertools
import json as jsonlib
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from pipnet.cli import say, say_error
from pipnet.cli.hints import say_hint
from pipnet.cli.options import (
    DEFAULT_LANDMARKER,
    DEFAULT_RUNTIME,
    LandmarkerFlags,
    OptionalOutput,
    RuntimeFlags,
)
from pipnet.confidence import LOW_QUALITY
from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.errors import PipnetError, VideoError
from pipnet.geometry import Image
from pipnet.inference.draw import draw_labels
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.signals import exit_on_signals
from pipnet.io.text import counted
from pipnet.progress import show_progress
from pipnet.video.camera import LiveReader
from pipnet.video.preview_page import Preview
from pipnet.video.reader import VideoReader
from pipnet.video.tracker import DETECT_EVERY
from pipnet.video.video_landmarker import FrameFaces, VideoLandmarker
from pipnet.video.writer import VideoWriter, check_output


@dataclass(frozen=True)
class VideoOutputs:
    """Tracking and outputs: the flags of ``video`` and ``webcam``."""

    output: OptionalOutput = None
    """Video file to write with the landmarks drawn on it, such as out.mp4."""
    json: bool = False
    """Write one JSON line a frame to standard output: frame, time in seconds, width, height, and faces with
    track IDs."""
    page: bool = False
    """Show the landmarks on a web page on this machine; its address is printed."""
    port: int = 0
    """Port of the page; any free one if 0."""
    detect_every: int = DETECT_EVERY
    """Number of frames between two runs of the face detector; 1 runs it on every frame."""
    raw: bool = False
    """Do not smooth the landmarks."""


VideoFlags = Annotated[VideoOutputs, Parameter(name="*")]
DEFAULT_OUTPUTS = VideoOutputs()


def video(
    source: Path,
    /,
    *,
    outputs: VideoFlags = DEFAULT_OUTPUTS,
    config: LandmarkerFlags = DEFAULT_LANDMARKER,
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
) -> int:
    """Find and track the faces of a video.

    All readable frames of a corrupt video are processed; one line reports what is missing, and the exit
    code is 1. Audio is copied. Ctrl-C, SIGTERM and a closed terminal leave a playable file.

    Parameters
    ----------
    source
        A video file.
    """
    output = outputs.output
    if output is None and not outputs.json and not outputs.page:
        raise PipnetError("no output selected: use -o OUT.mp4, --json or --page")
    written = () if output is None else (output, Path(f"{output}.partial"))
    if source.exists() and any(path.exists() and path.samefile(source) for path in written):
        raise VideoError(f"{output}: the output would overwrite the input")
    return track_faces(VideoReader(source, config.max_pixels), str(source), outputs, config, runtime)


@exit_on_signals(say)
def track_faces(
    reader: VideoReader | LiveReader,
    name: str,
    outputs: VideoOutputs,
    config: LandmarkerConfig,
    runtime: RuntimeConfig,
) -> int:
    """Find and track the faces of all frames, and write the outputs.

    Returns:
        The exit code: 1 if the frames ended too early, which one line on standard error reports.

    Raises:
        PipnetError: a port without a page, or see `VideoLandmarker`.
    """
    if outputs.port and not outputs.page:
        raise PipnetError(f"--port {outputs.port} needs --page")
    if outputs.output is not None:
        check_output(outputs.output)
    landmarker = FaceLandmarker.from_configs(config, runtime)
    video_landmarker = VideoLandmarker(landmarker, detect_every=outputs.detect_every, smooth=not outputs.raw)
    tracks = _TrackQuality()
    frames = show_progress(tracks.watch(video_landmarker.track(reader)), reader.frames, Path(name).name)
    audio_warning = _write_outputs(frames, reader, name, outputs)
    low, count = tracks.count()
    say_hint(low, count, config, empty=int(not count))
    if audio_warning:
        say(f"{outputs.output}: {audio_warning}")
    if reader.damage:
        say_error(f"{name}: {reader.damage}")
    return 1 if reader.damage else 0


class _TrackQuality:
    """The mean quality of each track of a video."""

    def __init__(self) -> None:
        self._sums: dict[int, float] = defaultdict(float)
        self._frames: dict[int, int] = defaultdict(int)

    def watch(self, frames: Iterator[FrameFaces]) -> Generator[FrameFaces, None, None]:
        """Yield the frames, and take note of the quality of their faces."""
        for frame in frames:
            for track_id, quality in zip(frame.track_ids, frame.faces.quality.tolist(), strict=True):
                self._sums[track_id] += quality
                self._frames[track_id] += 1
            yield frame

    def count(self) -> tuple[int, int]:
        """Return the number of tracks with low quality, and that of all tracks."""
        low = sum(total / self._frames[track_id] < LOW_QUALITY for track_id, total in self._sums.items())
        return low, len(self._sums)


def _write_outputs(
    frames: Generator[FrameFaces, None, None],
    reader: VideoReader | LiveReader,
    name: str,
    outputs: VideoOutputs,
) -> str | None:
    """Write the faces of all frames, and return a warning if audio is missing in the output."""
    count = detected = 0
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(frames))
            first = next(frames)  # before anything is written: the camera may not exist
            writer = _open_writer(reader, outputs, stack)
            preview = _open_preview(name, outputs, stack)
            for frame in itertools.chain([first], frames):
                count, detected = count + 1, detected + frame.detected
                if writer is not None or preview is not None:
                    image = _draw(frame)
                    if writer is not None:
                        writer.write(image, frame.frame.time)
                    if preview is not None:
                        preview.show(image, f"faces: {len(frame.faces)}{_dropped(reader)}")
                if outputs.json:
                    print(to_json(frame), flush=True)
                if preview is not None and preview.stopped:
                    break
    finally:
        if count:
            say(f"{name}: {counted(count, 'frame')}{_dropped(reader)}, detector ran on {detected}")
    return None if writer is None else writer.audio_warning


def _open_preview(name: str, outputs: VideoOutputs, stack: contextlib.ExitStack) -> Preview | None:
    """Start the page if it is requested; the stack closes it."""
    if not outputs.page:
        return None
    preview = stack.enter_context(Preview(name, outputs.port))
    say(f"preview: {preview.address}")
    return preview


def _open_writer(
    reader: VideoReader | LiveReader, outputs: VideoOutputs, stack: contextlib.ExitStack
) -> VideoWriter | None:
    """Start the output video if it is requested, with the audio of a file; the stack closes it."""
    if outputs.output is None:
        return None
    audio_source = reader if isinstance(reader, VideoReader) else None
    return stack.enter_context(VideoWriter(outputs.output, reader.fps, audio_source))


def _draw(tracked: FrameFaces) -> Image:
    """Return the image with its faces and their track IDs."""
    image = tracked.faces.plot()
    draw_labels(image, tracked.faces.boxes, [str(track_id) for track_id in tracked.track_ids])
    return np.asarray(image)


def _dropped(reader: VideoReader | LiveReader) -> str:
    return f", {reader.dropped} dropped" if reader.is_live else ""


def to_json(tracked: FrameFaces) -> str:
    """Return one JSON line: frame, time, width, height, and the faces with their track IDs."""
    frame = tracked.frame
    row = {"frame": frame.number, "time": round(frame.time, 4), **tracked.faces.to_dict()}
    for face, track_id in zip(row["faces"], tracked.track_ids, strict=True):
        face["track_id"] = track_id
    return jsonlib.dumps(row)
