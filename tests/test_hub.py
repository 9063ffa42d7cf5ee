"""Model files: downloads from a real server, without a network, and by name, path and folder."""

import functools
import hashlib
import http.server
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from pipnet.errors import DownloadError, ModelError
from pipnet.hub import DEFAULT_MODEL, RemoteFile, cache_folder, cached_download, find_model, list_models


@pytest.fixture
def server(tmp_path):
    """A web server on this machine that serves a folder."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def remote(name: str, base: str, content: bytes) -> RemoteFile:
    return RemoteFile(name, f"{base}/{name}", hashlib.sha256(content).hexdigest())


def test_cached_download_keeps_the_file(server):
    folder, base = server
    (folder / "a.bin").write_bytes(b"content")
    file = remote("a.bin", base, b"content")
    assert cached_download(file).read_bytes() == b"content"
    (folder / "a.bin").unlink()
    assert cached_download(file).read_bytes() == b"content"  # from the cache


def test_cached_download_refuses_a_wrong_checksum(server):
    folder, base = server
    (folder / "b.bin").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="checksum"):
        cached_download(remote("b.bin", base, b"content"))
    assert not (cache_folder() / "downloads" / "b.bin").exists()


def test_cached_download_offline_says_what_to_do():
    file = remote("c.bin", "http://127.0.0.1:9", b"")
    with pytest.raises(DownloadError, match=r"cannot be downloaded.*get it from http.*save it as") as error:
        cached_download(file)
    assert "\n" not in str(error.value)


def test_cached_download_replaces_a_corrupt_file(server):
    folder, base = server
    (folder / "d.bin").write_bytes(b"content")
    file = remote("d.bin", base, b"content")
    cached_download(file).write_bytes(b"corrupt")
    assert cached_download(file).read_bytes() == b"content"


def test_find_model_finds_names_paths_and_folders(tmp_path):
    packaged = find_model(DEFAULT_MODEL)
    shutil.copy(packaged, tmp_path / "model.onnx")
    assert find_model(tmp_path / "model.onnx") == find_model(tmp_path) == tmp_path / "model.onnx"
    shutil.copy(packaged, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="2 .onnx files"):
        find_model(tmp_path)


def test_find_model_never_looks_for_local_paths_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/mine", "./mine", "no/model.onnx", str(tmp_path / "x")):
        with pytest.raises(ModelError, match="no such model"):
            find_model(name)
    with pytest.raises(ModelError, match="pipnet export"):
        find_model("runs")


def test_cached_download_reports_a_closed_connection():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def respond():
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nshort")
            connection.close()

        threading.Thread(target=respond, daemon=True).start()
        with pytest.raises(DownloadError, match=r"e\.bin"):
            cached_download(remote("e.bin", f"http://127.0.0.1:{listener.getsockname()[1]}", b"x"))


def test_cached_download_reports_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    folder, base = server
    (folder / "f.bin").write_bytes(b"content")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"f\.bin"):
        cached_download(remote("f.bin", base, b"content"))


def test_find_model_lists_models_for_an_unknown_name():
    assert DEFAULT_MODEL in list_models()
    with pytest.raises(ModelError, match=DEFAULT_MODEL):
        find_model("pipnet-500w")


def test_find_model_refuses_checkpoints(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="pipnet export"):
        find_model(tmp_path / "a.safetensors")


def test_find_model_reports_an_unreachable_hub():
    """In a separate process: the hub's client reads its settings when it is imported, and waits."""
    code = (
        "import time; time.sleep = lambda _: None\n"
        "import os; os.environ.update(HF_ENDPOINT='http://127.0.0.1:9', HF_HUB_DOWNLOAD_TIMEOUT='2')\n"
        "from pipnet.hub import find_model\n"
        "from pipnet import PipnetError\n"
        "try: find_model('someone/some-model')\n"
        "except PipnetError as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith("DownloadError someone/some-model"), run.stdout + run.stderr
    assert run.stdout.count("\n") == 1
