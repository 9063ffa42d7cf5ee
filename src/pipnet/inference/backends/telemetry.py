"""The telemetry of ONNX Runtime, switched off.

On Linux and macOS, ONNX Runtime 1.29 and later write a device ID below the user's cache folder when they are
imported, and send usage data to Microsoft. ``ORT_DISABLE_TELEMETRY=1`` turns off both if it is set before the
import; ``disable_telemetry_events`` alone leaves the device ID and a first event. On Windows, only the latter
has an effect.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_SWITCH = "ORT_DISABLE_TELEMETRY"


@contextlib.contextmanager
def telemetry_off() -> Iterator[None]:
    """Import ONNX Runtime without telemetry. The environment is restored; a user's own setting is kept."""
    if _SWITCH in os.environ:
        yield
        return
    os.environ[_SWITCH] = "1"
    try:
        yield
        import onnxruntime

        onnxruntime.disable_telemetry_events()
    finally:
        del os.environ[_SWITCH]
