"""``pipnet webcam``: landmarks of the faces in front of a camera, live."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli.video import VideoOutputs, track_faces
from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.video.camera import LiveReader


def webcam(
    source: str = "0",
    /,
    *,
    outputs: Annotated[VideoOutputs, Parameter(name="*")] = VideoOutputs(),  # noqa: B008  (frozen)
    config: Annotated[LandmarkerConfig, Parameter(name="*")] = LandmarkerConfig(),  # noqa: B008  (frozen)
    runtime: Annotated[RuntimeConfig, Parameter(name="*")] = RuntimeConfig(),  # noqa: B008  (frozen)
) -> int:
    """Find and track the faces in front of a camera, or in another live stream.

    The latest frame is processed; frames that arrive during processing are dropped, and counted. Without
    --output and --json, --page is the default. Ctrl-C, the page's button or a closed terminal ends it and
    leaves a playable file.

    Parameters
    ----------
    source
        A camera number (see pipnet doctor), a device such as /dev/video2, a pipe, or an address such as
        rtsp://camera.local/stream.
    """
    if outputs.output is None and not outputs.json:
        outputs = replace(outputs, page=True)
    reader = LiveReader(int(source) if source.isdecimal() else source)
    return track_faces(reader, reader.name, outputs, config, runtime)
