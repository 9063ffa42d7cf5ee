"""Video reading: all readable frames with their times, upright, and reports of what is missing."""

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
def test_video_reader_gives_reordered_frames_their_times(name, moving_images, tmp_path):
    """AVI and WMV do not store presentation times, MPEG only those of some frames."""
    encode(tmp_path / name, moving_images)
    reader = VideoReader(tmp_path / name)
    frames = list(reader)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(50) / 25, atol=1e-3)
    difference = np.array([frame.image for frame in frames]) - np.array(moving_images, int)
    assert np.abs(difference).mean(axis=(1, 2, 3)).max() < 12
    assert reader.damage is None


def test_video_reader_ignores_small_steps_back(moving_images, tmp_path):
    """The timestamps of MXF ignore that frames are reordered."""
    encode(tmp_path / "x.mxf", moving_images)
    times = [frame.time for frame in VideoReader(tmp_path / "x.mxf")]
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times, np.arange(50) / 25, atol=0.1)


def test_video_reader_returns_every_frame_with_its_time(clip):
    reader = VideoReader(clip)
    assert (reader.fps, reader.frames) == (25, 765)
    numbers, times = zip(*((frame.number, frame.time) for frame in reader), strict=True)
    assert numbers == tuple(range(765))
    np.testing.assert_allclose(times, np.arange(765) / 25, atol=1e-6)
    assert reader.damage is None


def test_video_reader_keeps_colors_sizes_and_times(tmp_path):
    """Red stays red, a variable frame rate is kept, and an odd side is padded by one pixel."""
    red = np.zeros((51, 63, 3), np.uint8)
    red[..., 0] = 220
    times = [0.0, 0.04, 0.2, 0.21, 1.0]
    with VideoWriter(tmp_path / "red.mp4", 25) as writer:
        for time in times:
            writer.write(red, time)
    frames = list(VideoReader(tmp_path / "red.mp4"))
    assert frames[0].image.shape == (52, 64, 3)
    assert np.abs(frames[0].image[:51, :63].astype(int) - [220, 0, 0]).mean() < 8
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1e-4)


def test_video_reader_rotates_frames_as_declared(portrait, tmp_path):
    """Phones store rotated frames, and a matrix that tells the player how to rotate them."""
    image = cv2.resize(read_image(portrait), (128, 128))
    image[:30] = 255
    rotated = np.rot90(image, -1)
    plain = tmp_path / "plain.mp4"
    with VideoWriter(plain, 25) as writer:
        for number in range(5):
            writer.write(np.ascontiguousarray(rotated), number / 25)
    content = plain.read_bytes()
    at = content.index(b"tkhd") + 4 + 40  # the unit matrix of the track header, in 16.16 and 2.30 numbers
    unit = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000]
    assert content[at : at + 36] == b"".join(n.to_bytes(4, "big") for n in unit)
    quarter_turn = [0, 0x10000, 0, -0x10000, 0, 0, 128 << 16, 0, 0x40000000]
    matrix = b"".join(n.to_bytes(4, "big", signed=True) for n in quarter_turn)
    (tmp_path / "rotated.mp4").write_bytes(content[:at] + matrix + content[at + 36 :])
    frame = next(iter(VideoReader(tmp_path / "rotated.mp4"))).image
    differences = [np.abs(np.rot90(rotated, k).astype(int) - frame).mean() for k in range(4)]
    assert int(np.argmin(differences)) == 3  # a quarter turn clockwise, as in the matrix


def test_video_reader_reads_corrupt_videos_as_far_as_possible(clip, tmp_path):
    content = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[:300_000])
    cut = VideoReader(tmp_path / "cut.mp4")
    count = sum(1 for _ in cut)
    assert 100 < count < 700
    assert cut.damage is not None
    assert cut.damage.startswith(f"the file ends after {count} frames, ")
    noise = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
    (tmp_path / "noise.mp4").write_bytes(content[:300_000] + noise + content[320_000:])
    noisy = VideoReader(tmp_path / "noise.mp4")
    assert sum(1 for _ in noisy) > 600
    assert noisy.damage


def test_video_reader_continues_after_a_clock_reset(moving_images, tmp_path):
    """Two concatenated files, short ones, and longer ones with a gap."""
    for count, gap in ((25, 0), (50, 1)):
        with VideoWriter(tmp_path / "one.ts", 25) as writer:
            for number, image in enumerate(moving_images[:count]):
                writer.write(image, number / 25 + gap * (number >= 40))
        (tmp_path / "two.ts").write_bytes(2 * (tmp_path / "one.ts").read_bytes())
        steps = np.diff([frame.time for frame in VideoReader(tmp_path / "two.ts")])
        assert len(steps) > 2 * count - 10
        assert (steps > 0).all()
        assert (steps > 0.5).sum() == 2 * gap
        assert steps.sum() < 2 * (count / 25 + gap) + 0.2


@pytest.mark.parametrize("keyframe_interval", [250, 5])
def test_video_reader_accepts_edit_lists(keyframe_interval, moving_images, tmp_path):
    """An edit list of a trimmed clip: frames before the cut are in the file, but hidden.

    If there are enough key frames, those before the last one are not even read.
    """
    short = tmp_path / "short.mp4"
    encode(short, moving_images[:25], keyframe_interval=keyframe_interval)
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


def test_video_reader_accepts_a_late_start_of_the_clock(short_clip, tmp_path):
    """As in a part of a recording that was split into several files."""
    remux(short_clip, tmp_path / "part.mkv", start=300.0)
    reader = VideoReader(tmp_path / "part.mkv")
    assert sum(1 for _ in reader) == 25
    assert (reader.damage, reader.complete) == (None, True)


@pytest.mark.parametrize("from_end", [1, 2, 3, 8])
def test_video_reader_loses_one_frame_for_one_corrupt_packet(from_end, moving_images, tmp_path):
    """Also at the end, where decoders with frame threads lose more frames, or report no error."""
    encode(tmp_path / "x.mkv", moving_images, "mpeg4", corrupt=from_end)
    reader = VideoReader(tmp_path / "x.mkv")
    assert sum(1 for _ in reader) == len(moving_images) - 1
    assert reader.damage is not None
    assert not reader.complete


def test_video_reader_refuses_other_files(tmp_path, portrait):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "audio.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, message in (
        ("none.mp4", "no such file"),
        ("empty.mp4", "empty file"),
        ("text.mp4", "not a readable video"),
        ("audio.wav", "only audio"),
        ("", "a folder, not a video"),
    ):
        with pytest.raises(VideoError, match=message):
            VideoReader(tmp_path / name)
    with pytest.raises(VideoError, match="more than 1,000 pixels"):
        VideoReader(portrait, max_pixels=1000)


def test_video_reader_names_the_extra_without_pyav(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"\[video\]'"):
        VideoReader(clip)


def test_video_reader_makes_pixels_square(tmp_path):
    """Anamorphic video, shown twice as wide as it is stored."""
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25, options={"bsf:v": "h264_metadata"})
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((96, 96, 3), np.uint8))))
        container.mux(stream.encode())
    assert {frame.image.shape for frame in VideoReader(path)} == {(96, 192, 3)}
