"""Live video: the newest frame of a real stream, what goes wrong with cameras, and the page that shows it.

There is no camera where tests run: a small server sends pictures as network cameras do, over HTTP.
"""

import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
from itertools import cycle, islice, repeat

import cv2
import numpy as np
import pytest

from pipnet.cli import main
from pipnet.errors import MissingExtraError, PipnetError, VideoError
from pipnet.io.image import read_image
from pipnet.video import live
from pipnet.video.camera import LiveReader
from pipnet.video.preview import Preview
from pipnet.video.reader import VideoReader
from pipnet.video.writer import VideoWriter

HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=next\r\n\r\n"


def part(image):
    """A picture as a network camera sends it."""
    content = cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()
    return (
        b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(content) + content + b"\r\n"
    )


def gray(level):
    return np.full((120, 160, 3), level, np.uint8)


@pytest.fixture
def camera():
    """Starts a network camera for one viewer, and gives its address: 25 pictures a second, then an end."""
    servers, threads = [], []

    def start(pictures, end="close"):
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(60)

        def serve():
            try:
                viewer, _ = server.accept()
                viewer.recv(4096)
                viewer.sendall(HEAD)
                for picture in pictures:
                    viewer.sendall(picture)
                    time.sleep(0.04)
                if end == "silence":
                    viewer.recv(1)
                if end == "reset":  # as where a cable is pulled and the router says so
                    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                viewer.close()
            except OSError:  # the viewer left
                viewer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        servers.append(server)
        threads.append(thread)
        return f"http://127.0.0.1:{server.getsockname()[1]}/"

    yield start
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()  # every viewer closed its connection
    for server in servers:
        server.close()


@pytest.fixture
def face(portrait):
    """Pictures of a face, for ever."""
    return repeat(part(cv2.resize(read_image(portrait), (256, 256))))


def reading(reader):
    return any(thread.name == reader.name for thread in threading.enumerate())


# -- reading -------------------------------------------------------------------------------------------


def test_what_came_meanwhile_is_dropped_and_the_newest_is_given(camera):
    reader = LiveReader(camera([part(gray(5 * number)) for number in range(40)]))
    frames = iter(reader)
    first = next(frames)
    assert (first.number, first.time) == (0, 0)
    while reading(reader):  # busy until the camera has sent all
        time.sleep(0.01)
    last = next(frames)
    assert np.abs(last.image.astype(int) - 5 * 39).max() < 4
    steps = (int(last.image.mean()) - int(first.image.mean())) / 5
    assert last.number == pytest.approx(steps, abs=0.5)
    assert last.number > 5
    assert reader.dropped == last.number - 1
    assert last.time > 0
    assert list(frames) == []


def test_frames_come_in_order_and_those_dropped_are_counted(camera):
    reader = LiveReader(camera([part(gray(5 * number)) for number in range(40)]))
    frames = list(reader)
    levels = [round(frame.image.mean() / 5) for frame in frames]
    assert [frame.number for frame in frames] == [level - levels[0] for level in levels]
    assert len(frames) + reader.dropped == frames[-1].number + 1
    assert (np.diff([frame.time for frame in frames]) > 0).all()


def test_who_stops_lets_the_camera_go(camera):
    reader = LiveReader(camera(cycle([part(gray(0)), part(gray(99))])))
    frames = iter(reader)
    assert [frame.image.shape for frame in islice(frames, 3)] == [(120, 160, 3)] * 3
    frames.close()
    assert not reading(reader)


def test_a_stream_that_is_tuned_into_and_damaged_goes_on(portrait, tmp_path):
    """H.264 from the middle, with noise in it, through a pipe: what cannot be decoded is left out."""
    image = cv2.resize(read_image(portrait), (96, 96))
    with VideoWriter(tmp_path / "whole.ts", 25) as writer:
        for number in range(600):
            writer.write(np.roll(image, number, axis=1), number / 25)
    content = (tmp_path / "whole.ts").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 2000, np.uint8).tobytes()
    third = len(content) // 3
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    sender = threading.Thread(
        target=lambda: pipe.write_bytes(content[third : 2 * third] + noise + content[2 * third :])
    )
    sender.start()
    reader = LiveReader(pipe)
    frames = list(reader)
    sender.join()
    assert frames[-1].number > 100
    assert reader.damage is None


