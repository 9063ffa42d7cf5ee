"""Head pose, eye and mouth openness: against known rotations, and on real photos and a clip."""

import csv
import runpy
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from conftest import ROOT
from pipnet import DataError, PipnetError
from pipnet.annotations.pts import read_pts
from pipnet.geometry import tight_box
from pipnet.inference.pose import angles, fit_poses, head_pose, mean_face_3d, rotation
from pipnet.scheme import LandmarkScheme, SchemeMapping
from pipnet.video.reader import VideoReader
from pipnet.video.writer import VideoWriter

POSES = np.array(
    [[0.0, 0, 0], [30, 10, -20], [-60, -15, 5], [85, 5, 0], [-88, 20, 10], [5, -5, 170], [20, 40, 0]]
)


def project(degrees, focal=None, size=(640, 480), offset=(100.0, -40.0)):
    """Project the 3D mean face in these poses: 200 px per unit at the depth of its origin."""
    rotated = mean_face_3d().points @ rotation(degrees).transpose(0, 2, 1)
    depth = 1 if focal is None else 1 + rotated[..., 2:] * 200 / focal
    return (rotated[..., :2] * 200 + offset) / depth + (np.array(size) - 1) / 2


@pytest.fixture(scope="module")
def faces(landmarker, portrait):
    return landmarker(portrait)


@pytest.mark.parametrize("focal", [None, 640.0, 400.0])
def test_head_pose_recovers_projected_faces(focal):
    points = project(POSES, focal)
    poses = head_pose(points, LandmarkScheme.load("300w"), (640, 480), focal)
    np.testing.assert_allclose(poses, POSES, atol=0.01)


@pytest.mark.parametrize("name", ["aflw", "five"])
def test_head_pose_recovers_faces_of_other_schemes(name):
    degrees = POSES[[0, 1, 5]]  # five points do not determine a profile
    points = SchemeMapping.load("300w", name)(project(degrees))
    np.testing.assert_allclose(head_pose(points, LandmarkScheme.load(name), (640, 480)), degrees, atol=0.5)


def test_head_pose_ignores_unknown_landmarks():
    points = project(POSES[:4])
    points[:, 36:42] = np.nan
    center, face = np.array([639, 479]) / 2, mean_face_3d()
    weights = np.tile(1 / face.std**2, (4, 1))
    poses = angles(fit_poses(points - center, face.points, weights, np.inf).rotation)
    np.testing.assert_allclose(poses, POSES[:4], atol=0.01)


def test_head_pose_is_positive_to_the_right_up_and_clockwise(landmarker, portrait, faces):
    """Positive is as seen in the image: turned to its right, tilted clockwise."""
    image = PIL.Image.open(portrait).convert("RGB").crop((100, 20, 350, 270))
    upright = landmarker(image).head_pose()[0]
    assert np.abs(upright).max() < 20
    mirrored = landmarker(PIL.ImageOps.mirror(image)).head_pose()[0]
    np.testing.assert_allclose(mirrored, upright * [-1, 1, -1], atol=4)
    clockwise = landmarker(image.rotate(-20, PIL.Image.Resampling.BILINEAR)).head_pose()[0]
    assert abs(clockwise[2] - upright[2] - 20) < 4
    up = head_pose(project(np.array([[0.0, 25, 0]])), faces.scheme, (640, 480))[0]
    nose_to_eyes = project(np.array([[0.0, 0, 0], [0, 25, 0]]))
    nose, eyes = nose_to_eyes[:, 30, 1], nose_to_eyes[:, 36:48, 1].mean(axis=1)
    assert up[1] > 20
    assert (nose - eyes)[1] < (nose - eyes)[0]  # the tip of the nose rises towards the eyes


