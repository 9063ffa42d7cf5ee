"""Running the application: the socket, the processes, and a stop that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Event
from typing import Any

import PIL.Image
import uvicorn

from pipnet.config import LandmarkerConfig, RuntimeConfig, available_cores
from pipnet.errors import PipnetError, one_line
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import ignore_pillow_warnings
from pipnet.service.config import METRICS_VARIABLE, ServiceConfig
from pipnet.service.supervisor import Supervisor

_DRAIN = 1.0
"""Seconds for accepted connections to send their request, after nothing more is accepted."""
_BACKLOG = 2048


@dataclass(frozen=True)
class ServiceOptions:
    """All options of a service; they are sent to its processes."""

    service: ServiceConfig
    landmarker: LandmarkerConfig
    runtime: RuntimeConfig
    token: str | None

    def per_process(self) -> ServiceOptions:
        """Return the options of one process, which share the processor's threads evenly."""
        if self.service.workers == 1 or self.runtime.threads is not None:
            return self
        return replace(self, runtime=replace(self.runtime, threads=self.threads))

    @property
    def threads(self) -> int:
        """How many threads one process uses."""
        return self.runtime.threads or max(available_cores() // self.service.workers, 1)


def serve(options: ServiceOptions, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, and answer the requests that were accepted before returning.

    This changes global state: the handlers of signals, Pillow's warnings, and an environment variable.

    Args:
        options: all options.
        on_ready: is called with the address when requests can be sent.

    Raises:
        PipnetError: the port cannot be used, the model or the detector cannot be loaded, or a process cannot
            start.
    """
    config = options.service
    with _listen(config) as listener, _collected_signals() as signals:
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if config.workers == 1:
            _run(options, listener, lambda: on_ready(address), signals)
            return
        check = FaceLandmarker.from_configs(options.landmarker, options.runtime)
        _ = check.detector  # errors are one line, before any process starts
        del check
        with tempfile.TemporaryDirectory(prefix="pipnet-metrics-") as folder:
            os.environ[METRICS_VARIABLE] = folder  # prometheus_client reads it when it is imported
            try:
                supervisor = Supervisor(_run_worker, options.per_process(), listener, config.workers, signals)
                supervisor.run(lambda: on_ready(address))
            finally:
                del os.environ[METRICS_VARIABLE]


def _listen(config: ServiceConfig) -> socket.socket:
    """Return a listening socket, so that a port in use is known before the model is loaded."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listener = socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise PipnetError(f"{config.host:.80}, port {config.port}, cannot be used: {reason}") from None
    # Connections inherit it. Without it the body of an answer waits some 40 ms for the client to acknowledge
    # its head. asyncio sets it only for sockets that state their protocol.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextlib.contextmanager
def _collected_signals() -> Iterator[list[int]]:
    """Yield a list that SIGTERM and Ctrl-C are appended to, and do nothing else.

    One that comes before the server listens to signals stops it when it has started; one that uvicorn raises
    again after it has stopped ends nothing.
    """
    signals: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, _: signals.append(number)) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_worker(options: ServiceOptions, listener: socket.socket, ready: Event) -> None:
    """Serve in a process of its own, until it is told to stop or its parent dies."""
    with _collected_signals() as signals:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        _run(options, listener, ready.set, signals)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _run(
    options: ServiceOptions, listener: socket.socket, on_ready: Callable[[], None], signals: Sequence[int]
) -> None:
    """Load the model and serve on a socket; ``signals`` are those that came before."""
    from pipnet.service.app import create_app

    ignore_pillow_warnings()
    PIL.Image.MAX_IMAGE_PIXELS = None  # max_pixels is checked instead
    landmarker = FaceLandmarker.from_configs(options.landmarker, options.runtime)
    app = create_app(landmarker, options.service, options.token, options.threads)
    settings = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,  # warnings and errors go to standard error
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(2 * options.service.timeout) + 5,
    )
    _Server(settings, app.state.service, on_ready, signals).run([listener])


class _Server(uvicorn.Server):
    """A server that answers what it has accepted before it stops."""

    def __init__(
        self, config: uvicorn.Config, service: Any, on_ready: Callable[[], None], signals: Sequence[int]
    ) -> None:
        super().__init__(config)
        self._service, self._on_ready, self._signals = service, on_ready, signals

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so, unless a signal came while the model was loaded."""
        await super().startup(sockets)
        if self._signals:
            self.should_exit = True
        else:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, let requests on their way arrive, then answer all and stop."""
        self._service.is_stopping = True
        waiting = [connection for listener in sockets or [] for connection in _accept_all(listener)]
        for server in self.servers:
            server.close()  # the system resets connections that are not accepted now
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._new_protocol, connection)
        await asyncio.sleep(_DRAIN)  # uvicorn closes connections whose request has not arrived
        await super().shutdown(sockets)

    def _new_protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections that wait to be accepted."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield listener.accept()[0]
