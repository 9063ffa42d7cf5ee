"""Video writing: frames with their times, audio, and atomic output."""

import signal
from itertools import islice

import av
import numpy as np
import pytest

from clips import remux
from pipnet.cli import main
from pipnet.errors import VideoError
from pipnet.video.reader import VideoReader
from pipnet.video.writer import VideoWriter
from test_atomic import max_file_size


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".flv", ".ts", ".3gp", ".gif"])
def test_video_writer_keeps_frames_and_times(suffix, moving_images, tmp_path):
    times = np.arange(50) / 25 + 0.6 * (np.arange(50) >= 20)
    with VideoWriter(tmp_path / f"x{suffix.upper()}", 25) as writer:
        for image, time in zip(moving_images, times, strict=True):
            writer.write(image, time)
    reader = VideoReader(tmp_path / f"x{suffix.upper()}")
    np.testing.assert_allclose([frame.time for frame in reader], times, atol=2e-3)
    assert reader.damage is None


@pytest.mark.parametrize("name", ["x.avi", "x.wmv", "x.mpg", "x.ogv", "x.jpg", "x.xyz", "x"])
def test_video_writer_refuses_unsupported_suffixes(name, short_clip, tmp_path, capsys):
    (tmp_path / name).write_text("old")
    assert main(["video", str(short_clip), "-o", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert "not a supported video suffix: use .mp4, " in error
    assert error.count("\n") == 1
    assert (tmp_path / name).read_text() == "old"


def test_video_writer_keeps_the_previous_version_until_it_is_closed(moving_images, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_text("old")
    with VideoWriter(path, 25) as writer:
        for number in range(100):
            writer.write(moving_images[number % 50], number / 25)
        assert path.read_text() == "old"  # and it stays so if the process is killed
        assert (tmp_path / "x.mp4.partial").is_file()
    assert sum(1 for _ in VideoReader(path)) == 100
    assert list(tmp_path.iterdir()) == [path]
    with VideoWriter(path, 25):
        pass  # no frame, such as without a camera
    assert sum(1 for _ in VideoReader(path)) == 100
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VideoError, match="it is a folder"):
        VideoWriter(tmp_path / "folder.mp4", 25)


def write_on_a_full_disk(path):
    rng = np.random.default_rng(0)
    with max_file_size(300_000), VideoWriter(path, 25) as writer:
        for number in range(200):
            writer.write(rng.integers(0, 256, (96, 128, 3), np.uint8), number / 25)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
def test_video_writer_on_a_full_disk_keeps_the_previous_version_or_a_playable_part(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_text("old")
    with pytest.raises(VideoError, match="cannot be written: File too large"):
        write_on_a_full_disk(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    with pytest.raises(VideoError, match="cannot be written: File too large"):
        write_on_a_full_disk(path)
    assert list(tmp_path.iterdir()) == ([] if suffix == ".mp4" else [path])
    if suffix != ".mp4":  # an incomplete MP4 file cannot be played
        assert sum(1 for _ in VideoReader(path)) > 5


@pytest.fixture
def ctrl_c():
    """Restores the default handler of Ctrl-C, which a shell disables for processes in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_video_writer_defers_ctrl_c_while_it_is_closed(moving_images, tmp_path, monkeypatch):
    """As when Ctrl-C is pressed twice: the first one closes the file, which takes some time."""
    finish = VideoWriter._finish

    def finish_interrupted(writer):
        signal.raise_signal(signal.SIGINT)
        finish(writer)

    monkeypatch.setattr(VideoWriter, "_finish", finish_interrupted)
    writer = VideoWriter(tmp_path / "x.mp4", 25)
    for number in range(5):
        writer.write(moving_images[number], number / 25)
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sum(1 for _ in VideoReader(tmp_path / "x.mp4")) == 5
    writer.close()  # does nothing


def test_video_writer_leaves_no_file_of_an_interrupted_first_frame(moving_images, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", interrupt)
    writer = VideoWriter(tmp_path / "out.mp4", 25)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.write(moving_images[0], 0)
    assert not [*tmp_path.iterdir()]


def test_video_writer_drops_gif_frames_with_equal_timestamps(moving_images, tmp_path):
    with VideoWriter(tmp_path / "x.gif", 240) as writer:
        for number, image in enumerate(moving_images):
            writer.write(image, number / 240)
    times = [frame.time for frame in VideoReader(tmp_path / "x.gif")]
    np.testing.assert_allclose(times, np.arange(len(times)) / 100, atol=1e-3)
    assert len(times) == 21


@pytest.mark.parametrize(("height", "number"), [(96, 6), (720, 1)])
def test_video_writer_stores_and_declares_the_color_space_of_the_size(height, number, tmp_path):
    """BT.709 for large frames, BT.601 for others; both are read as they were written."""
    red = np.zeros((height, 128, 3), np.uint8)
    red[..., 0] = 220
    with VideoWriter(tmp_path / "x.mp4", 25) as writer:
        writer.write(red, 0.0)
    with av.open(str(tmp_path / "x.mp4")) as video:
        assert video.streams.video[0].codec_context.colorspace == number
        luma = next(video.decode(video=0)).to_ndarray(format="yuv420p")[:height].mean()
    red_weight = {6: 0.299, 1: 0.2126}[number]
    assert luma == pytest.approx(16 + 219 * red_weight * 220 / 255, abs=2)
    (frame,) = VideoReader(tmp_path / "x.mp4")
    assert np.abs(frame.image.astype(int) - [220, 0, 0]).mean() < 3


def test_video_writer_accepts_very_low_frame_rates(moving_images, tmp_path):
    with VideoWriter(tmp_path / "x.mp4", 1 / 3600) as writer:
        for number in range(3):
            writer.write(moving_images[number], number * 3600)
    assert [frame.time for frame in VideoReader(tmp_path / "x.mp4")] == [0, 3600, 7200]


# -- audio ---------------------------------------------------------------------------------------------


def test_video_writer_copies_audio(short_clip, tmp_path, capsys):
    source = tmp_path / "audio.mkv"
    remux(short_clip, source, audio=1)
    assert main(["video", str(source), "-o", str(tmp_path / "out.mkv")]) == 0
    before, after = (_audio_packets(path) for path in (source, tmp_path / "out.mkv"))
    assert len(after) >= 50  # one second in packets of 20 ms
    skipped = len(before) - len([p for p in before if p[1] >= 0])
    assert after == before[skipped : skipped + len(after)]


def test_video_writer_keeps_audio_in_sync_with_a_late_start(short_clip, tmp_path, capsys):
    """As in a broadcast, the clock of the file does not start at 0."""
    plain, late = tmp_path / "plain.mkv", tmp_path / "late.mkv"
    remux(short_clip, plain, audio=1)
    remux(short_clip, late, audio=1, start=10.0)
    assert VideoReader(late).start == pytest.approx(10, abs=0.01)
    assert main(["video", str(late), "-o", str(tmp_path / "out.mkv")]) == 0
    assert next(iter(VideoReader(tmp_path / "out.mkv"))).time == 0
    out, expected = _audio_packets(tmp_path / "out.mkv"), _audio_packets(plain)
    assert len(out) >= 45
    assert set(out) <= set(expected)


def test_video_writer_copies_audio_beyond_the_last_frame(short_clip, tmp_path, capsys):
    """If all frames were processed; if processing stops earlier, the audio stops there too."""
    remux(short_clip, tmp_path / "long.mkv", audio=3)
    assert main(["video", str(tmp_path / "long.mkv"), "-o", str(tmp_path / "out.mkv")]) == 0
    assert len(_audio_packets(tmp_path / "out.mkv")) >= 149
    reader = VideoReader(tmp_path / "long.mkv")
    with VideoWriter(tmp_path / "start.mkv", 25, reader) as writer:
        for frame in islice(reader, 10):
            writer.write(frame.image, frame.time)
    assert 18 < len(_audio_packets(tmp_path / "start.mkv")) < 24


@pytest.mark.parametrize(("name", "tracks", "message"), [
    ("out.mov", 1, "out.mov: written without audio: "),
    ("out.mkv", 2, "out.mkv: only the first of 2 audio tracks was copied"),
])  # fmt: skip
def test_video_writer_reports_audio_that_is_not_copied(name, tracks, message, short_clip, tmp_path, capsys):
    """QuickTime does not support Opus; the frames are written all the same."""
    remux(short_clip, tmp_path / "in.mkv", audio=1, tracks=tracks)
    assert main(["video", str(tmp_path / "in.mkv"), "-o", str(tmp_path / name)]) == 0
    assert message in capsys.readouterr().err
    assert sum(1 for _ in VideoReader(tmp_path / name)) == 25
    with av.open(str(tmp_path / name)) as video:
        assert len(video.streams.audio) == tracks - 1


def _audio_packets(path):
    """Return the content of each audio packet and its time relative to the first frame."""
    start = VideoReader(path).start
    with av.open(str(path)) as video:
        stream = video.streams.audio[0]
        return [
            (bytes(p), round(float(p.pts * p.time_base) - start, 2)) for p in video.demux(stream) if p.size
        ]
