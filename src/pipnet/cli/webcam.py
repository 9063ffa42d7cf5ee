"""``pipnet webcam``: landmarks of the faces in front of a camera, live."""

from __future__ import annotations

from dataclasses import replace

from pipnet.cli.options import DEFAULT_LANDMARKER, DEFAULT_RUNTIME, LandmarkerFlags, RuntimeFlags
from pipnet.cli.video import DEFAULT_OUTPUTS, VideoFlags, track_faces
from pipnet.video.camera import LiveReader


def webcam(
    source: str = "0",
    /,
    *,
    outputs: VideoFlags = DEFAULT_OUTPUTS,
    config: LandmarkerFlags = DEFAULT_LANDMARKER,
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
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
    reader = LiveReader(int(source) if source.isdecimal() else source, config.max_pixels)
    return track_faces(reader, reader.name, outputs, config, runtime)
