"""Writing video: what is written is read as it was, with its sound, whole or not at all."""

import resource
import signal
from itertools import islice

import av
import numpy as np
import pytest

from clips import remux
from pipnet.cli import main
from pipnet.errors import VideoError
from pipnet.video.reader import VideoReader
from pipnet.video.writer import _FORMATS, VideoWriter


@pytest.mark.parametrize("ending", _FORMATS)
def test_what_is_written_is_read_as_it_was(ending, moving, tmp_path):
    times = np.arange(50) / 25 + 0.6 * (np.arange(50) >= 20)
    with VideoWriter(tmp_path / f"x{ending.upper()}", 25) as writer:
        for image, time in zip(moving, times, strict=True):
            writer.write(image, time)
    reader = VideoReader(tmp_path / f"x{ending.upper()}")
    np.testing.assert_allclose([frame.time for frame in reader], times, atol=2e-3)
    assert reader.damage is None


@pytest.mark.parametrize("name", ["x.avi", "x.wmv", "x.mpg", "x.ogv", "x.jpg", "x.xyz", "x"])
def test_endings_that_cannot_be_right_are_refused(name, short, tmp_path, capsys):
    (tmp_path / name).write_text("old")
    assert main(["video", str(short), "-o", str(tmp_path / name)]) == 1
    said = capsys.readouterr().err
    assert "not a video that can be written: those end in .mp4, " in said
    assert said.count("\n") == 1
    assert (tmp_path / name).read_text() == "old"


def test_what_was_there_remains_until_the_new_one_is_playable(moving, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_text("old")
    with VideoWriter(path, 25) as writer:
        for number in range(100):
            writer.write(moving[number % 50], number / 25)
        assert path.read_text() == "old"  # as it stays after a kill
        assert (tmp_path / "x.mp4.partial").is_file()
    assert sum(1 for _ in VideoReader(path)) == 100
    assert list(tmp_path.iterdir()) == [path]
    with VideoWriter(path, 25):
        pass  # no camera, so no frame
    assert sum(1 for _ in VideoReader(path)) == 100
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VideoError, match="it is a folder"):
        VideoWriter(tmp_path / "folder.mp4", 25)


def write_on_a_full_disk(path):
    noise = np.random.default_rng(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with VideoWriter(path, 25) as writer:
            for number in range(200):
                writer.write(noise.integers(0, 256, (96, 128, 3), np.uint8), number / 25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".gif"])