def test_an_end_that_nobody_asked_for_is_named(camera, monkeypatch):
    reader = LiveReader(camera([part(gray(9))] * 30, end="reset"))
    assert next(iter(reader)).image.shape == (120, 160, 3)
    reader = LiveReader(camera([part(gray(9))] * 30, end="reset"))
    assert len(list(reader)) >= 1
    assert reader.damage == "Connection reset by peer"
    monkeypatch.setattr(live, "_PATIENCE", 1.0)
    reader = LiveReader(camera([part(gray(9))] * 30, end="silence"))
    assert len(list(reader)) >= 1
    assert reader.damage == "no picture for 1 seconds"


def test_what_is_no_camera(camera, portrait, tmp_path, monkeypatch):
    for source, words in (
        (portrait, "astronaut.jpg: a file, which `pipnet video` reads"),
        (tmp_path, "no such camera"),
        (tmp_path / "video7", "no such camera"),
    ):
        with pytest.raises(VideoError, match=words):
            LiveReader(source)
    with pytest.raises(VideoError, match="more than 1,000 pixels"):
        next(iter(LiveReader(camera([part(gray(9))] * 30), max_pixels=1000)))
    with pytest.raises(VideoError, match=r"http.*: cannot be opened: "):
        next(iter(LiveReader(camera([]))))
    with pytest.raises(VideoError, match="cannot be opened: Connection refused"):
        next(iter(LiveReader("tcp://127.0.0.1:1")))
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(live, "_PATIENCE", 0.5)
    with pytest.raises(VideoError, match=r"pipe: no picture for 0\.5 seconds"):
        next(iter(LiveReader(tmp_path / "pipe")))
    (tmp_path / "pipe").open("wb").close()  # lets go of the thread that waits for a sender
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"\[video\]'"):
        next(iter(LiveReader(0)))


def test_from_python(camera, face, landmarker):
    found = list(islice(landmarker.stream(camera(face)), 3))
    assert [one.ids for one in found] == [[1]] * 3
    assert [one.detected for one in found] == [True, False, False]


# -- the command ---------------------------------------------------------------------------------------


def test_without_a_camera_one_line_and_nothing_overwritten(portrait, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"an older video")
    for source, words in (
        ("63", "camera 63: cannot be opened: there is no such camera"),
        ("/dev/null", "/dev/null: cannot be opened: "),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1: cannot be opened: Connection refused"),
        (str(portrait), "a file, which `pipnet video` reads"),
    ):
        assert main(["webcam", source, "-o", str(out)]) == 1
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert out.read_bytes() == b"an older video"


def test_a_camera_that_is_unplugged_leaves_a_playable_file(camera, face, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    address = camera(islice(face, 50), end="reset")
    assert main(["webcam", address, "-o", str(out), "--json"]) == 1
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert {face["id"] for row in rows for face in row["faces"]} == {1}
    assert f"error: {address}: Connection reset by peer" in said.err
    count, dropped = map(int, re.search(r": (\d+) frames, (\d+) dropped", said.err).groups())
    assert count == len(rows)
    assert count + dropped == rows[-1]["frame"] + 1
    times = [frame.time for frame in VideoReader(out)]
    np.testing.assert_allclose(times, [row["time"] for row in rows], atol=1e-3)


def test_ctrl_c_leaves_a_playable_file(camera, face, tmp_path, start):
    out = tmp_path / "out.mp4"
    process = start("webcam", camera(face), "-o", str(out), "--json")
    for _ in range(5):
        assert process.stdout.readline().startswith('{"frame"')
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert " dropped, searched for faces in 1" in said
    assert said.endswith("interrupted\n")
    assert sum(1 for _ in VideoReader(out)) >= 5


# -- the page ------------------------------------------------------------------------------------------


def get(address, data=None):
    return urllib.request.urlopen(urllib.request.Request(address, data=data), timeout=120)


def pictures_of(answer):
    """The pictures of a stream as a browser takes it apart."""
    while answer.readline() == b"--picture\r\n":
        head = dict(iter(lambda: tuple(answer.readline().strip().lower().split(b": ", 1)), (b"",)))
        content = np.frombuffer(answer.read(int(head[b"content-length"])), np.uint8)
        assert answer.readline() == b"\r\n"
        yield cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]


