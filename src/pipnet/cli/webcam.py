"""``pipnet webcam``: landmarks of the faces before a camera, now."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli.video import Following, follow_faces
from pipnet.inference.backends import Runtime
from pipnet.video.live import LiveReader


def webcam(
    source: str = "0",
    /,
    *,
    following: Annotated[Following, Parameter(name="*")] = Following(),  # noqa: B008  (frozen)
    runtime: Annotated[Runtime, Parameter(name="*")] = Runtime(),  # noqa: B008  (frozen)
) -> int:
    """Find and follow the faces before a camera, or in any other live stream.

    Always the newest frame is worked on; those that came meanwhile are dropped, and counted. Without --output
    or --json the page is shown. Ctrl-C, the page's button or a closed terminal ends it
    and leaves a playable file.

    Parameters
    ----------
    source
        A camera's number (see pipnet doctor), a device such as /dev/video2, a pipe, or an address such as
        rtsp://camera.local/stream.
    """
    if following.output is None and not following.json:
        following = replace(following, page=True)
    reader = LiveReader(int(source) if source.isdecimal() else source)
    return follow_faces(reader, reader.name, following, runtime)
