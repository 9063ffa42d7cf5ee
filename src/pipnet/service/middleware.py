"""What surrounds the application: counting, and reading bodies of requests that are refused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipnet.service.metrics import Metrics

_DRAIN_SECONDS = 5.0


class CountRequests:
    """Counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        """Count the requests of these paths, and all others together."""
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)


class DrainBodies:
    """Reads and drops the rest of a body before the answer, up to a limit.

    Most clients send the whole body before they read the answer. If the connection were closed with a part of
    the body unread, they would see a reset instead of the reason.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        # A client that waits for "100 Continue" sends the body only if it is asked for.
        if "expect" in headers or not ("content-length" in headers or "transfer-encoding" in headers):
            await self._app(scope, receive, send)
            return
        is_complete = False

        async def noting_receive() -> Message:
            nonlocal is_complete
            message = await receive()
            is_complete = not message.get("more_body", False)
            return message

        async def late_send(message: Message) -> None:
            is_slow = message.get("status") == HTTPStatus.REQUEST_TIMEOUT
            left = 0 if is_slow else self._max_bytes
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while not is_complete and left > 0:
                        left -= len((await noting_receive()).get("body", b""))
            await send(message)

        await self._app(scope, noting_receive, late_send)
