"""A web page on this machine that shows the latest frame of a video during processing."""

from __future__ import annotations

import html
import io
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator

import PIL.Image

from pipnet.errors import printable
from pipnet.geometry import Image
from pipnet.video.preview_server import PreviewServer

_RATE_WINDOW = 2.0
"""Seconds over which the frame rate is averaged."""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
  body {{ margin: 1rem; font: 1rem system-ui, sans-serif; background: #111; color: #eee; }}
  img {{ display: block; max-width: 100%; max-height: 85vh; background: #222; }}
  p {{ display: flex; gap: 1rem; align-items: center; }}
</style>
<img src="frames" alt="the latest frame, with landmarks">
<p><button id="stop">Stop</button> <span id="status">{title}</span></p>
<script>
  const status = document.getElementById("status"), stop = document.getElementById("stop");
  async function update() {{
    try {{
      status.textContent = await (await fetch("status")).text();
      setTimeout(update, 500);
    }} catch {{
      stop.disabled = true;
      status.textContent = "The video has ended.";
    }}
  }}
  update();
  stop.onclick = () => fetch("stop", {{method: "POST"}});
</script>
</html>
"""
_TEXT = "text/plain; charset=utf-8"


class Preview:
    """Serves the page until it is closed.

    The page can be reached only from this machine, and only with its address, which contains a random token:
    frames of a camera must not be visible to other users of the machine, nor to other pages in the browser.
    For what else is refused, see `preview_server`.

    Example::

        with Preview("camera 0") as preview:
            print(preview.address)
            for frame in LiveReader(0):
                preview.show(frame.image, "no faces")
    """

    def __init__(self, title: str, port: int = 0) -> None:
        """Start the server, without a frame.

        Args:
            title: title of the page.
            port: port on this machine; any free one if 0.

        Raises:
            PipnetError: the port cannot be used.
        """
        self.stopped = False
        """Whether the button on the page was pressed."""
        self._title, self._path = title, f"/{secrets.token_urlsafe(9)}/"
        self._changed = threading.Condition()
        self._image: Image | None = None
        self._status = ""
        self._times: deque[float] = deque()
        self._closed = False
        self._server = PreviewServer(port, self.answer)
        self.address = f"http://127.0.0.1:{self._server.server_port}{self._path}"
        """Address of the page."""
        threading.Thread(target=self._server.serve_forever, name="preview", daemon=True).start()

    def show(self, image: Image, status: str) -> None:
        """Show a frame. It is encoded only if a browser shows the page.

        Args:
            image: RGB; must not be modified afterwards.
            status: text below the image, after the frame rate.
        """
        now = time.monotonic()
        self._times.append(now)
        while self._times[0] < now - _RATE_WINDOW:
            self._times.popleft()
        window = now - self._times[0]
        rate = f"{(len(self._times) - 1) / window:.1f} frames a second, " if window else ""
        with self._changed:
            self._image, self._status = image, rate + status
            self._changed.notify_all()

    def answer(self, method: str, path: str) -> tuple[str, Iterator[bytes]] | None:
        """Return content type and content of the response to a request; None for an unknown path."""
        if not path.startswith(self._path):
            return None
        match method, path.removeprefix(self._path):
            case "GET", "":
                page = _PAGE.format(title=html.escape(printable(self._title)))
                return "text/html; charset=utf-8", iter([page.encode()])
            case "GET", "status":
                return _TEXT, iter([self._status.encode()])
            case "GET", "frames":
                return "multipart/x-mixed-replace; boundary=frame", self._frames()
            case "POST", "stop":
                self.stopped = True
                return _TEXT, iter([b"stopped"])
        return None

    def _frames(self) -> Iterator[bytes]:
        """Yield each latest frame as a JPEG part, which replaces the last one in the browser."""
        shown = None
        yield b"--frame\r\n"
        while True:
            with self._changed:
                while self._image is shown and not self._closed:
                    self._changed.wait()
                if self._closed or self._image is None:
                    return
                shown = self._image
            file = io.BytesIO()
            PIL.Image.fromarray(shown).save(file, "JPEG", quality=95)
            content = file.getvalue()
            # The next boundary follows at once: some browsers show an image only after they received it.
            header = f"Content-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            yield header.encode() + content + b"\r\n--frame\r\n"

    def close(self) -> None:
        """Stop the server."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Preview:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
