"""``pipnet demo``: the page that finds landmarks in the browser, served on this machine.

The page runs the networks itself; nothing is sent to this server. It is built from ``web/`` by ``make web``,
and wheels contain it. The header ``Content-Security-Policy`` keeps the page from other hosts, and the
``Cross-Origin`` headers isolate it, which browsers demand for threads in WebAssembly.
"""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from pipnet.cli import say
from pipnet.errors import PipnetError
from pipnet.hub import packaged_detector, packaged_models
from pipnet.video.preview_server import PreviewServer

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self';"
    " connect-src 'self'; img-src 'self' blob:; media-src 'self' blob:; style-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CHUNK = 2**20
"""Bytes that are sent at a time."""


def demo(
    *,
    port: Annotated[int, Parameter(help="Port on this machine; any free one if 0.")] = 0,
    open_browser: Annotated[bool, Parameter(name="--open", help="Open the page in the browser.")] = False,
) -> None:
    """Find landmarks in the browser, in photos and with the camera.

    Serves a page on this machine, until Ctrl-C. The page runs the networks itself: images and camera stay in
    the browser. It can be reached from this machine only; for a phone, put the page on a server with https.
    """
    with contextlib.suppress(KeyboardInterrupt), make_server(port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        say(f"the page is at {address} until Ctrl-C")
        if open_browser:
            webbrowser.open(address)
        server.serve_forever()


def make_server(port: int = 0, folder: Path | None = None) -> PreviewServer:
    """Return a server of the page.

    Args:
        port: port on this machine; any free one if 0.
        folder: the built page; that of the package if None.

    Raises:
        PipnetError: the page is not built, or the port cannot be used.
    """
    folder = folder or Path(str(resources.files("pipnet") / "web"))
    files = {f"/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}
    if "/index.html" not in files:
        raise PipnetError(f"{folder}: the page is not built: run `make web` in the repository")
    files["/"] = files["/index.html"]
    files |= {f"/models/{name}.onnx": path for name, path in packaged_models().items()}
    files["/models/detectors/pipnet-face.onnx"] = packaged_detector()

    def answer(method: str, path: str) -> tuple[str, Iterator[bytes]] | None:
        file = files.get(urlsplit(path).path) if method == "GET" else None
        content_type = _TYPES.get(file.suffix) if file else None
        return (content_type, _read(file)) if file and content_type else None

    return PreviewServer(port, answer, _HEADERS)


def _read(path: Path) -> Iterator[bytes]:
    """Yield the content of a file."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
