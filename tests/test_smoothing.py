"""Smoothing of landmarks: less noise at rest, no lag in motion."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipnet.errors import PipnetError
from pipnet.video.causal_smoother import AlphaBetaConfig, CausalSmoother, OneEuroConfig
from pipnet.video.reader import Frame
from pipnet.video.savgol_smoother import SavgolSmoother
from pipnet.video.video_landmarker import FrameFaces, smooth_frames

# -- causal smoothing ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def face(landmarker):
    """The model's mean face, 100 pixels wide."""
    mean = landmarker.model.metadata.mean_face
    return ((mean - mean.mean(axis=0)) / np.ptp(mean[:, 0]) * 100).astype(np.float32)


def smooth_causally(points, mean_face, fps=25):
    smooth = CausalSmoother(mean_face)
    return np.array([smooth(frame, number / fps) for number, frame in enumerate(points)])


def flicker(points):
    return np.sqrt((np.diff(points, n=2, axis=0) ** 2).sum(axis=-1).mean())


def test_causal_smoother_reduces_noise_at_rest(face):
    noisy = (face + np.random.default_rng(0).normal(0, 0.5, (120, 68, 2))).astype(np.float32)
    out = smooth_causally(noisy, face)
    assert flicker(out[50:]) < flicker(noisy[50:]) / 3
    assert np.abs(out[50:] - face).mean() < np.abs(noisy[50:] - face).mean() / 1.5


@pytest.mark.parametrize("frequency", [0.5, 1.0, 2.0])
def test_causal_smoother_lags_less_than_one_frame(face, frequency):
    """A head that moves back and forth by 20 % of its size and rotates a little."""
    seconds = np.arange(150) / 25
    phase = np.sin(2 * np.pi * frequency * seconds)
    rotations = [cv2.getRotationMatrix2D((0, 0), 10 * p, 1) for p in phase]
    moved = np.array(
        [face @ r[:, :2].T + [20 * p, 0] for r, p in zip(rotations, phase, strict=True)], np.float32
    )
    out = smooth_causally(moved, face)
    centers, smoothed = moved[50:].mean(axis=1)[:, 0], out[50:].mean(axis=1)[:, 0]
    lags = [
        np.abs(np.interp(seconds[50:] - lag / 25, seconds[50:], centers) - smoothed)[10:].mean()
        for lag in np.arange(0, 3, 0.1)
    ]
    assert 0.1 * int(np.argmin(lags)) <= 1


def test_causal_smoother_smooths_repeated_frames(face):
    """A head at constant velocity, in a camera that repeats frames: the pose stays near the measured one."""
    seconds = np.arange(120)
    position = 3.0 * (seconds - seconds % 2)
    jumps = (face + np.stack([position, 0 * position], axis=1)[:, None]).astype(np.float32)
    out = smooth_causally(jumps, face)
    assert flicker(out[50:]) < flicker(jumps[50:]) / 2
    shift = np.linalg.norm(out.mean(axis=1) - jumps.mean(axis=1), axis=1)
    assert shift.max() <= AlphaBetaConfig().max_shift * 100 + 1e-3


@pytest.mark.parametrize("fps", [5, 60])
@pytest.mark.parametrize("size", [0.2, 1, 5, 20])
def test_causal_smoother_never_amplifies_noise(face, fps, size):
    rng = np.random.default_rng(0)
    path = face + np.cumsum(rng.normal(0, size, (300, 1, 2)), axis=0) + rng.normal(0, size, (300, 1, 2))
    out = smooth_causally(path.astype(np.float32), face, fps)
    assert flicker(out) <= flicker(path)


def test_causal_smoother_is_independent_of_face_size(face):
    path = face + np.cumsum(np.random.default_rng(1).normal(0, 1, (50, 1, 2)), axis=0)
    small = smooth_causally(path.astype(np.float32), face)
    large = smooth_causally((4 * path + 300).astype(np.float32), face)
    np.testing.assert_allclose(4 * small + 300, large, atol=0.05)


