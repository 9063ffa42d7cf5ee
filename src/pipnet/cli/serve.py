"""``pipnet serve``: detection over HTTP."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from cyclopts import Parameter

from pipnet.cli import say
from pipnet.cli.options import DEFAULT_LANDMARKER, DEFAULT_RUNTIME, LandmarkerFlags, RuntimeFlags
from pipnet.errors import MissingExtraError
from pipnet.service.config import ServiceConfig, read_token

ServiceFlags = Annotated[ServiceConfig, Parameter(name="*")]
DEFAULT_SERVICE = ServiceConfig()


def serve(
    *,
    service: ServiceFlags = DEFAULT_SERVICE,
    config: LandmarkerFlags = DEFAULT_LANDMARKER,
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
) -> None:
    """Serve detection over HTTP, for other programs.

    POST an image to /detect, as multipart/form-data, raw bytes or base64 in JSON, or several to
    /detect/batch; the answer is that of pipnet detect --json. /openapi.json describes all routes. /health and
    /ready are for probes, /metrics for Prometheus. SIGTERM or Ctrl-C stops it: accepted requests are answered
    first, and the exit code is 0.
    """
    token = read_token(service)
    try:
        from pipnet.service.server import ServiceOptions
        from pipnet.service.server import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from None
    if token is None and not _is_loopback(service.host):
        say(f"{service.host} can be reached from other machines, without a token: see --token-file")
    options = ServiceOptions(service, config, runtime, token)
    run(options, lambda address: say(f"{config.model} at {address}: POST an image to {address}/detect"))
    say("stopped: all accepted requests are answered")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
