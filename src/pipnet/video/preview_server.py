"""The HTTP server of a preview: for this machine only, and bounded in connections, time and bytes.

The header ``Host`` must name this machine, because a page of another site can get a name of its own that
leads here (DNS rebinding), and ``Origin``, if there is one, must be the same host.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from pipnet.errors import PipnetError

_LOG = logging.getLogger(__name__)
_HOSTS = ("127.0.0.1", "localhost")
_MAX_CONNECTIONS = 32
_MAX_BYTES = 16384
"""Maximum size of a request with its headers."""
_REQUEST_TIMEOUT = 10.0
"""Seconds in which a complete request must arrive."""
_SEND_TIMEOUT = 30.0
"""Seconds in which a browser must take each part of a response, such as a frame."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Answer = Callable[[str, str], tuple[str, Iterator[bytes]] | None]
"""Returns content type and content of the response to a method and path; None for an unknown path."""


class PreviewServer(ThreadingHTTPServer):
    """Answers each request in a thread; connections above the maximum are closed at once."""

    def __init__(self, port: int, answer: Answer, headers: Mapping[str, str] = _HEADERS) -> None:
        """Listen on a port of this machine, any free one if 0.

        Args:
            port: the port.
            answer: see `Answer`.
            headers: of all responses, beside the content type.

        Raises:
            PipnetError: the port cannot be used.
        """
        self.answer, self.headers = answer, headers
        self._free = threading.Semaphore(_MAX_CONNECTIONS)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise PipnetError(f"port {port} cannot be used: {error.strerror}") from None
        except OverflowError:
            raise PipnetError(f"no port {port}: use 1 to 65535") from None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a request in a thread, if one is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a request; runs in the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  (the base class's)
        """Log what ended a connection, without a traceback: it is nearly always the client."""
        _LOG.debug("preview: a connection failed: %r", sys.exception())


class _Handler(BaseHTTPRequestHandler):
    """Sends the response to one request."""

    server: PreviewServer
    disable_nagle_algorithm = True  # the end of a frame does not wait for the browser to acknowledge the rest

    def setup(self) -> None:
        """Bound the request before it is read."""
        super().setup()
        self.rfile = io.BufferedReader(_RequestBytes(self.connection))

    def do_GET(self) -> None:
        """Send the response, or an error."""
        self.connection.settimeout(_SEND_TIMEOUT)
        with contextlib.suppress(OSError):  # the browser closed the page, or takes nothing
            if not self._is_from_here():
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            response = self.server.answer(self.command, self.path)
            if response is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            content_type, parts = response
            self.send_response(HTTPStatus.OK)
            for name, value in {"Content-Type": content_type, **self.server.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for part in parts:
                self.wfile.write(part)

    do_POST = do_GET  # noqa: N815  (the name in the base class)

    def _is_from_here(self) -> bool:
        """Return whether the request is for this machine, and of our own page if it is of any.

        Any port will do: it is another one behind a forwarded port (``ssh -L``).
        """
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        with contextlib.suppress(ValueError):  # a malformed address
            is_ours = [urlsplit(f"//{host}").hostname in _HOSTS for host in hosts] == [True]
            return is_ours and all(origin == f"http://{hosts[0]}" for origin in origins)
        return False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the name in the base class)
        """Log nothing: standard error is for messages to the user."""


class _RequestBytes(io.RawIOBase):
    """The bytes of a request: at most so many, and in time."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection, self._bytes = connection, _MAX_BYTES
        self._end = time.monotonic() + _REQUEST_TIMEOUT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read some bytes.

        Raises:
            TimeoutError: the request is too long, or late. The connection is then closed without a response.
        """
        left = self._end - time.monotonic()
        if left <= 0 or not self._bytes:
            raise TimeoutError
        self._connection.settimeout(left)
        count = self._connection.recv_into(memoryview(buffer)[: self._bytes])
        self._bytes -= count
        return count
