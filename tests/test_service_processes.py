"""The processes of `pipnet serve`: options, workers, and a stop that answers all accepted requests."""

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

fastapi = pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx2", reason="the dependency group dev is not installed")

from pipnet.cli import main  # noqa: E402
from pipnet.config import LandmarkerConfig, RuntimeConfig  # noqa: E402
from pipnet.inference.landmarker import FaceLandmarker  # noqa: E402
from pipnet.service.config import ServiceConfig  # noqa: E402
from pipnet.service.server import ServiceOptions, _listen, _run_worker, serve  # noqa: E402


@contextlib.contextmanager
def serving(*arguments: str, **variables: str):
    """A real service; yields its process and address."""
    command = [sys.executable, "-m", "pipnet", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )
    try:
        lines = []
        while not (match := re.search(r"at (http://\S+?): POST", lines[-1] if lines else "")):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        yield process, match[1]
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def test_sigterm_answers_what_was_accepted(photo):
    """All requests that were sent before the signal are answered, and none is accepted afterwards."""
    a_connection_each = httpx.Limits(max_keepalive_connections=0)
    with (
        serving() as (process, address),
        httpx.Client(base_url=address, timeout=60, verify=False, limits=a_connection_each) as web,
        ThreadPoolExecutor(8) as pool,
    ):
        requests = [pool.submit(web.post, "/detect", content=photo) for _ in range(8)]
        deadline = time.monotonic() + 60
        while "pipnet_requests_in_progress 0.0" in web.get("/metrics").text:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        answers = [request.result() for request in requests]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert all(len(answer.json()["faces"]) == 1 for answer in answers)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert (out, err) == ("", "stopped: all accepted requests are answered\n")
        with pytest.raises(httpx.ConnectError):
            web.get("/health")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_signal_while_the_model_is_loaded_stops_the_service(number, workers, monkeypatch):
    load = FaceLandmarker.from_configs

    def load_with_signal(*configs):
        signal.raise_signal(number)
        return load(*configs)

    monkeypatch.setattr(FaceLandmarker, "from_configs", load_with_signal)
    config = ServiceConfig(port=0, workers=workers)
    started: list[str] = []
    serve(ServiceOptions(config, LandmarkerConfig("pipnet-tiny"), RuntimeConfig(), None), started.append)
    assert not started


def test_signal_while_a_worker_loads_the_model_stops_it(monkeypatch):
    load = FaceLandmarker.from_configs

    def load_with_signal(*configs):
        signal.raise_signal(signal.SIGTERM)
        return load(*configs)

    monkeypatch.setattr(FaceLandmarker, "from_configs", load_with_signal)
    options = ServiceOptions(ServiceConfig(), LandmarkerConfig("pipnet-tiny"), RuntimeConfig(), None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready = multiprocessing.Event()
        _run_worker(options, listener, ready)  # returns
        assert not ready.is_set()


@pytest.mark.slow
def test_slow_bodies_are_answered_with_408(photo):
    with serving("--timeout", "1") as (_, address):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
            answer = b""
            while part := connection.recv(4096):
                answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.endswith(b'{"error": "the body did not arrive within 1 s"}')


def test_serve_refuses_wrong_options_in_one_line(tmp_path, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (["--port", port], f"127.0.0.1, port {port}, cannot be used: Address already in use"),
            (["--port", "70000"], "port must be at least 0 and at most 65535"),
            (["--workers", "0"], "workers must be at least 1"),
            (["--host", "nowhere.invalid", "--port", "0"], "nowhere.invalid, port 0, cannot be used"),
            (["--port", "0", "--model", "none.onnx"], "none.onnx"),
            (["--port", "0", "--workers", "2", "--detector", "yunet:none.onnx"], "none.onnx"),
            (["--token-file", str(tmp_path)], "cannot be read"),
        ):
            assert main(["serve", *arguments]) != 0
            error = capsys.readouterr().err
            assert message in " ".join(error.split()), error
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "pipnet.service.server", raising=False)
    assert main(["serve"]) == 1
    assert "[serve]'" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_share_counters_and_are_replaced_and_stop(photo):
    with serving("--workers", "2") as (process, address):
        import psutil

        def workers() -> list:
            children = psutil.Process(process.pid).children()
            running = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
            return [child for child in running if "spawn_main" in " ".join(child.cmdline())]

        before = workers()
        assert len(before) == 2
        for _ in range(20):
            assert httpx.post(f"{address}/detect", content=photo, timeout=60).status_code == 200
        counted = 'pipnet_requests_total{path="/detect",status="200"} 20.0'
        assert counted in httpx.get(f"{address}/metrics", timeout=60).text
        before[0].kill()
        assert process.stderr.readline() == (
            "a process of the service died (exit code -9): starting another\n"
        )
        assert process.stderr.readline() == "a process of the service was replaced\n"
        assert counted in httpx.get(f"{address}/metrics", timeout=60).text  # nothing is forgotten
        assert len(httpx.post(f"{address}/detect", content=photo, timeout=60).json()["faces"]) == 1
        running = workers()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "stopped: all accepted requests are answered\n")
        assert not any(worker.is_running() for worker in running)


@pytest.mark.slow
def test_workers_end_with_their_parent():
    with serving("--workers", "2") as (process, _):
        import psutil

        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert not alive


def test_answers_do_not_wait_for_acknowledgements():
    """Connections send their packets at once (TCP_NODELAY), which they inherit from the listener."""
    with (
        _listen(ServiceConfig(port=0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
