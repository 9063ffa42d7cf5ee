"""Video: every readable frame with its time, and faces that keep their identity."""

import json
import os
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import islice

import av
import cv2
import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.cli.video import _ended_by_signals
from pipnet.errors import MissingExtraError, PipnetError, VideoError
from pipnet.images import read_image
from pipnet.video.reader import VideoReader
from pipnet.video.tracker import FaceTracker
from pipnet.video.writer import _FORMATS, VideoWriter


@pytest.fixture(scope="session")
def clip(shared):
    """A real one: a talking head, 765 frames."""
    return shared / "data" / "video" / "cap13_edit2.mp4"


@pytest.fixture(scope="session")
def short(clip, tmp_path_factory):
    """Its first second."""
    path = tmp_path_factory.mktemp("video") / "short.mp4"
    with VideoWriter(path, 25) as writer:
        for frame in islice(VideoReader(clip), 25):
            writer.write(frame.image, frame.time)
    return path


def remux(source, target, sound=False, begin=0.0):
    """The same pictures in another container, with a tone where asked, on a clock that begins when told."""
    with av.open(str(target), "w") as out, av.open(str(source)) as video:
        own = video.streams.video[0]
        pictures = out.add_stream_from_template(own)
        tone = out.add_stream("libopus", rate=48000, layout="mono") if sound else None
        for packet in video.demux(own):
            if packet.dts is not None:
                packet.stream = pictures
                shift = round(begin / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                out.mux(packet)
        if tone is not None:
            wave = (3000 * np.sin(np.arange(48000) / 20)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
            frame.pts = round(begin * 48000)
            out.mux(tone.encode(frame))
            out.mux(tone.encode(None))


# -- reading -------------------------------------------------------------------------------------------


def encode(path, frames, codec="libx264"):
    """A video of so many of a photo's parts with B-frames, as other programs write it, 25 a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.max_b_frames = 2
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def moving(portrait):
    """50 small pictures that differ a little from one to the next."""
    image = cv2.resize(read_image(portrait), (256, 256))
    return [np.ascontiguousarray(image[i : i + 96, i : i + 128]) for i in range(50)]


@pytest.mark.parametrize("name", ["x.avi", "x.wmv", "x.mpg", "x.mkv", "x.mp4"])
def test_frames_that_were_reordered_have_their_times(name, moving, tmp_path):
    """AVI and WMV do not say when a frame is shown, MPEG only of some."""
    encode(tmp_path / name, moving)
    reader = VideoReader(tmp_path / name)
    frames = list(reader)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(50) / 25, atol=1e-3)
    away = np.array([frame.image for frame in frames]) - np.array(moving, int)
    assert np.abs(away).mean(axis=(1, 2, 3)).max() < 12
    assert reader.damage is None


def test_small_steps_back_do_not_stretch_a_video(moving, tmp_path):
    """MXF says when each frame is shown as if none had been reordered."""
    encode(tmp_path / "x.mxf", moving)
    times = [frame.time for frame in VideoReader(tmp_path / "x.mxf")]
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times, np.arange(50) / 25, atol=0.1)


def test_every_frame_with_its_time(clip):
    reader = VideoReader(clip)
    assert (reader.fps, reader.frames) == (25, 765)
    numbers, times = zip(*((frame.number, frame.time) for frame in reader), strict=True)
    assert numbers == tuple(range(765))
    np.testing.assert_allclose(times, np.arange(765) / 25, atol=1e-6)
    assert reader.damage is None


def test_colours_are_rgb_and_odd_sizes_and_times_are_kept(tmp_path):
    """Red stays red; a variable frame rate comes back as it was written; an odd side grows by one."""
    red = np.zeros((51, 63, 3), np.uint8)
    red[..., 0] = 220
    times = [0.0, 0.04, 0.2, 0.21, 1.0]
    with VideoWriter(tmp_path / "red.mp4", 25) as writer:
        for moment in times:
            writer.write(red, moment)
    frames = list(VideoReader(tmp_path / "red.mp4"))
    assert frames[0].image.shape == (52, 64, 3)
    assert np.abs(frames[0].image[:51, :63].astype(int) - [220, 0, 0]).mean() < 8
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1e-4)


def test_rotated_videos_are_upright(portrait, tmp_path):
    """As phones write them: the pixels lie, a matrix says how the player must turn them."""
    image = cv2.resize(read_image(portrait), (128, 128))
    image[:30] = 255
    lying = np.rot90(image, -1)
    plain = tmp_path / "plain.mp4"
    with VideoWriter(plain, 25) as writer:
        for number in range(5):
            writer.write(np.ascontiguousarray(lying), number / 25)
    content = plain.read_bytes()
    at = content.index(b"tkhd") + 4 + 40  # the unit matrix of the track header, in 16.16 and 2.30 numbers
    unit = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000]
    assert content[at : at + 36] == b"".join(n.to_bytes(4, "big") for n in unit)
    turned = [0, 0x10000, 0, -0x10000, 0, 0, 128 << 16, 0, 0x40000000]
    matrix = b"".join(n.to_bytes(4, "big", signed=True) for n in turned)
    (tmp_path / "turned.mp4").write_bytes(content[:at] + matrix + content[at + 36 :])
    seen = next(iter(VideoReader(tmp_path / "turned.mp4"))).image
    by_hand = [np.abs(np.rot90(lying, k).astype(int) - seen).mean() for k in range(4)]
    assert int(np.argmin(by_hand)) == 3  # a quarter turn clockwise, as the matrix says


def test_damaged_videos_give_what_they_have(clip, tmp_path):
    content = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[:300_000])
    cut = VideoReader(tmp_path / "cut.mp4")
    count = sum(1 for _ in cut)
    assert 100 < count < 700
    assert cut.damage is not None
    assert cut.damage.startswith(f"it ends after {count} frames, ")
    noise = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
    (tmp_path / "noise.mp4").write_bytes(content[:300_000] + noise + content[320_000:])
    noisy = VideoReader(tmp_path / "noise.mp4")
    assert sum(1 for _ in noisy) > 600
    assert noisy.damage


def test_a_clock_that_begins_anew_goes_on(moving, tmp_path):
    """Two broadcasts in one file, short ones and longer ones with a gap."""
    for count, gap in ((25, 0), (50, 1)):
        with VideoWriter(tmp_path / "one.ts", 25) as writer:
            for number, image in enumerate(moving[:count]):
                writer.write(image, number / 25 + gap * (number >= 40))
        (tmp_path / "two.ts").write_bytes(2 * (tmp_path / "one.ts").read_bytes())
        steps = np.diff([frame.time for frame in VideoReader(tmp_path / "two.ts")])
        assert len(steps) > 2 * count - 10
        assert (steps > 0).all()
        assert (steps > 0.5).sum() == 2 * gap
        assert steps.sum() < 2 * (count / 25 + gap) + 0.2


def test_what_a_cut_hides_is_no_damage(short, tmp_path):
    """An edit list, as phones write when a clip is trimmed: pictures before the cut are there, and hidden."""
    content = short.read_bytes()
    at = content.index(b"elst") + 12  # version and flags, one entry: duration, then the first time shown
    duration, first = (int.from_bytes(content[at + k : at + k + 4], "big") for k in (0, 4))
    with av.open(str(short)) as video:
        later = first + round(0.4 / video.streams.video[0].time_base)
    (tmp_path / "cut.mp4").write_bytes(content[: at + 4] + later.to_bytes(4, "big") + content[at + 8 :])
    assert duration
    reader = VideoReader(tmp_path / "cut.mp4")
    count = sum(1 for _ in reader)
    assert 5 < count < 25
    assert reader.damage is None


def test_what_is_no_video(tmp_path, portrait):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, words in (
        ("none.mp4", "no such file"),
        ("empty.mp4", "empty file"),
        ("text.mp4", "not a video"),
        ("sound.wav", "only sound"),
        ("", "a folder, not a video"),
    ):
        with pytest.raises(VideoError, match=words):
            VideoReader(tmp_path / name)
    with pytest.raises(VideoError, match="more than 1,000 pixels"):
        VideoReader(portrait, max_pixels=1000)


def test_without_pyav_the_extra_is_named(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"\[video\]'"):
        VideoReader(clip)


# -- writing -------------------------------------------------------------------------------------------


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


# -- tracking ------------------------------------------------------------------------------------------


def test_one_face_keeps_its_number_and_the_detector_rests(landmarker, clip):
    tracker = FaceTracker(landmarker, detect_every=20, smoothing=None)
    seen = [tracker(frame.image, frame.time) for frame in islice(VideoReader(clip), 40)]
    assert [found.ids for found in seen] == [[1]] * 40
    assert [i for i, found in enumerate(seen) if found.detected] == [0, 20]
    for number in (0, 10, 30):
        each = landmarker(seen[number].faces.image).points[0]
        away = np.linalg.norm(seen[number].faces.points[0] - each, axis=1).mean()
        assert away < 0.03 * np.ptp(each[:, 0])


def test_faces_come_and_go(landmarker, portrait):
    """Two faces side by side, then one, then none, then one again with a new number."""
    image = cv2.resize(read_image(portrait), (256, 256))
    grey = np.full_like(image, 128)
    frames = [(image, image)] * 3 + [(image, grey)] * 3 + [(grey, grey)] * 2 + [(grey, image)] * 3
    tracker = FaceTracker(landmarker, detect_every=100)
    ids = [tracker(np.hstack(pair), number / 25).ids for number, pair in enumerate(frames)]
    assert len(ids[0]) == 2
    assert ids[:3] == [ids[0]] * 3
    assert ids[3] == ids[5]
    assert len(ids[5]) == 1
    assert set(ids[5]) < set(ids[0])
    assert ids[7] == []
    assert ids[-1] == [3]


def test_no_face_at_all(landmarker):
    tracker = FaceTracker(landmarker)
    found = tracker(np.full((120, 160, 3), 128, np.uint8), 0.0)
    assert found.faces.points.shape == (0, 68, 2)
    assert found.ids == []
    with pytest.raises(PipnetError, match="detect_every must be at least 1"):
        FaceTracker(landmarker, detect_every=0)


def test_faces_upside_down_are_found_and_followed(landmarker, clip, tmp_path):
    """Frames turned by half a turn, with a detector that finds upright faces only, as most do."""

    def upright_only(image):
        return [face.box for face in landmarker(image) if face.scores.mean() > 0.5]

    path = tmp_path / "turned.mp4"
    with VideoWriter(path, 25) as writer:
        for frame in islice(VideoReader(clip), 6):
            writer.write(np.ascontiguousarray(frame.image[::-1, ::-1]), frame.time)
    assert not any(one.ids for one in FaceLandmarker(landmarker.model, upright_only).stream(path))
    any_roll = FaceLandmarker(landmarker.model, upright_only, any_roll=True)
    found = list(any_roll.stream(path, smooth=False))
    assert [one.ids for one in found] == [[1]] * 6
    assert [one.detected for one in found] == [True] + [False] * 5
    for frame, faces, _, _ in found[::5]:
        height, width = frame.image.shape[:2]
        upright = landmarker(np.ascontiguousarray(frame.image[::-1, ::-1])).points[0]
        away = np.linalg.norm([width - 1, height - 1] - upright - faces.points[0], axis=1).mean()
        assert away < 0.03 * np.ptp(upright[:, 0])


# -- the command ---------------------------------------------------------------------------------------


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


def test_sound_is_kept(short, tmp_path, capsys):
    with_sound = tmp_path / "sound.mkv"
    remux(short, with_sound, sound=True)
    assert main(["video", str(with_sound), "-o", str(tmp_path / "out.mkv")]) == 0
    before, after = (_sound_of(path) for path in (with_sound, tmp_path / "out.mkv"))
    assert len(after) > 5
    skipped = len(before) - len([p for p in before if p[1] >= 0])
    assert after == before[skipped : skipped + len(after)]


def test_sound_stays_with_pictures_that_begin_late(short, tmp_path, capsys):
    """As in a broadcast: the file's clock does not begin at 0."""
    plain, late = tmp_path / "plain.mkv", tmp_path / "late.mkv"
    remux(short, plain, sound=True)
    remux(short, late, sound=True, begin=10.0)
    assert VideoReader(late).start == pytest.approx(10, abs=0.01)
    assert main(["video", str(late), "-o", str(tmp_path / "out.mkv")]) == 0
    assert next(iter(VideoReader(tmp_path / "out.mkv"))).time == 0
    out, expected = _sound_of(tmp_path / "out.mkv"), _sound_of(plain)
    assert len(out) > 5
    assert set(out) <= set(expected)


def _sound_of(path):
    """Each packet of sound, and when it is heard after the first picture is seen."""
    start = VideoReader(path).start
    with av.open(str(path)) as video:
        stream = video.streams.audio[0]
        return [
            (bytes(p), round(float(p.pts * p.time_base) - start, 2)) for p in video.demux(stream) if p.size
        ]


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


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    """Anamorphic video: twice as wide as it is stored."""
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25, options={"bsf:v": "h264_metadata"})
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((96, 96, 3), np.uint8))))
        container.mux(stream.encode())
    assert {frame.image.shape for frame in VideoReader(path)} == {(96, 192, 3)}