def test_the_page_shows_the_camera_until_it_is_told_to_stop(camera, portrait, face, start):
    process = start("webcam", camera(face))
    address = re.fullmatch(r"look at (http://127\.0\.0\.1:\d+/.*/)\n", process.stderr.readline())[1]
    page = get(address)
    assert page.headers["Content-Type"].startswith("text/html")
    assert b'<img src="pictures"' in page.read()
    with get(address + "pictures") as answer:
        shown = list(islice(pictures_of(answer), 3))
    plain = cv2.resize(read_image(portrait), (256, 256)).astype(int)
    for picture in shown:
        away = np.abs(picture - plain).max(axis=-1)
        assert np.median(away) < 8  # the same picture
        assert (away > 60).sum() > 100  # with landmarks on it
    assert re.fullmatch(
        r"\d+\.\d frames a second, faces: 1, \d+ dropped", get(address + "words").read().decode()
    )
    assert get(address + "stop", data=b"").read() == b"stopped"
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0
    assert "dropped, searched for faces in" in said


def test_a_file_has_a_page_too_and_drops_nothing(portrait, tmp_path, capsys):
    image = cv2.resize(read_image(portrait), (128, 128))
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for number in range(5):
            writer.write(image, number / 25)
    assert main(["video", str(tmp_path / "clip.mp4"), "--page", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("look at http://127.0.0.1:")
    assert [json.loads(line)["frame"] for line in said.out.splitlines()] == list(range(5))


def test_only_who_knows_the_address_sees_the_page():
    with Preview("<b>") as preview:
        assert b"&lt;b&gt;" in get(preview.address).read()
        root = preview.address.rsplit("/", 2)[0]
        for path in ("/", "/pictures", "/guessed/pictures", "/../"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(root + path)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(root + "/stop", data=b"")
        assert not preview.stopped
        port = int(root.rsplit(":", 1)[1])
        with pytest.raises(PipnetError, match=f"port {port} cannot be used: Address already in use"):
            Preview("second", port)
    with pytest.raises(PipnetError, match="no port 70000"):
        Preview("third", 70000)
    with pytest.raises(urllib.error.URLError):
        get(preview.address)


def test_a_viewer_that_leaves_or_never_reads_disturbs_nobody(capfd):
    with Preview("page") as preview:
        for number in range(60):
            if number in {3, 9}:
                idle = socket.create_connection(
                    ("127.0.0.1", int(preview.address.split(":")[2].split("/")[0]))
                )
                path = preview.address.split("/", 3)[3]
                idle.sendall(f"GET /{path}pictures HTTP/1.0\r\n\r\n".encode())
                if number == 3:
                    idle.close()
            preview.show(np.random.default_rng(number).integers(0, 256, (480, 640, 3), np.uint8), "noise")
        with get(preview.address + "pictures") as answer:
            assert next(pictures_of(answer)).shape == (480, 640, 3)
    idle.close()
    assert capfd.readouterr().err == ""


def test_passwords_of_addresses_are_not_said():
    assert LiveReader("rtsp://me:se@cret@camera.local/stream").name == "rtsp://camera.local/stream"
    assert LiveReader("http://camera.local/a@b").name == "http://camera.local/a@b"
