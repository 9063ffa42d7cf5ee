"""Live video: the latest frame of a stream, camera errors, and the preview page.

Test machines have no camera: a small server sends images over HTTP, like a network camera.
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
from pipnet.video.camera import LiveReader
from pipnet.video.preview_page import Preview
from pipnet.video.reader import VideoReader
from pipnet.video.video_landmarker import VideoLandmarker
from pipnet.video.writer import VideoWriter

RESPONSE_HEADER = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=next\r\n\r\n"


def part(image):
    """Return an image in the format of a network camera."""
    content = cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()
    return (
        b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(content) + content + b"\r\n"
    )


def gray(level):
    return np.full((120, 160, 3), level, np.uint8)


@pytest.fixture
def camera():
    """Starts a network camera for one client, 25 frames a second, and returns its address."""
    servers, threads = [], []

    def start(parts, end="close"):
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(60)

        def serve():
            try:
                client, _ = server.accept()
                client.recv(4096)
                client.sendall(RESPONSE_HEADER)
                for part in parts:
                    client.sendall(part)
                    time.sleep(0.04)
                if end == "silence":
                    client.recv(1)
                if end == "reset":  # as when a cable is unplugged
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            except OSError:  # the client closed the connection
                client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        servers.append(server)
        threads.append(thread)
        return f"http://127.0.0.1:{server.getsockname()[1]}/"

    yield start
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()  # every client closed its connection
    for server in servers:
        server.close()


@pytest.fixture
def face(portrait):
    """An endless stream of images of a face."""
    return repeat(part(cv2.resize(read_image(portrait), (256, 256))))


def is_reading(reader):
    return any(thread.name == reader.name for thread in threading.enumerate())


# -- reading -------------------------------------------------------------------------------------------


def test_live_reader_drops_frames_and_returns_the_latest(camera):
    reader = LiveReader(camera([part(gray(5 * number)) for number in range(40)]))
    frames = iter(reader)
    first = next(frames)
    assert (first.number, first.time) == (0, 0)
    while is_reading(reader):  # until the camera has sent all frames
        time.sleep(0.01)
    last = next(frames)
    assert np.abs(last.image.astype(int) - 5 * 39).max() < 4
    steps = (int(last.image.mean()) - int(first.image.mean())) / 5
    assert last.number == pytest.approx(steps, abs=0.5)
    assert last.number > 5
    assert reader.dropped == last.number - 1
    assert last.time > 0
    assert list(frames) == []


def test_live_reader_keeps_order_and_counts_dropped_frames(camera):
    reader = LiveReader(camera([part(gray(5 * number)) for number in range(40)]))
    frames = list(reader)
    levels = [round(frame.image.mean() / 5) for frame in frames]
    assert [frame.number for frame in frames] == [level - levels[0] for level in levels]
    assert len(frames) + reader.dropped == frames[-1].number + 1
    assert (np.diff([frame.time for frame in frames]) > 0).all()


def test_live_reader_closes_the_camera_with_the_iterator(camera):
    reader = LiveReader(camera(cycle([part(gray(0)), part(gray(99))])))
    frames = iter(reader)
    assert [frame.image.shape for frame in islice(frames, 3)] == [(120, 160, 3)] * 3
    frames.close()
    assert not is_reading(reader)


def test_live_reader_skips_packets_that_cannot_be_decoded(portrait, tmp_path):
    """H.264 from the middle, with noise in it, through a pipe."""
    image = cv2.resize(read_image(portrait), (96, 96))
    with VideoWriter(tmp_path / "complete.ts", 25) as writer:
        for number in range(600):
            writer.write(np.roll(image, number, axis=1), number / 25)
    content = (tmp_path / "complete.ts").read_bytes()
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


def test_live_reader_reports_why_a_stream_ended(camera):
    reader = LiveReader(camera([part(gray(9))] * 30, end="reset"))
    assert next(iter(reader)).image.shape == (120, 160, 3)
    reader = LiveReader(camera([part(gray(9))] * 30, end="reset"))
    assert len(list(reader)) >= 1
    assert reader.damage == "Connection reset by peer"
    reader = LiveReader(camera([part(gray(9))] * 30, end="silence"), read_timeout=1.0)
    assert len(list(reader)) >= 1
    assert reader.damage == "no frame for 1 seconds"


def test_live_reader_refuses_other_sources(camera, portrait, tmp_path, monkeypatch):
    for source, message in (
        (portrait, "astronaut.jpg: a file: use `pipnet video`"),
        (tmp_path, "no such camera"),
        (tmp_path / "video7", "no such camera"),
    ):
        with pytest.raises(VideoError, match=message):
            LiveReader(source)
    with pytest.raises(VideoError, match="more than 1,000 pixels"):
        next(iter(LiveReader(camera([part(gray(9))] * 30), max_pixels=1000)))
    with pytest.raises(VideoError, match=r"http.*: cannot be opened: "):
        next(iter(LiveReader(camera([]))))
    with pytest.raises(VideoError, match="cannot be opened: Connection refused"):
        next(iter(LiveReader("tcp://127.0.0.1:1")))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VideoError, match=r"pipe: no frame for 0\.5 seconds"):
        next(iter(LiveReader(tmp_path / "pipe", read_timeout=0.5)))
    (tmp_path / "pipe").open("wb").close()  # ends the thread that waits for a sender
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"\[video\]'"):
        next(iter(LiveReader(0)))


def test_video_landmarker_tracks_faces_of_a_camera(camera, face, landmarker):
    frames = list(islice(VideoLandmarker(landmarker).stream(camera(face)), 3))
    assert [frame.track_ids for frame in frames] == [[1]] * 3
    assert [frame.detected for frame in frames] == [True, False, False]


# -- the command ---------------------------------------------------------------------------------------


def test_webcam_command_without_a_camera_reports_one_line(portrait, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"an older video")
    for source, message in (
        ("63", "camera 63: cannot be opened: no such camera"),
        ("/dev/null", "/dev/null: cannot be opened: "),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1: cannot be opened: Connection refused"),
        (str(portrait), "a file: use `pipnet video`"),
    ):
        assert main(["webcam", source, "-o", str(out)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert out.read_bytes() == b"an older video"


def test_webcam_command_leaves_a_playable_file_if_the_camera_disconnects(camera, face, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    address = camera(islice(face, 50), end="reset")
    assert main(["webcam", address, "-o", str(out), "--json"]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert {face["track_id"] for row in rows for face in row["faces"]} == {1}
    assert f"error: {address}: Connection reset by peer" in captured.err
    count, dropped = map(int, re.search(r": (\d+) frames, (\d+) dropped", captured.err).groups())
    assert count == len(rows)
    assert count + dropped == rows[-1]["frame"] + 1
    times = [frame.time for frame in VideoReader(out)]
    np.testing.assert_allclose(times, [row["time"] for row in rows], atol=1e-3)


def test_webcam_command_leaves_a_playable_file_on_ctrl_c(camera, face, tmp_path, start):
    out = tmp_path / "out.mp4"
    process = start("webcam", camera(face), "-o", str(out), "--json")
    for _ in range(5):
        assert process.stdout.readline().startswith('{"frame"')
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert " dropped, detector ran on 1" in stderr
    assert stderr.endswith("interrupted\n")
    assert sum(1 for _ in VideoReader(out)) >= 5


# -- preview -------------------------------------------------------------------------------------------


def get(address, data=None):
    return urllib.request.urlopen(urllib.request.Request(address, data=data), timeout=120)


def images_of(response):
    """Yield the images of a stream, parsed like in a browser."""
    while response.readline() == b"--frame\r\n":
        header = dict(iter(lambda: tuple(response.readline().strip().lower().split(b": ", 1)), (b"",)))
        content = np.frombuffer(response.read(int(header[b"content-length"])), np.uint8)
        assert response.readline() == b"\r\n"
        yield cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]


def test_preview_shows_the_camera_until_stop_is_pressed(camera, portrait, face, start):
    process = start("webcam", camera(face))
    address = re.fullmatch(r"preview: (http://127\.0\.0\.1:\d+/.*/)\n", process.stderr.readline())[1]
    page = get(address)
    assert page.headers["Content-Type"].startswith("text/html")
    assert b'<img src="frames"' in page.read()
    with get(address + "frames") as response:
        images = list(islice(images_of(response), 3))
    original = cv2.resize(read_image(portrait), (256, 256)).astype(int)
    for image in images:
        difference = np.abs(image - original).max(axis=-1)
        assert np.median(difference) < 8  # the same image
        assert (difference > 60).sum() > 100  # with landmarks on it
    assert re.fullmatch(
        r"\d+\.\d frames a second, faces: 1, \d+ dropped", get(address + "status").read().decode()
    )
    assert get(address + "stop", data=b"").read() == b"stopped"
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 0
    assert "dropped, detector ran on" in stderr


def test_preview_of_a_file_drops_no_frame(portrait, tmp_path, capsys):
    image = cv2.resize(read_image(portrait), (128, 128))
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for number in range(5):
            writer.write(image, number / 25)
    assert main(["video", str(tmp_path / "clip.mp4"), "--page", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("preview: http://127.0.0.1:")
    assert [json.loads(line)["frame"] for line in captured.out.splitlines()] == list(range(5))


def test_preview_is_served_at_a_secret_path_only():
    with Preview("<b>") as preview:
        assert b"&lt;b&gt;" in get(preview.address).read()
        root = preview.address.rsplit("/", 2)[0]
        for path in ("/", "/frames", "/guessed/frames", "/../"):
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


def test_preview_is_not_blocked_by_idle_or_closed_clients(capfd):
    with Preview("page") as preview:
        for number in range(60):
            if number in {3, 9}:
                idle = socket.create_connection(
                    ("127.0.0.1", int(preview.address.split(":")[2].split("/")[0]))
                )
                path = preview.address.split("/", 3)[3]
                idle.sendall(f"GET /{path}frames HTTP/1.0\r\n\r\n".encode())
                if number == 3:
                    idle.close()
            preview.show(np.random.default_rng(number).integers(0, 256, (480, 640, 3), np.uint8), "noise")
        with get(preview.address + "frames") as response:
            assert next(images_of(response)).shape == (480, 640, 3)
    idle.close()
    assert capfd.readouterr().err == ""


def test_live_reader_name_has_no_password():
    assert LiveReader("rtsp://me:se@cret@camera.local/stream").name == "rtsp://camera.local/stream"
    assert LiveReader("http://camera.local/a@b").name == "http://camera.local/a@b"
