"""``pipnet video`` and `VideoLandmarker`."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from clips import remux
from pipnet.cli import main
from pipnet.errors import PipnetError
from pipnet.io.signals import exit_on_signals
from pipnet.video.reader import VideoReader
from pipnet.video.video_landmarker import VideoLandmarker


def test_video_command_writes_video_and_json_lines(short_clip, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert main(["video", str(short_clip), "-o", str(out), "--json", "--detect-every", "10"]) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert {tuple(line) for line in lines} == {("frame", "time", "width", "height", "faces")}
    assert [line["frame"] for line in lines] == list(range(25))
    assert lines[-1]["time"] == pytest.approx(0.96, abs=1e-3)
    assert {face["track_id"] for line in lines for face in line["faces"]} == {1}
    assert "25 frames, detector ran on 3" in captured.err
    assert sum(1 for _ in VideoReader(out)) == 25


def test_video_command_refuses_missing_or_wrong_outputs(short_clip, tmp_path, capsys):
    assert main(["video", str(short_clip)]) == 1
    assert "no output selected" in capsys.readouterr().err
    assert main(["video", str(short_clip), "-o", str(tmp_path / "out")]) == 1
    assert "not a supported video suffix: use .mp4, " in capsys.readouterr().err


def test_video_command_refuses_a_port_without_a_page(short_clip, tmp_path, capsys):
    for command in (["video", str(short_clip), "--json"], ["webcam", "-o", str(tmp_path / "out.mp4")]):
        assert main([*command, "--port", "8000"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == "error: --port 8000 needs --page\n"


def test_video_and_webcam_refuse_frames_of_too_many_pixels(short_clip, tmp_path, capsys):
    stream, pipe = tmp_path / "stream.mkv", tmp_path / "pipe"
    remux(short_clip, stream)
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as sender:
        sender.submit(pipe.write_bytes, stream.read_bytes())
        assert main(["webcam", str(pipe), "--json", "--max-pixels", "100"]) == 1
    assert main(["video", str(short_clip), "--json", "--max-pixels", "100"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("frames of more than 100 pixels\n") == 2


def test_video_command_reports_corrupt_input_in_one_line(short_clip, tmp_path, capsys):
    corrupt = tmp_path / "cut.mkv"
    remux(short_clip, corrupt)
    content = corrupt.read_bytes()
    corrupt.write_bytes(content[: len(content) * 2 // 3])
    code = main(["video", str(corrupt), "--json"])
    captured = capsys.readouterr()
    assert 5 < len(captured.out.splitlines()) < 25
    assert code == 1
    assert "the file ends 0." in captured.err


def test_video_command_never_overwrites_its_input(short_clip, tmp_path, capsys):
    assert main(["video", str(short_clip), "-o", str(short_clip)]) == 1
    assert "would overwrite" in capsys.readouterr().err
    partial = tmp_path / "out.mp4.partial"  # left behind by a killed process
    partial.write_bytes(short_clip.read_bytes())
    assert main(["video", str(partial), "-o", str(tmp_path / "out.mp4")]) == 1
    assert "would overwrite" in capsys.readouterr().err
    assert partial.is_file()
    assert main(["video", str(short_clip), "-o", str(partial / "out.mp4")]) == 1
    assert "out.mp4: cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_video_command_leaves_a_playable_file_on_signals(number, code, clip, tmp_path, start):
    out = tmp_path / "out.mp4"
    before = signal.signal(number, signal.SIG_DFL)  # also if the tests run with nohup
    process = start("video", str(clip), "-o", str(out), "--json")
    signal.signal(number, before)
    for _ in range(20):
        process.stdout.readline()
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.endswith("interrupted\n" if number == signal.SIGINT else f"ended by {number.name}\n")
    assert 10 < sum(1 for _ in VideoReader(out)) < 765


def test_exit_on_signals_restores_handlers():
    """Also those that nohup ignores, and in a thread, where handlers cannot be set."""

    def handlers():
        return signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)

    before = handlers()
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with exit_on_signals(print):
            assert handlers()[0] is signal.SIG_IGN
            assert callable(handlers()[1])
        assert handlers() == (signal.SIG_IGN, signal.SIG_DFL)
        with ThreadPoolExecutor(1) as other:
            other.submit(exit_on_signals(print).__enter__).result()
        assert handlers() == (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_video_landmarker_tracks_faces_of_a_file(landmarker, short_clip):
    frames = list(islice(VideoLandmarker(landmarker, detect_every=5).stream(short_clip), 6))
    assert [frame.track_ids for frame in frames] == [[1]] * 6
    assert [frame.detected for frame in frames] == [True, False, False, False, False, True]
    assert frames[3].frame.time == pytest.approx(0.12, abs=1e-3)


def test_video_landmarker_refuses_options_for_a_landmarker(landmarker, short_clip):
    with pytest.raises(TypeError, match="pass tta to the FaceLandmarker"):
        VideoLandmarker(landmarker, tta="flip")
    with pytest.raises(PipnetError, match="detect_every must be at least 1"):
        next(VideoLandmarker(landmarker, detect_every=0).track(VideoReader(short_clip)))
