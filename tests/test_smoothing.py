"""Steady landmarks: what stands still is held still, what moves does not lag behind."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipnet.errors import PipnetError
from pipnet.video.causal_smoother import AlphaBetaConfig, CausalSmoother, FaceSmoother, OneEuroConfig
from pipnet.video.landmarker import FrameFaces, steady
from pipnet.video.reader import Frame
from pipnet.video.savgol_smoother import SavgolSmoother

# -- of a camera: by the frames before ----------------------------------------------------------------


@pytest.fixture(scope="module")
def face(landmarker):
    """The model's mean face, 100 pixels wide."""
    mean = landmarker.model.metadata.mean_face
    return ((mean - mean.mean(axis=0)) / np.ptp(mean[:, 0]) * 100).astype(np.float32)


def smoothed(points, mean_face, fps=25, settings=None):
    smooth = FaceSmoother(settings or CausalSmoother(), mean_face)
    return np.array([smooth(frame, number / fps) for number, frame in enumerate(points)])


def flicker(points):
    return np.sqrt((np.diff(points, n=2, axis=0) ** 2).sum(axis=-1).mean())


def test_what_stands_still_is_held_still(face):
    noisy = (face + np.random.default_rng(0).normal(0, 0.5, (200, 68, 2))).astype(np.float32)
    steady = smoothed(noisy, face)
    assert flicker(steady[50:]) < flicker(noisy[50:]) / 3
    assert np.abs(steady[50:] - face).mean() < np.abs(noisy[50:] - face).mean() / 1.5


@pytest.mark.parametrize("frequency", [0.5, 1.0, 2.0])
def test_a_moving_head_is_followed_without_lag(face, frequency):
    """Back and forth by 20 % of the face, turned a little: less than one frame late."""
    seconds = np.arange(150) / 25
    phase = np.sin(2 * np.pi * frequency * seconds)
    turns = [cv2.getRotationMatrix2D((0, 0), 10 * p, 1) for p in phase]
    moved = np.array([face @ t[:, :2].T + [20 * p, 0] for t, p in zip(turns, phase, strict=True)], np.float32)
    out = smoothed(moved, face)
    centers, behind = moved[50:].mean(axis=1)[:, 0], out[50:].mean(axis=1)[:, 0]
    lags = [
        np.abs(np.interp(seconds[50:] - lag / 25, seconds[50:], centers) - behind)[10:].mean()
        for lag in np.arange(0, 3, 0.1)
    ]
    assert 0.1 * int(np.argmin(lags)) <= 1


def test_a_camera_that_shows_frames_twice_is_smoothed(face):
    """A head that glides on, seen in jumps: the pose glides too, and never strays far from what is seen."""
    seconds = np.arange(200)
    place = 3.0 * (seconds - seconds % 2)
    jumps = (face + np.stack([place, 0 * place], axis=1)[:, None]).astype(np.float32)
    out = smoothed(jumps, face)
    assert flicker(out[50:]) < flicker(jumps[50:]) / 2
    strayed = np.linalg.norm(out.mean(axis=1) - jumps.mean(axis=1), axis=1)
    assert strayed.max() <= CausalSmoother().pose.farthest * 100 + 1e-3


@pytest.mark.parametrize("fps", [5, 25, 60])
@pytest.mark.parametrize("size", [0.2, 1, 5, 20])
def test_no_noise_makes_it_swing(face, fps, size):
    """Whatever moves the head, the filter does not add to it."""
    rng = np.random.default_rng(0)
    path = face + np.cumsum(rng.normal(0, size, (300, 1, 2)), axis=0) + rng.normal(0, size, (300, 1, 2))
    out = smoothed(path.astype(np.float32), face, fps)
    assert flicker(out) <= flicker(path)


def test_smoothing_does_not_depend_on_the_size_of_the_picture(face):
    path = face + np.cumsum(np.random.default_rng(1).normal(0, 1, (50, 1, 2)), axis=0)
    small = smoothed(path.astype(np.float32), face)
    large = smoothed((4 * path + 300).astype(np.float32), face)
    np.testing.assert_allclose(4 * small + 300, large, atol=0.05)


