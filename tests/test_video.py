"""Reading video: every readable frame with its time, upright, and what is missing."""

import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from clips import encode, remux
from pipnet.errors import MissingExtraError, VideoError
from pipnet.io.image import read_image
from pipnet.video.reader import VideoReader
from pipnet.video.writer import VideoWriter


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


def test_colors_are_rgb_and_odd_sizes_and_times_are_kept(tmp_path):
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


@pytest.mark.parametrize("every", [250, 5])
def test_what_a_cut_hides_is_no_damage(every, moving, tmp_path):
    """An edit list, as phones write when a clip is trimmed: pictures before the cut are there, and hidden.

    Where there are key frames enough, those before the last of them are not even read.
    """
    short = tmp_path / "short.mp4"
    encode(short, moving[:25], every=every)
    content = short.read_bytes()
    at = content.index(b"elst") + 12  # version and flags, one entry: duration, then the first time shown
    duration, first = (int.from_bytes(content[at + k : at + k + 4], "big") for k in (0, 4))
    with av.open(str(short)) as video:
        later = first + round(0.4 / video.streams.video[0].time_base)
    cut = (duration * 3 // 5).to_bytes(4, "big") + later.to_bytes(4, "big")
    (tmp_path / "cut.mp4").write_bytes(content[:at] + cut + content[at + 8 :])
    reader = VideoReader(tmp_path / "cut.mp4")
    count = sum(1 for _ in reader)
    assert count == 15
    assert reader.damage is None


def test_a_clock_that_begins_late_is_no_damage(short, tmp_path):
    """As in parts that a recorder cuts a recording into."""
    remux(short, tmp_path / "part.mkv", begin=300.0)
    reader = VideoReader(tmp_path / "part.mkv")
    assert sum(1 for _ in reader) == 25
    assert (reader.damage, reader.complete) == (None, True)


@pytest.mark.parametrize("from_end", [1, 2, 3, 8])
def test_one_damaged_packet_costs_one_frame(from_end, moving, tmp_path):
    """Also at the end, where decoders with several frames at work lose more, or say nothing."""
    encode(tmp_path / "x.mkv", moving, "mpeg4", damaged=from_end)
    reader = VideoReader(tmp_path / "x.mkv")
    assert sum(1 for _ in reader) == len(moving) - 1
    assert reader.damage is not None
    assert not reader.complete


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
