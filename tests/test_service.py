"""The service: answers, limits, hostile bodies, token, metrics and batches."""

import base64
import io
import json
import re
import runpy
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

fastapi = pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx2", reason="the dependency group dev is not installed")
from fastapi.testclient import TestClient  # noqa: E402

from conftest import ROOT  # noqa: E402
from pipnet import ImageError  # noqa: E402
from pipnet.cli import main  # noqa: E402
from pipnet.errors import PipnetError  # noqa: E402
from pipnet.io.image import decode_image  # noqa: E402
from pipnet.service.app import create_app  # noqa: E402
from pipnet.service.config import ServiceConfig, read_token  # noqa: E402
from pipnet.service.schemas import BatchOutput, ImageOutput  # noqa: E402

TOKEN = "correct-horse-battery"
JSON = {"content-type": "application/json"}
HOSTILE = runpy.run_path(str(ROOT / "benchmarks" / "speed" / "service" / "hostile.py"))
FIELD = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\na.jpg\r\n--x--\r\n'


@pytest.fixture(scope="module")
def client(landmarker):
    with TestClient(create_app(landmarker, ServiceConfig(max_bytes=2_000_000, max_images=4))) as client:
        yield client


@pytest.fixture(scope="module")
def line(portrait):
    """What the command line prints for the photo, with its name only."""
    command = [sys.executable, "-m", "pipnet", "detect", portrait.name, "--json"]
    result = subprocess.run(command, cwd=portrait.parent, capture_output=True, text=True, check=True)
    return result.stdout.rstrip("\n")


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def error_of(response) -> str:
    """The error of a response, which is one line without a traceback."""
    message = response.json()["error"]
    assert message
    assert "\n" not in message
    assert "Traceback" not in response.text
    assert "/site-packages/" not in response.text
    return message


# -- answers -------------------------------------------------------------------------------------------


def test_detect_answers_what_the_command_line_prints(client, photo, line, portrait):
    response = client.post("/detect", files={"image": (portrait.name, photo)})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == line
    ImageOutput.model_validate_json(response.text)


@pytest.mark.parametrize(
    "arguments",
    [
        lambda photo: {"content": photo},
        lambda photo: {"content": photo, "headers": {"content-type": "image/jpeg"}},
        lambda photo: {"content": photo, "headers": {"content-type": "application/x-www-form-urlencoded"}},
        lambda photo: {"json": {"image": as_base64(photo)}},
        lambda photo: {"json": {"image": "data:image/jpeg;base64," + as_base64(photo)}},
        lambda photo: {"files": {"anything": ("image", photo, "text/plain")}},
    ],
)
def test_detect_accepts_bytes_base64_and_forms(client, photo, line, portrait, arguments):
    response = client.post("/detect", **arguments(photo))
    assert response.status_code == 200
    assert response.text == line.replace(portrait.name, "image", 1)


def test_detect_of_an_image_without_faces_is_no_error(client):
    file = io.BytesIO()
    PIL.Image.new("RGB", (80, 60)).save(file, "PNG")
    row = client.post("/detect", json={"image": as_base64(file.getvalue()), "name": "black.png"}).json()
    assert row == {"image": "black.png", "width": 80, "height": 60, "faces": [], "error": None}


def test_detect_applies_exif_orientation(client, portrait):
    image, file, exif = PIL.Image.open(portrait), io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = 6
    image.crop((0, 0, 512, 400)).rotate(90, expand=True).save(file, "JPEG", exif=exif, quality=95)
    row = client.post("/detect", content=file.getvalue()).json()
    assert (row["width"], row["height"]) == (512, 400)
    assert len(row["faces"]) == 1


def test_batch_reports_the_bad_file_and_answers_the_others(client, photo, line, portrait):
    files = [("a", (portrait.name, photo)), ("b", ("notes.txt", b"no image")), ("c", ("third.jpg", photo))]
    response = client.post("/detect/batch", files=files)
    assert response.status_code == 200
    first, bad, third = response.json()["results"]
    assert first == json.loads(line)
    assert third == {**first, "image": "third.jpg"}
    assert bad["error"].startswith("notes.txt: not an image of a supported format")
    assert bad["faces"] == []
    BatchOutput.model_validate_json(response.text)


def test_batch_of_base64_reports_what_is_not_base64(client, photo):
    images = [{"image": "%%%", "name": "a"}, {"image": as_base64(photo), "name": "b"}]
    first, second = client.post("/detect/batch", json={"images": images}).json()["results"]
    assert first["error"].startswith("a: not base64")
    assert len(second["faces"]) == 1


