"""``pipnet video`` and `FaceLandmarker.stream`: what a user sees."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from clips import remux
from pipnet.cli import main
from pipnet.cli.video import _ended_by_signals
from pipnet.video.reader import VideoReader


def test_a_video_on_the_command_line(short, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert main(["video", str(short), "-o", str(out), "--json", "--detect-every", "10"]) == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["frame"] for line in lines] == list(range(25))
    assert lines[-1]["time"] == pytest.approx(0.96, abs=1e-3)
    assert {face["id"] for line in lines for face in line["faces"]} == {1}
    assert "25 frames, searched for faces in 3" in said.err
    assert sum(1 for _ in VideoReader(out)) == 25


def test_a_video_for_nothing_is_refused(short, tmp_path, capsys):
    assert main(["video", str(short)]) == 1
    assert "nothing is asked for" in capsys.readouterr().err
    assert main(["video", str(short), "-o", str(tmp_path / "out")]) == 1
    assert "those end in .mp4, " in capsys.readouterr().err


def test_a_port_without_a_page_is_refused(short, tmp_path, capsys):
    for command in (["video", str(short), "--json"], ["webcam", "-o", str(tmp_path / "out.mp4")]):
        assert main([*command, "--port", "8000"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == "error: --port 8000 is of the page: ask for it too, --page\n"


def test_damage_is_one_line_and_loses_nothing(short, tmp_path, capsys):
    damaged = tmp_path / "cut.mkv"
    remux(short, damaged)
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) * 2 // 3])
    code = main(["video", str(damaged), "--json"])
    said = capsys.readouterr()
    assert 5 < len(said.out.splitlines()) < 25
    assert code == 1
    assert "it ends 0." in said.err
    assert main(["video", str(short), "-o", str(short)]) == 1
    assert "would overwrite" in capsys.readouterr().err
    killed = tmp_path / "out.mkv.partial"
    killed.write_bytes(damaged.read_bytes())
    assert main(["video", str(killed), "-o", str(tmp_path / "out.mkv")]) == 1
    assert "would overwrite" in capsys.readouterr().err
    assert killed.is_file()
    assert main(["video", str(short), "-o", str(damaged / "out.mp4")]) == 1
    assert "out.mp4: cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_leave_a_playable_file(number, code, clip, tmp_path, start):
    out = tmp_path / "out.mp4"
    before = signal.signal(number, signal.SIG_DFL)  # also where the tests run with nohup
    process = start("video", str(clip), "-o", str(out), "--json")
    signal.signal(number, before)
    for _ in range(20):
        process.stdout.readline()
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.endswith("interrupted\n" if number == signal.SIGINT else f"ended by {number.name}\n")
    assert 10 < sum(1 for _ in VideoReader(out)) < 765


def test_signals_are_left_as_they_were():
    """Also those that nohup ignores; and in a thread, where signals cannot be handled."""

    def handlers():
        return signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)

    before = handlers()
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with _ended_by_signals():
            assert handlers()[0] is signal.SIG_IGN
            assert callable(handlers()[1])
        assert handlers() == (signal.SIG_IGN, signal.SIG_DFL)
        with ThreadPoolExecutor(1) as other:
            other.submit(_ended_by_signals().__enter__).result()
        assert handlers() == (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_from_python(landmarker, short):
    found = list(islice(landmarker.stream(short, detect_every=5), 6))
    assert [one.ids for one in found] == [[1]] * 6
    assert [one.detected for one in found] == [True, False, False, False, False, True]
    assert found[3].frame.time == pytest.approx(0.12, abs=1e-3)
