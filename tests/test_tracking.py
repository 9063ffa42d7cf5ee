"""Faces of a video keep their identity, and the detector rests."""

from itertools import islice

import cv2
import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.errors import PipnetError
from pipnet.io.image import read_image
from pipnet.video.reader import VideoReader
from pipnet.video.tracker import FaceTracker
from pipnet.video.writer import VideoWriter


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
    gray = np.full_like(image, 128)
    frames = [(image, image)] * 3 + [(image, gray)] * 3 + [(gray, gray)] * 2 + [(gray, image)] * 3
    tracker = FaceTracker(landmarker, detect_every=100)
    ids = [tracker(np.hstack(pair), number / 25).ids for number, pair in enumerate(frames)]
    assert len(ids[0]) == 2
    assert ids[:3] == [ids[0]] * 3
    assert ids[3] == ids[5]
    assert len(ids[5]) == 1
    assert set(ids[5]) < set(ids[0])
    assert ids[7] == []
    assert ids[-1] == [3]


def test_a_face_that_is_lost_is_searched_for_in_the_same_frame(landmarker, portrait):
    """A cut to another place: no frame is without its face."""
    image = cv2.resize(read_image(portrait), (256, 256))
    gray = np.full_like(image, 128)
    tracker = FaceTracker(landmarker, detect_every=100)
    pairs = [(image, gray)] * 3 + [(gray, image)] * 3
    seen = [tracker(np.hstack(pair), number / 25) for number, pair in enumerate(pairs)]
    assert [found.ids for found in seen] == [[1]] * 3 + [[2]] * 3
    assert [found.detected for found in seen] == [True, False, False, True, False, False]


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
    any_rotation = FaceLandmarker(landmarker.model, upright_only, any_rotation=True)
    found = list(any_rotation.stream(path, smooth=False))
    assert [one.ids for one in found] == [[1]] * 6
    assert [one.detected for one in found] == [True] + [False] * 5
    for frame, faces, _, _ in found[::5]:
        height, width = frame.image.shape[:2]
        upright = landmarker(np.ascontiguousarray(frame.image[::-1, ::-1])).points[0]
        away = np.linalg.norm([width - 1, height - 1] - upright - faces.points[0], axis=1).mean()
        assert away < 0.03 * np.ptp(upright[:, 0])