@pytest.mark.parametrize("case", ["missing.jpg", "empty.png", "cut.jpg", "notes.txt"])
def test_errors_are_those_of_the_command_line(client, photo, tmp_path, monkeypatch, capsys, case):
    contents = {"empty.png": b"", "cut.jpg": photo[:2000], "notes.txt": b"hello"}
    monkeypatch.chdir(tmp_path)
    if case == "missing.jpg":  # a name is only a name
        response = client.post("/detect", files={"image": (str(tmp_path / "there.jpg"), b"x")})
        assert "no such file" not in error_of(response)
        return
    (tmp_path / case).write_bytes(contents[case])
    assert main(["detect", case]) == 1
    expected = capsys.readouterr().err.splitlines()[0]
    response = client.post("/detect", files={"image": (case, contents[case])})
    assert response.status_code == 422
    assert f"error: {error_of(response)}" == expected


# -- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/detect", "/detect/batch"])
def test_bodies_above_the_limit_are_refused(client, path):
    for arguments in (
        {"content": bytes(2_000_001)},
        {"content": iter([bytes(1_000_000)] * 3)},  # its length is not declared
        {"files": {"image": ("a.jpg", bytes(2_000_001))}},
        {"json": {"image": "A" * 2_000_001}},
    ):
        response = client.post(path, **arguments)
        assert response.status_code == 413, arguments.keys()
        assert error_of(response) == "the body has more bytes than the limit of 2000000"


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims to have so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(client, landmarker):
    limit = landmarker.pipeline.config.max_pixels
    for width, height in ((20_000, 20_000), (2**31 - 1, 2**31 - 1)):
        response = client.post("/detect", content=png_header(width, height))
        assert response.status_code == 413
        assert error_of(response) == f"image: {width} x {height} pixels, more than the limit of {limit}"


def test_too_many_images_are_refused(client, photo):
    files = [("image", (f"{i}.jpg", photo[:100])) for i in range(5)]
    assert client.post("/detect/batch", files=files).status_code == 413
    response = client.post("/detect/batch", json={"images": [{"image": ""}] * 5})
    assert response.status_code == 413
    assert error_of(response) == "5 images, more than the limit of 4"
    response = client.post("/detect", files=files[:2])
    assert response.status_code == 400
    assert "/detect/batch" in error_of(response)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"content": FIELD, "headers": {"content-type": "multipart/form-data; boundary=x"}}, "no image"),
        ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}}, "boundary"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "malformed form"),
        ({"content": b"{", "headers": JSON}, "malformed JSON: body"),
        ({"content": b"[" * 100_000, "headers": JSON}, "malformed JSON"),
        ({"json": {"images": []}}, "malformed JSON: image: Field required"),
        ({"json": {"image": 7}}, "malformed JSON: image"),
        ({"json": {"image": "", "path": "/etc/passwd"}}, "malformed JSON: path: Extra"),
        ({"json": {"image": "", "name": "n" * 300}}, "malformed JSON: name"),
        ({"content": b'{"image": "\xff"}', "headers": JSON}, "malformed JSON"),
    ],
)
def test_malformed_requests_are_one_line(client, arguments, message):
    response = client.post("/detect", **arguments)
    assert response.status_code == 400, response.text
    assert re.search(message, error_of(response))


def test_batches_that_are_neither_forms_nor_json_are_refused(client, photo):
    assert client.post("/detect/batch", content=photo).status_code == 415
    assert client.post("/detect/batch", json={"images": []}).status_code == 400


def test_unknown_routes_and_methods_are_refused(client):
    response = client.get("/etc/passwd")
    assert response.status_code == 404
    assert "/detect/batch" in error_of(response)
    assert client.get("/detect").status_code == 405
    assert client.get("/docs").status_code == 404  # FastAPI's page loads scripts from another host


def test_more_requests_than_the_limit_are_refused(landmarker, photo):
    """While one request is being answered the next one is refused, and told when to try again."""
    started, proceed = threading.Event(), threading.Event()
    app = create_app(landmarker, ServiceConfig(max_requests=1))
    engine = app.state.service.engine
    detect = engine.pipeline.detect

    def slow_detect(image):
        started.set()
        assert proceed.wait(30)
        return detect(image)

    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        engine._find_faces = slow_detect
        first = pool.submit(client.post, "/detect", content=photo)
        assert started.wait(30)
        second = client.post("/detect", content=photo)
        proceed.set()
        assert second.status_code == 503
        assert second.headers["retry-after"] == "1"
        assert error_of(second) == "busy with 1 requests: try again later"
        assert first.result().status_code == 200
        assert client.post("/detect", content=photo).status_code == 200


