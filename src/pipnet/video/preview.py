"""A page for the browser of this machine that shows the newest picture of a video that is worked on."""

from __future__ import annotations

import contextlib
import functools
import html
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import cv2

from pipnet.errors import PipnetError
from pipnet.geometry import Image

_SPAN = 2.0
"""Seconds over which frames a second are counted."""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
  body {{ margin: 1rem; font: 1rem system-ui, sans-serif; background: #111; color: #eee; }}
  img {{ display: block; max-width: 100%; max-height: 85vh; background: #222; }}
  p {{ display: flex; gap: 1rem; align-items: center; }}
</style>
<img src="pictures" alt="the newest picture, with landmarks">
<p><button id="stop">Stop</button> <span id="words">{title}</span></p>
<script>
  const words = document.getElementById("words"), stop = document.getElementById("stop");
  async function ask() {{
    try {{
      words.textContent = await (await fetch("words")).text();
      setTimeout(ask, 500);
    }} catch {{
      stop.disabled = true;
      words.textContent = "It has ended.";
    }}
  }}
  ask();
  stop.onclick = () => fetch("stop", {{method: "POST"}});
</script>
</html>
"""


class Preview:
    """Serves the page until it is closed.

    Only this machine can reach it, and only who knows its address, which cannot be guessed: pictures of a
    camera are not for other users, nor for other pages in the browser.

    Example::

        with Preview("camera 0") as preview:
            print(preview.address)
            for frame in LiveReader(0):
                preview.show(frame.image, "no faces")
    """

    def __init__(self, title: str, port: int = 0) -> None:
        """Begin to serve, without a picture.

        Args:
            title: of the page.
            port: of this machine; any free one if 0.

        Raises:
            PipnetError: the port cannot be had.
        """
        self.stopped = False
        """Whether somebody pressed the button."""
        self._title, self._path = title, f"/{secrets.token_urlsafe(9)}/"
        self._changed = threading.Condition()
        self._image: Image | None = None
        self._words = ""
        self._times: deque[float] = deque()
        self._closed = False
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Handler, self))
        except OSError as error:
            raise PipnetError(f"port {port} cannot be used: {error.strerror}") from None
        except OverflowError:
            raise PipnetError(f"no port {port}: they go from 1 to 65535") from None
        self.address = f"http://127.0.0.1:{self._server.server_port}{self._path}"
        """Where the page is."""
        threading.Thread(target=self._server.serve_forever, name="preview", daemon=True).start()

    def show(self, image: Image, words: str) -> None:
        """Show the next picture; it is encoded only where somebody looks.

        Args:
            image: RGB; not to be changed afterwards.
            words: stand below it, after the frames a second.
        """
        now = time.monotonic()
        self._times.append(now)
        while self._times[0] < now - _SPAN:
            self._times.popleft()
        span = now - self._times[0]
        rate = f"{(len(self._times) - 1) / span:.1f} frames a second, " if span else ""
        with self._changed:
            self._image, self._words = image, rate + words
            self._changed.notify_all()

    def answer(self, method: str, path: str) -> tuple[str, Iterator[bytes]] | None:
        """What a browser gets: the kind and the content, piece by piece; None where there is nothing."""
        match method, path.removeprefix(self._path) if path.startswith(self._path) else None:
            case "GET", "":
                return "text/html; charset=utf-8", iter(
                    [_PAGE.format(title=html.escape(self._title)).encode()]
                )
            case "GET", "words":
                return "text/plain; charset=utf-8", iter([self._words.encode()])
            case "GET", "pictures":
                return "multipart/x-mixed-replace; boundary=picture", self._pictures()
            case "POST", "stop":
                self.stopped = True
                return "text/plain; charset=utf-8", iter([b"stopped"])
        return None

    def _pictures(self) -> Iterator[bytes]:
        """Each newest picture as a JPEG; browsers put one in the place of the last."""
        shown = None
        yield b"--picture\r\n"
        while True:
            with self._changed:
                while self._image is shown and not self._closed:
                    self._changed.wait()
                if self._closed or self._image is None:
                    return
                shown = self._image
            content = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))[1].tobytes()
            # The next boundary at once: some browsers show a picture only when they have seen it.
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            yield head.encode() + content + b"\r\n--picture\r\n"

    def close(self) -> None:
        """Serve no longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Preview:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    """Carries the answers of a preview; one object a request, in a thread of its own."""

    def __init__(self, preview: Preview, *request: Any) -> None:
        self._preview = preview
        super().__init__(*request)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        found = self._preview.answer(self.command, self.path)
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, pieces = found
        with contextlib.suppress(ConnectionError):  # the browser left
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (its name there)
        """Say nothing: standard error is for what the user should know."""