def test_head_pose_of_real_profiles_has_the_right_side(landmarker, shared):
    folder = shared / "data" / "cfp_profile"
    with (folder / "cfp.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["person"]) > 390]
    for row in rows:
        image = folder / row["image"]
        box = tight_box(read_pts(image.with_suffix(".pts")))
        yaw = landmarker(image, boxes=box, box_format="landmarks").head_pose()[0, 0]
        assert 25 < (yaw if row["facing"] == "right" else -yaw) < 100


def test_head_pose_of_frontal_photos_is_small(landmarker, shared):
    photos = sorted((shared / "data" / "london").glob("*.jpg"))[-10:]
    poses = np.concatenate([faces.head_pose() for faces in landmarker(photos)])
    assert len(poses) == 10
    assert np.abs(poses).mean(axis=0).max() < 8
    assert np.abs(poses[:, 0]).max() < 20


def test_head_pose_refuses_invalid_focal_lengths_and_schemes(faces):
    for focal in (0, -1.0, np.nan):
        with pytest.raises(PipnetError, match="focal_length is in pixels and above 0"):
            faces.head_pose(focal)
    menpo = LandmarkScheme.load("menpo39")
    with pytest.raises(DataError, match="'menpo39': head pose needs a mapping"):
        head_pose(np.zeros((1, 39, 2), np.float32), menpo, (9, 9))


def test_head_pose_without_faces_is_empty(faces):
    assert faces[[]].head_pose().shape == (0, 3)


def test_openness_of_the_portrait_is_that_of_open_eyes_and_mouth(faces):
    """An open, smiling mouth, and open eyes."""
    result = faces.openness()
    assert 0.2 < result.left_eye[0] < 0.5
    assert 0.2 < result.right_eye[0] < 0.5
    assert 0.15 < result.mouth[0] < 0.6
    np.testing.assert_allclose(result.left_eye_confidence, faces.confidence[:, 42:48].mean(axis=1))
    assert faces[[]].openness().mouth.shape == (0,)


def test_openness_is_height_over_width(faces):
    points = faces.points.copy()
    points[0, 42:48] = [[0, 0], [10, -3], [20, -3], [30, 0], [20, 3], [10, 3]]
    points[0, 36:42] = [[0, 0], [10, 0], [20, 0], [30, 0], [20, 0], [10, 0]]
    points[0, 60:68] = [[0, 0], [5, -2], [10, -4], [15, -2], [20, 0], [15, 2], [10, 4], [5, 2]]
    result = replace(faces, points=points).openness()
    np.testing.assert_allclose([result.left_eye[0], result.right_eye[0]], [6 / 30, 0], atol=1e-6)
    np.testing.assert_allclose(result.mouth[0], (4 + 8 + 4) / 3 / 20, atol=1e-6)


def test_blink_counter_counts_a_blink(clip, tmp_path, monkeypatch, capsys):
    """A part of the clip below, from frame 41 to frame 69: one blink, from frame 56 to frame 62."""
    path = tmp_path / "part.mp4"
    with VideoWriter(path, 25) as writer:
        for frame in islice(VideoReader(clip), 41, 70):
            writer.write(frame.image, frame.time - 41 / 25)
    monkeypatch.setattr(sys, "argv", ["blink_counter.py", str(path)])
    runpy.run_path(str(ROOT / "examples" / "blink_counter.py"), run_name="__main__")
    blink, total = capsys.readouterr().out.splitlines()
    assert total == "face 1: 1 blinks"
    assert float(blink.split(" s: ")[0]) == pytest.approx((56 - 41) / 25, abs=0.2)


@pytest.mark.slow
def test_blink_counter_counts_the_blinks_of_a_clip(clip):
    """Its three blinks, by eye: frames 56 to 62, 97 to 118 and 426 to 429, at 25 frames a second."""
    command = [sys.executable, ROOT / "examples" / "blink_counter.py", clip]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    *blinks, total = result.stdout.splitlines()
    assert total == "face 1: 3 blinks"
    times = [float(line.split(" s: ")[0]) for line in blinks]
    np.testing.assert_allclose(times, [56 / 25, 97 / 25, 426 / 25], atol=0.2)


def test_openness_needs_68_points(faces):
    with pytest.raises(DataError, match="no mapping from scheme 'aflw' to '300w'"):
        faces.to_scheme("aflw").openness()
