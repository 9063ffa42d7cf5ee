"""The server of `pipnet demo`."""

from __future__ import annotations

import contextlib
import http.server
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipnet.cli.demo import make_server
from pipnet.errors import PipnetError

ROOT = Path(__file__).parents[1]
WEB, PORTRAIT = ROOT / "web", ROOT / "examples" / "astronaut.jpg"


@contextlib.contextmanager
def running(server: http.server.HTTPServer) -> Iterator[str]:
    """Run a server in a thread, and return its address."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def small_page(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "main.js").write_text("")
    (tmp_path / "ort.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.key").write_text("")
    with running(make_server(folder=tmp_path)) as address:
        yield address


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("", "text/html; charset=utf-8"),
        ("index.html?a=1", "text/html; charset=utf-8"),
        ("main.js", "text/javascript; charset=utf-8"),
        ("ort.wasm", "application/wasm"),
        ("models/pipnet-tiny.onnx", "application/octet-stream"),
        ("models/detectors/pipnet-face.onnx", "application/octet-stream"),
    ],
)
def test_demo_sends_content_types_and_isolation_headers(small_page, path, content_type):
    with urllib.request.urlopen(small_page + path) as response:
        headers = response.headers
    assert headers["Content-Type"] == content_type
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "connect-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("../../etc/passwd", {}, 404),
        ("%2e%2e/index.html", {}, 404),
        ("secret.key", {}, 404),
        ("models/other.onnx", {}, 404),
        ("", {"Host": "pipnet.example"}, 403),
        ("", {"Origin": "http://pipnet.example"}, 403),
    ],
)
def test_demo_refuses_other_paths_and_hosts(small_page, path, headers, status):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(small_page + path, headers=headers))
    assert error.value.code == status
    error.value.close()


def test_demo_reports_a_missing_page_and_a_port_in_use(tmp_path, small_page):
    with pytest.raises(PipnetError, match="make web"):
        make_server(folder=tmp_path / "nothing")
    with pytest.raises(PipnetError, match="cannot be used"):
        make_server(urlsplit(small_page).port, tmp_path)


def test_demo_command_serves_until_interrupt(start):
    process = start("demo")
    line = process.stderr.readline()
    if not (ROOT / "src" / "pipnet" / "web" / "index.html").is_file():
        assert re.fullmatch(r"error: .*web: the page is not built: run `make web` in the repository\n", line)
        process.communicate(timeout=60)
        assert process.returncode == 1
        return
    address = re.fullmatch(r"the page is at (http://127\.0\.0\.1:\d+/) until Ctrl-C\n", line)
    assert address
    with urllib.request.urlopen(address[1]) as response:
        assert b"<title>pipnet" in response.read()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_demo_and_page_have_the_same_policy(small_page):
    with urllib.request.urlopen(small_page) as response:
        header = response.headers["Content-Security-Policy"]
    in_page = re.search(r'Security-Policy" content="([^"]+)"', (WEB / "index.html").read_text())
    assert in_page
    assert header == f"{in_page[1]}; frame-ancestors 'none'"  # which a page cannot say of itself