def test_causal_smoother_handles_repeated_times_and_refuses_wrong_settings(face):
    smooth = CausalSmoother(face)
    first = smooth(face, 1.0)
    np.testing.assert_allclose(first, face, atol=1e-3)
    np.testing.assert_array_equal(smooth(face + 5, 1.0), first)  # the same time again
    with pytest.raises(PipnetError, match="above 0"):
        OneEuroConfig(cutoff=0, beta=1)
    with pytest.raises(PipnetError, match="gains"):
        AlphaBetaConfig(min_gain=0)


# -- smoothing with later frames ------------------------------------------------------------------------


def smooth_file(points, landmarker, times=None, track_ids=(1,)):
    """Return a face's path, smoothed as in a file."""
    blank = np.zeros((64, 64, 3), np.uint8)
    faces = landmarker(blank, boxes=[[0, 0, 64, 64]])
    times = np.arange(len(points)) / 25 if times is None else times
    frames = [
        FrameFaces(
            Frame(blank, float(time), number),
            replace(faces, points=face[None]),
            [track_ids[number % len(track_ids)]],
            False,
        )
        for number, (time, face) in enumerate(zip(times, points, strict=True))
    ]
    frames = list(smooth_frames(iter(frames), SavgolSmoother()))
    assert [f.frame.number for f in frames] == list(range(len(points)))
    return np.array([frame.faces.points[0] for frame in frames])


def test_savgol_smoother_reduces_noise(face, landmarker):
    noisy = (face + np.random.default_rng(0).normal(0, 0.5, (100, 68, 2))).astype(np.float32)
    out = smooth_file(noisy, landmarker)
    assert flicker(out) < flicker(noisy) / 5
    assert np.abs(out - face).mean() < np.abs(noisy - face).mean() / 1.5


@pytest.mark.parametrize("frequency", [0.5, 1.0, 2.0])
def test_savgol_smoother_has_no_lag(face, landmarker, frequency):
    """A head that moves back and forth by 20 % of its size is hardly changed, also at both ends."""
    phase = np.sin(2 * np.pi * frequency * np.arange(75) / 25)
    moved = (face + 20 * np.stack([phase, 0 * phase], axis=1)[:, None]).astype(np.float32)
    shift = np.abs(smooth_file(moved, landmarker) - moved).max(axis=(1, 2))
    assert shift[6:-6].max() < 0.6
    assert shift.max() < 3


def test_savgol_smoother_limits_the_shift_at_a_jump(face, landmarker):
    """As at a cut to another face at nearly the same position."""
    jump = (face + np.where(np.arange(50) < 25, 0, 30).astype(np.float32)[:, None, None]).astype(np.float32)
    shift = np.linalg.norm(smooth_file(jump, landmarker) - jump, axis=2).mean(axis=1)
    assert shift.max() <= SavgolSmoother().max_shift * np.ptp(face, axis=0).max() + 1e-3
    assert shift[[0, 10, 40, -1]].max() < 1e-3


def test_savgol_smoother_uses_frame_times_and_track_ids(face, landmarker):
    """A straight path with uneven frame times is not changed; two faces are smoothed separately."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.1, 60))
    path = (face + 30 * np.stack([times, -times], axis=1)[:, None]).astype(np.float32)
    np.testing.assert_allclose(smooth_file(path, landmarker, times), path, atol=1e-3)
    apart = path + np.where(np.arange(60) % 2, 500, 0).astype(np.float32)[:, None, None]
    np.testing.assert_allclose(smooth_file(apart, landmarker, times, track_ids=(1, 2)), apart, atol=1e-3)


def test_savgol_smoother_handles_few_frames_and_refuses_wrong_settings(face, landmarker):
    np.testing.assert_allclose(smooth_file(face[None], landmarker)[0], face, atol=1e-4)
    for times in ([0.0], [0.0, 0.0], [0.0, 0.5], [-0.04, 0.0, 0.04]):
        assert SavgolSmoother().weights(np.array(times)).sum() == pytest.approx(1)
    with pytest.raises(PipnetError, match="above 0"):
        SavgolSmoother(width=0)
