"""The server of a preview against other sites, garbage, and clients that hold connections."""

import contextlib
import random
import socket
import threading
import time

import numpy as np
import pytest

from pipnet.video import preview_server
from pipnet.video.preview_page import Preview


def exchange(preview: Preview, request: bytes) -> bytes:
    """Send a request, and return all that the server sends until it closes the connection."""
    with socket.create_connection(address_of(preview), timeout=60) as client:
        response = b""
        with contextlib.suppress(ConnectionError):  # closed before all of the request was read
            client.sendall(request)
            with contextlib.suppress(OSError):  # not connected any more, if the server has reset it
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                response += part
        return response


def address_of(preview: Preview) -> tuple[str, int]:
    host, port = preview.address.split("/")[2].split(":")
    return host, int(port)


def path_of(preview: Preview) -> str:
    return "/" + preview.address.split("/", 3)[3]


def request(preview: Preview, *headers: str, line: str = "GET {}status HTTP/1.1") -> bytes:
    return "\r\n".join([line.format(path_of(preview)), *headers, "", ""]).encode("latin-1")


@pytest.fixture
def preview(capfd):
    with Preview("test") as preview:
        preview.show(np.zeros((8, 8, 3), np.uint8), "no faces")
        yield preview
        good = exchange(preview, request(preview, "Host: 127.0.0.1"))
        assert b" 200 " in good  # it still answers
        assert b"no faces" in good
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Host: 127.0.0.1:{port}"], 200),
        (["Host: localhost:{port}"], 200),
        (["Host: LOCALHOST:9000"], 200),  # a forwarded port
        (["Host: 127.0.0.1:{port}", "Origin: http://127.0.0.1:{port}"], 200),
        (["Host: localhost:9000", "Origin: http://localhost:9000"], 200),
        ([], 403),
        (["Host: "], 403),
        (["Host: evil.example:{port}"], 403),  # DNS rebinding
        (["Host: 127.0.0.1.evil.example"], 403),
        (["Host: 127.0.0.1@evil.example"], 403),
        (["Host: [::1"], 403),
        (["Host: 127.0.0.1", "Host: evil.example"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: http://evil.example"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: null"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: http://127.0.0.1:1"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: https://127.0.0.1:{port}"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: http://127.0.0.1:{port}", "Origin: null"], 403),
    ],
)
def test_preview_checks_host_and_origin(preview, headers, status):
    headers = [header.format(port=address_of(preview)[1]) for header in headers]
    for line in ("GET {}status HTTP/1.1", "POST {}stop HTTP/1.1", "GET {}frames HTTP/1.1"):
        if status != 200 or "status" in line:
            assert f" {status} ".encode() in exchange(preview, request(preview, *headers, line=line))[:20]
    assert not preview.stopped


def test_preview_sends_headers_against_other_sites(preview):
    head = exchange(preview, request(preview, "Host: localhost")).split(b"\r\n\r\n")[0].decode()
    assert "Cross-Origin-Resource-Policy: same-origin" in head
    assert "Content-Security-Policy: frame-ancestors 'none'" in head
    assert "Cache-Control: no-store" in head
    assert "Access-Control" not in head


GARBAGE = [
    b"",
    b"\r\n\r\n",
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the start of TLS
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9.9\r\n\r\n",
    b"GET / HTTP/-1.\xff\r\n\r\n",
    b"POST /\r\n\r\n",
    b"BREW / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost\r\n: x\r\n\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -5\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\nx",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: " + b"a" * 1_000_000,
    b"GET http://[::1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
]


def test_preview_answers_garbage_with_an_error_and_no_traceback(preview):
    chooser = random.Random(0)
    good = request(preview, "Host: 127.0.0.1", "Origin: http://127.0.0.1", "Accept: */*")
    mutants = []
    for _ in range(150):
        mutant = bytearray(good)
        for _ in range(chooser.randint(1, 8)):
            place = chooser.randrange(len(mutant))
            mutant[place : place + chooser.randint(0, 3)] = chooser.randbytes(chooser.randint(0, 3))
        mutants.append(bytes(mutant))
    for garbage in GARBAGE:
        status = exchange(preview, garbage)[:40]
        assert b" 200 " not in status
        assert status == b"" or status.startswith((b"HTTP/1.0 4", b"HTTP/1.0 5", b"<!DOCTYPE"))
    for mutant in mutants:
        exchange(preview, mutant)
    assert not preview.stopped


def test_preview_bounds_bytes_and_time_of_a_request(monkeypatch):
    monkeypatch.setattr(preview_server, "_REQUEST_TIMEOUT", 0.5)
    with Preview("test") as preview:
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(address_of(preview), timeout=60) as slow,
        ):
            for _ in range(1000):  # a byte now and then, which a timeout of each read would allow
                slow.sendall(b"G")
                time.sleep(0.05)
            pytest.fail("the connection was not closed")
        with socket.create_connection(address_of(preview), timeout=60) as idle:
            assert idle.recv(10) == b""
        long = request(preview, "Host: 127.0.0.1", "A: " + "a" * preview_server._MAX_BYTES)
        assert exchange(preview, long) == b""


def test_preview_bounds_connections_and_frees_them(monkeypatch):
    monkeypatch.setattr(preview_server, "_REQUEST_TIMEOUT", 120.0)
    with Preview("test") as preview:
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection(address_of(preview), timeout=60))
                for _ in range(preview_server._MAX_CONNECTIONS)
            ]
            with socket.create_connection(address_of(preview), timeout=60) as extra:
                assert extra.recv(10) == b""  # closed at once
            threads = [thread for thread in threading.enumerate() if "process_request" in thread.name]
            assert len(threads) == len(clients)
        good = request(preview, "Host: 127.0.0.1")
        deadline = time.monotonic() + 60
        while b" 200 " not in exchange(preview, good):
            assert time.monotonic() < deadline


def test_preview_drops_clients_that_take_no_frames(monkeypatch, capfd):
    monkeypatch.setattr(preview_server, "_SEND_TIMEOUT", 0.2)
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    with Preview("test") as preview, socket.create_connection(address_of(preview), timeout=60) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(request(preview, "Host: 127.0.0.1", line="GET {}frames HTTP/1.1"))
        deadline = time.monotonic() + 60
        while (
            preview._server._free._value < preview_server._MAX_CONNECTIONS or deadline - time.monotonic() > 59
        ):
            preview.show(noise.copy(), "")
            time.sleep(0.05)
            assert time.monotonic() < deadline
    assert capfd.readouterr().err == ""