def test_a_request_that_takes_too_long_is_answered_with_504(landmarker, photo):
    proceed = threading.Event()
    app = create_app(landmarker, ServiceConfig(timeout=0.2))
    with TestClient(app) as client:
        app.state.service.engine._find_faces = lambda _: proceed.wait(30)
        response = client.post("/detect", content=photo)
        proceed.set()
        assert response.status_code == 504
        assert error_of(response) == "no answer within 0.2 s"
        assert client.get("/ready").status_code == 200


def test_an_unexpected_error_is_one_line_and_stops_no_other_image(landmarker, photo, caplog):
    app = create_app(landmarker)
    with TestClient(app) as client:
        engine = app.state.service.engine
        find = engine._find_faces
        engine._find_faces = lambda image: find(image) if len(image) == 512 else 1 / 0
        file = io.BytesIO()
        PIL.Image.new("RGB", (80, 60)).save(file, "PNG")
        small = file.getvalue()
        response = client.post("/detect", files={"image": ("a.png", small)})
        assert response.status_code == 500
        assert error_of(response) == "a.png: unexpected ZeroDivisionError"
        assert "ZeroDivisionError" in caplog.text  # the log has the traceback
        results = client.post("/detect/batch", files=[("a", small), ("b", photo)]).json()["results"]
        assert [len(row["faces"]) for row in results] == [0, 1]


def test_a_failing_batch_is_predicted_image_by_image(landmarker, photo):
    app = create_app(landmarker, ServiceConfig(batch_size=4))
    with TestClient(app) as client:
        engine = app.state.service.engine
        run = engine.pipeline.run
        sizes = []

        def fail_in_batches(images, *others):
            sizes.append(len(images))
            if len(images) > 1:
                raise RuntimeError("a batch")
            return run(images, *others)

        engine._run = fail_in_batches
        results = client.post("/detect/batch", files=[("a", photo)] * 6).json()["results"]
        assert [len(row["faces"]) for row in results] == [1] * 6
        assert sizes.count(1) == 6


def test_waiting_images_are_predicted_in_one_batch(landmarker, photo):
    """Images that wait while the network is busy are its next batch, and have the same landmarks."""
    app = create_app(landmarker, ServiceConfig(batch_size=4), threads=4)
    with TestClient(app) as client:
        engine = app.state.service.engine
        run, sizes, first = engine.pipeline.run, [], threading.Event()

        def wait_for_others(images, *others):
            sizes.append(len(images))
            if not first.is_set():
                first.set()
                deadline = time.monotonic() + 30
                while engine._jobs.qsize() + len(images) < 5 and time.monotonic() < deadline:
                    time.sleep(0.01)
            return run(images, *others)

        engine._run = wait_for_others
        results = client.post("/detect/batch", files=[("a", ("a", photo))] * 5).json()["results"]
        assert sum(sizes) == 5
        assert len(sizes) == 2
        for row in results[1:]:
            points = np.array(row["faces"][0]["points"]) - results[0]["faces"][0]["points"]
            assert np.abs(points).max() <= 0.01
        assert "pipnet_batch_images_sum 5.0" in client.get("/metrics").text


# -- hostile bodies ------------------------------------------------------------------------------------


def test_hostile_bodies_are_answered_in_one_line(client, photo):
    statuses = []
    for arguments in HOSTILE["hostile_bodies"](photo, 60):
        response = client.post("/detect", **arguments)
        statuses.append(response.status_code)
        assert response.status_code in (200, 400, 413, 422), (response.status_code, response.text)
        if response.status_code != 200:
            error_of(response)
    assert statuses.count(200) >= 2  # some remain readable
    assert statuses.count(422) >= 20
    assert len(client.post("/detect", content=photo).json()["faces"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:{port}/a.jpg",
        "file:///etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "{photo}",
        "data:,x",
    ],
)
def test_urls_are_never_fetched_and_paths_never_read(client, portrait, text):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        text = text.format(port=listener.getsockname()[1], photo=portrait)
        for arguments in (
            {"json": {"image": text, "name": text}},
            {"content": text.encode()},
            {"files": {"image": (text, text.encode())}},
            {"files": {"image": (text, b"")}},
        ):
            response = client.post("/detect", **arguments)
            assert response.status_code == 422, response.text
            assert response.json()["faces"] == []
            assert "root:" not in response.text
        response = client.post("/detect", data={"image": text})  # a field, no file
        assert response.status_code in (400, 422)
        with pytest.raises(TimeoutError):
            listener.accept()