def test_odd_times_and_settings(face):
    smooth = FaceSmoother(CausalSmoother(), face)
    first = smooth(face, 1.0)
    np.testing.assert_allclose(first, face, atol=1e-3)
    np.testing.assert_array_equal(smooth(face + 5, 1.0), first)  # a time that does not go on
    with pytest.raises(PipnetError, match="above 0"):
        OneEuroConfig(cutoff=0, beta=1)
    with pytest.raises(PipnetError, match="shares"):
        AlphaBetaConfig(rest=0)


# -- of a file: by the frames before and after --------------------------------------------------------


def as_a_file(points, landmarker, times=None, ids=(1,)):
    """A face's path as `follow` smooths it in a file."""
    blank = np.zeros((64, 64, 3), np.uint8)
    one = landmarker(blank, boxes=[[0, 0, 64, 64]])
    times = np.arange(len(points)) / 25 if times is None else times
    found = [
        FrameFaces(
            Frame(blank, float(time), number),
            replace(one, points=path[None]),
            [ids[number % len(ids)]],
            False,
        )
        for number, (time, path) in enumerate(zip(times, points, strict=True))
    ]
    frames = list(steady(iter(found), SavgolSmoother()))
    assert [f.frame.number for f in frames] == list(range(len(points)))
    return np.array([frame.faces.points[0] for frame in frames])


def test_noise_averages_out_in_a_file(face, landmarker):
    noisy = (face + np.random.default_rng(0).normal(0, 0.5, (100, 68, 2))).astype(np.float32)
    out = as_a_file(noisy, landmarker)
    assert flicker(out) < flicker(noisy) / 5
    assert np.abs(out - face).mean() < np.abs(noisy - face).mean() / 1.5


@pytest.mark.parametrize("frequency", [0.5, 1.0, 2.0])
def test_a_moving_head_stays_where_it_is_in_a_file(face, landmarker, frequency):
    """Back and forth by 20 % of the face, also in the first and last frames: no lag, hardly any change."""
    phase = np.sin(2 * np.pi * frequency * np.arange(75) / 25)
    moved = (face + 20 * np.stack([phase, 0 * phase], axis=1)[:, None]).astype(np.float32)
    strayed = np.abs(as_a_file(moved, landmarker) - moved).max(axis=(1, 2))
    assert strayed[6:-6].max() < 0.6
    assert strayed.max() < 3


def test_a_leap_in_a_file_stays_a_leap(face, landmarker):
    """As at a cut to another face that is about there: no frame is drawn over to the other side."""
    leap = (face + np.where(np.arange(50) < 25, 0, 30).astype(np.float32)[:, None, None]).astype(np.float32)
    strayed = np.linalg.norm(as_a_file(leap, landmarker) - leap, axis=2).mean(axis=1)
    assert strayed.max() <= SavgolSmoother().farthest * np.ptp(face, axis=0).max() + 1e-3
    assert strayed[[0, 10, 40, -1]].max() < 1e-3


def test_frames_are_placed_by_their_times(face, landmarker):
    """Frames that come unevenly are on a straight path all the same; two faces are told apart."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.1, 60))
    path = (face + 30 * np.stack([times, -times], axis=1)[:, None]).astype(np.float32)
    np.testing.assert_allclose(as_a_file(path, landmarker, times), path, atol=1e-3)
    apart = path + np.where(np.arange(60) % 2, 500, 0).astype(np.float32)[:, None, None]
    np.testing.assert_allclose(as_a_file(apart, landmarker, times, ids=(1, 2)), apart, atol=1e-3)


def test_few_frames_and_odd_settings(face, landmarker):
    np.testing.assert_allclose(as_a_file(face[None], landmarker)[0], face, atol=1e-4)
    for times in ([0.0], [0.0, 0.0], [0.0, 0.5], [-0.04, 0.0, 0.04]):
        assert SavgolSmoother().weights(np.array(times)).sum() == pytest.approx(1)
    with pytest.raises(PipnetError, match="above 0"):
        SavgolSmoother(width=0)