def test_a_full_disk_leaves_what_was_there_or_what_can_be_played(ending, tmp_path):
    path = tmp_path / f"x{ending}"
    path.write_text("old")
    with pytest.raises(VideoError, match="cannot be written: File too large"):
        write_on_a_full_disk(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    with pytest.raises(VideoError, match="cannot be written: File too large"):
        write_on_a_full_disk(path)
    assert list(tmp_path.iterdir()) == ([] if ending == ".mp4" else [path])
    if ending != ".mp4":  # which cannot be played without its end
        assert sum(1 for _ in VideoReader(path)) > 5


@pytest.fixture
def ctrl_c():
    """Ctrl-C has its effect also where a shell runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_it_is_closed_waits(moving, tmp_path, monkeypatch):
    """As where somebody presses it twice: the first time it is closed, which takes a while."""
    finish = VideoWriter._finish

    def slowly(writer):
        signal.raise_signal(signal.SIGINT)
        finish(writer)

    monkeypatch.setattr(VideoWriter, "_finish", slowly)
    writer = VideoWriter(tmp_path / "x.mp4", 25)
    for number in range(5):
        writer.write(moving[number], number / 25)
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sum(1 for _ in VideoReader(tmp_path / "x.mp4")) == 5
    writer.close()  # once more, which is nothing


def test_gif_keeps_time_of_frames_that_come_faster_than_its_clock(moving, tmp_path):
    with VideoWriter(tmp_path / "x.gif", 240) as writer:
        for number, image in enumerate(moving):
            writer.write(image, number / 240)
    times = [frame.time for frame in VideoReader(tmp_path / "x.gif")]
    np.testing.assert_allclose(times, np.arange(len(times)) / 100, atol=1e-3)
    assert len(times) == 21


@pytest.mark.parametrize(("height", "number"), [(96, 6), (720, 1)])
def test_colors_are_stored_as_players_expect(height, number, tmp_path):
    """Of television in large pictures, as is said in the file; both are read as they were written."""
    red = np.zeros((height, 128, 3), np.uint8)
    red[..., 0] = 220
    with VideoWriter(tmp_path / "x.mp4", 25) as writer:
        writer.write(red, 0.0)
    with av.open(str(tmp_path / "x.mp4")) as video:
        assert video.streams.video[0].codec_context.colorspace == number
        luma = next(video.decode(video=0)).to_ndarray(format="yuv420p")[:height].mean()
    share = {6: 0.299, 1: 0.2126}[number]
    assert luma == pytest.approx(16 + 219 * share * 220 / 255, abs=2)
    (frame,) = VideoReader(tmp_path / "x.mp4")
    assert np.abs(frame.image.astype(int) - [220, 0, 0]).mean() < 3


def test_a_video_of_hardly_any_frames_a_second(moving, tmp_path):
    with VideoWriter(tmp_path / "x.mp4", 1 / 3600) as writer:
        for number in range(3):
            writer.write(moving[number], number * 3600)
    assert [frame.time for frame in VideoReader(tmp_path / "x.mp4")] == [0, 3600, 7200]


# -- sound ---------------------------------------------------------------------------------------------


def test_sound_is_kept(short, tmp_path, capsys):
    with_sound = tmp_path / "sound.mkv"
    remux(short, with_sound, sound=1)
    assert main(["video", str(with_sound), "-o", str(tmp_path / "out.mkv")]) == 0
    before, after = (_sound_of(path) for path in (with_sound, tmp_path / "out.mkv"))
    assert len(after) >= 50  # all of a second, of 20 ms each
    skipped = len(before) - len([p for p in before if p[1] >= 0])
    assert after == before[skipped : skipped + len(after)]


def test_sound_stays_with_pictures_that_begin_late(short, tmp_path, capsys):
    """As in a broadcast: the file's clock does not begin at 0."""
    plain, late = tmp_path / "plain.mkv", tmp_path / "late.mkv"
    remux(short, plain, sound=1)
    remux(short, late, sound=1, begin=10.0)
    assert VideoReader(late).start == pytest.approx(10, abs=0.01)
    assert main(["video", str(late), "-o", str(tmp_path / "out.mkv")]) == 0
    assert next(iter(VideoReader(tmp_path / "out.mkv"))).time == 0
    out, expected = _sound_of(tmp_path / "out.mkv"), _sound_of(plain)
    assert len(out) >= 45
    assert set(out) <= set(expected)


def test_sound_that_lasts_longer_than_the_pictures_is_kept(short, tmp_path, capsys):
    """Of all that was worked on; where one stops before the end, the sound stops there too."""
    remux(short, tmp_path / "long.mkv", sound=3)
    assert main(["video", str(tmp_path / "long.mkv"), "-o", str(tmp_path / "out.mkv")]) == 0
    assert len(_sound_of(tmp_path / "out.mkv")) >= 149
    reader = VideoReader(tmp_path / "long.mkv")
    with VideoWriter(tmp_path / "begin.mkv", 25, reader) as writer:
        for frame in islice(reader, 10):
            writer.write(frame.image, frame.time)
    assert 18 < len(_sound_of(tmp_path / "begin.mkv")) < 24


@pytest.mark.parametrize(("name", "tracks", "words"), [
    ("out.mov", 1, "out.mov: without sound: "),
    ("out.mkv", 2, "out.mkv: with the first of 2 sound tracks alone"),
])  # fmt: skip
def test_what_is_not_kept_of_the_sound_is_said(name, tracks, words, short, tmp_path, capsys):
    """QuickTime holds no Opus, and says so when it is begun; the pictures are kept all the same."""
    remux(short, tmp_path / "in.mkv", sound=1, tracks=tracks)
    assert main(["video", str(tmp_path / "in.mkv"), "-o", str(tmp_path / name)]) == 0
    assert words in capsys.readouterr().err
    assert sum(1 for _ in VideoReader(tmp_path / name)) == 25
    with av.open(str(tmp_path / name)) as video:
        assert len(video.streams.audio) == tracks - 1


def _sound_of(path):
    """Each packet of sound, and when it is heard after the first picture is seen."""
    start = VideoReader(path).start
    with av.open(str(path)) as video:
        stream = video.streams.audio[0]
        return [
            (bytes(p), round(float(p.pts * p.time_base) - start, 2)) for p in video.demux(stream) if p.size
        ]