# -- token, probes, metrics ----------------------------------------------------------------------------


def test_requests_need_the_token(landmarker, photo):
    with TestClient(create_app(landmarker, token=TOKEN)) as client:
        for headers in ({}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": f"Basic {TOKEN}"}):
            for method, path in (("post", "/detect"), ("post", "/detect/batch"), ("get", "/metrics")):
                response = client.request(method, path, headers=headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
                assert TOKEN not in error_of(response)
        for path in ("/health", "/ready", "/openapi.json"):
            assert client.get(path).status_code == 200
        right = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/detect", content=photo, headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200


def test_read_token_reads_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("PIPNET_TOKEN", raising=False)
    assert read_token(ServiceConfig()) is None
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert read_token(ServiceConfig(token_file=tmp_path / "token")) == TOKEN
    monkeypatch.setenv("PIPNET_TOKEN", "another-token-of-the-environment")
    assert read_token(ServiceConfig()) == "another-token-of-the-environment"
    assert read_token(ServiceConfig(token_file=tmp_path / "token")) == TOKEN
    for text in ("", "short", "with spaces inside it", "päßwörter-sind-geheim"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(PipnetError, match="16 printable ASCII"):
            read_token(ServiceConfig(token_file=tmp_path / "token"))
    monkeypatch.setenv("PIPNET_TOKEN", "")
    with pytest.raises(PipnetError, match="PIPNET_TOKEN"):
        read_token(ServiceConfig())
    with pytest.raises(PipnetError, match="No such file"):
        read_token(ServiceConfig(token_file=tmp_path / "none"))


def test_probes_state_the_model(client):
    assert client.get("/health").json() == {"status": "ok"}
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["model"] == "pipnet-68"
    assert ready.json()["status"] == "ready"


def test_a_stopping_service_is_not_ready(landmarker):
    app = create_app(landmarker)
    with TestClient(app) as client:
        app.state.service.is_stopping = True
        response = client.get("/ready")
        assert (response.status_code, response.json()["status"]) == (503, "stopping")


def test_metrics_count_requests_images_and_faces(landmarker, photo):
    with TestClient(create_app(landmarker)) as client:
        client.post("/detect/batch", files=[("a", photo), ("b", b"no image")])
        client.post("/detect", content=b"no image")
        client.get("/a/path/of/a/scanner")
        text = client.get("/metrics").text
    for expected in (
        'pipnet_requests_total{path="/detect/batch",status="200"} 1.0',
        'pipnet_requests_total{path="/detect",status="422"} 1.0',
        'pipnet_requests_total{path="other",status="404"} 1.0',
        'pipnet_images_total{result="ok"} 1.0',
        'pipnet_images_total{result="error"} 2.0',
        "pipnet_faces_total 1.0",
        "pipnet_requests_in_progress 0.0",
    ):
        assert expected in text, expected


def test_openapi_examples_are_real_requests_and_answers(client, portrait, line):
    api = client.get("/openapi.json").json()
    assert set(api["paths"]) == {"/detect", "/detect/batch", "/health", "/ready", "/metrics"}
    for path, field in (("/detect", "image"), ("/detect/batch", "images")):
        route = api["paths"][path]["post"]
        content = route["requestBody"]["content"]
        example = content["application/json"]["example"]
        assert client.post(path, json=example).status_code == 200
        assert field in content["multipart/form-data"]["schema"]["properties"]
        assert {"200", "400", "401", "408", "413", "503", "504"} <= set(route["responses"])
    answers = api["paths"]["/detect"]["post"]["responses"]
    example = answers["200"]["content"]["application/json"]["examples"]["one_face"]["value"]
    real = json.loads(line)
    for name, value in real["faces"][0].items():
        shown = example["faces"][0][name]
        assert np.allclose(shown, value[: len(shown)] if isinstance(value, list) else value, atol=0.02), name
    bad = answers["422"]["content"]["application/json"]["examples"]["no_image"]["value"]
    with pytest.raises(ImageError) as caught:
        decode_image(b"no image", "notes.txt")
    assert bad["error"] == str(caught.value)
