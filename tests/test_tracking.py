"""Face tracking: stable track IDs with few runs of the detector."""

from itertools import islice

import cv2
import numpy as np
import PIL.Image
import pytest

from pipnet import FaceLandmarker
from pipnet.errors import PipnetError, VideoError
from pipnet.io.image import read_image
from pipnet.video.reader import VideoReader
from pipnet.video.tracker import FaceTracker
from pipnet.video.video_landmarker import VideoLandmarker
from pipnet.video.writer import VideoWriter


def test_tracker_keeps_the_track_id_and_detects_at_an_interval(landmarker, clip):
    tracker = FaceTracker(landmarker.pipeline, detect_every=8)
    frames = [tracker(frame.image, frame.time) for frame in islice(VideoReader(clip), 16)]
    assert [frame.track_ids for frame in frames] == [[1]] * 16
    assert [i for i, frame in enumerate(frames) if frame.detected] == [0, 8]
    for number in (0, 7, 15):
        expected = landmarker(frames[number].faces.image).points[0]
        distance = np.linalg.norm(frames[number].faces.points[0] - expected, axis=1).mean()
        assert distance < 0.03 * np.ptp(expected[:, 0])


def test_tracker_starts_and_ends_tracks(landmarker, portrait):
    """Two faces side by side, then one, then none, then one again with a new track ID."""
    image = cv2.resize(read_image(portrait), (256, 256))
    gray = np.full_like(image, 128)
    frames = [(image, image)] * 3 + [(image, gray)] * 3 + [(gray, gray)] * 2 + [(gray, image)] * 3
    tracker = FaceTracker(landmarker.pipeline, detect_every=100)
    ids = [tracker(np.hstack(pair), number / 25).track_ids for number, pair in enumerate(frames)]
    assert len(ids[0]) == 2
    assert ids[:3] == [ids[0]] * 3
    assert ids[3] == ids[5]
    assert len(ids[5]) == 1
    assert set(ids[5]) < set(ids[0])
    assert ids[7] == []
    assert ids[-1] == [3]


def test_tracker_detects_again_in_the_frame_where_a_face_is_lost(landmarker, portrait):
    """A cut to another position: the face is in the result of every frame."""
    image = cv2.resize(read_image(portrait), (256, 256))
    gray = np.full_like(image, 128)
    tracker = FaceTracker(landmarker.pipeline, detect_every=100)
    pairs = [(image, gray)] * 3 + [(gray, image)] * 3
    frames = [tracker(np.hstack(pair), number / 25) for number, pair in enumerate(pairs)]
    assert [frame.track_ids for frame in frames] == [[1]] * 3 + [[2]] * 3
    assert [frame.detected for frame in frames] == [True, False, False, True, False, False]


def test_tracker_loses_a_face_of_low_quality_that_the_detector_does_not_confirm(portrait):
    """Where no face is, pipnet-tiny has scores as high as those of some faces."""
    image = cv2.resize(read_image(portrait), (256, 256))
    tracker = FaceTracker(FaceLandmarker("pipnet-tiny").pipeline, detect_every=4)
    frames = [image] * 2 + [np.full_like(image, 128)] * 4
    ids = [tracker(frame, number / 25).track_ids for number, frame in enumerate(frames)]
    assert ids[:2] == [[1]] * 2
    assert ids[4:] == [[]] * 2


@pytest.mark.parametrize("degrees", [-40, 0, 40])
def test_tracker_rotates_crops_of_leaning_faces_as_for_images(landmarker, portrait, degrees):
    face = PIL.Image.open(portrait).crop((60, 0, 390, 330))
    image = np.array(face.rotate(degrees, PIL.Image.Resampling.BICUBIC))
    expected = landmarker(image).points[0]  # of the highest score: a shoulder may look like a face
    tracker = FaceTracker(landmarker.pipeline)
    for number in range(3):
        faces = tracker(image, number / 25).faces
        errors = np.linalg.norm(faces.points - expected, axis=2).mean(axis=1)
        assert errors.min() < 0.01 * np.ptp(expected[:, 0])
        angle = tracker._tracks[int(errors.argmin())].crop_angle
        assert (abs(angle - degrees) < 8) if degrees else angle == 0


def test_tracker_accepts_frames_without_faces(landmarker):
    tracker = FaceTracker(landmarker.pipeline)
    result = tracker(np.full((120, 160, 3), 128, np.uint8), 0.0)
    assert result.faces.points.shape == (0, 68, 2)
    assert result.track_ids == []
    with pytest.raises(PipnetError, match="detect_every must be at least 1"):
        FaceTracker(landmarker.pipeline, detect_every=0)


def test_video_landmarker_tracks_faces_upside_down(landmarker, clip, tmp_path):
    """Frames rotated by 180 degrees, with a detector that finds upright faces only, like most detectors."""

    def upright_only(image):
        return [face.box for face in landmarker(image) if face.scores.mean() > 0.5]

    path = tmp_path / "rotated.mp4"
    with VideoWriter(path, 25) as writer:
        for frame in islice(VideoReader(clip), 4):
            writer.write(np.ascontiguousarray(frame.image[::-1, ::-1]), frame.time)
    default = VideoLandmarker(FaceLandmarker(landmarker.model, upright_only))
    assert not any(frame.track_ids for frame in default.stream(path))
    any_rotation = FaceLandmarker(landmarker.model, upright_only, any_rotation=True)
    frames = list(VideoLandmarker(any_rotation, smooth=False).stream(path))
    assert [frame.track_ids for frame in frames] == [[1]] * 4
    assert [frame.detected for frame in frames] == [True] + [False] * 3
    for frame, faces, _, _ in frames[::3]:
        height, width = frame.image.shape[:2]
        upright = landmarker(np.ascontiguousarray(frame.image[::-1, ::-1])).points[0]
        distance = np.linalg.norm([width - 1, height - 1] - upright - faces.points[0], axis=1).mean()
        assert distance < 0.03 * np.ptp(upright[:, 0])


def test_update_equals_a_causally_smoothed_tracker(landmarker, clip):
    """Frames of the caller, RGB or BGR, give what a camera gives; after a reset, a new video begins."""
    frames = list(islice(VideoReader(clip), 4))
    tracker = FaceTracker(landmarker.pipeline, smooth=True)
    expected = [tracker(frame.image, frame.time) for frame in frames]
    video = VideoLandmarker(landmarker)
    for _ in range(2):
        for number, (frame, known) in enumerate(zip(frames, expected, strict=True)):
            bgr = bool(number % 2)
            image = np.ascontiguousarray(frame.image[..., ::-1]) if bgr else frame.image
            result = video.update(image, frame.time, bgr=bgr)
            np.testing.assert_array_equal(result.frame.image, frame.image)
            assert (result.frame.time, result.frame.number) == (frame.time, number)
            assert (result.track_ids, result.detected) == (known.track_ids, known.detected)
            np.testing.assert_allclose(result.faces.points, known.faces.points, atol=1e-3)
        video.reset()


def test_update_without_smoothing_returns_raw_landmarks(landmarker, clip):
    tracker, video = FaceTracker(landmarker.pipeline), VideoLandmarker(landmarker, smooth=False)
    for frame in islice(VideoReader(clip), 3):
        raw = tracker(frame.image, frame.time).faces.points
        np.testing.assert_array_equal(video.update(frame.image, frame.time).faces.points, raw)


def test_update_refuses_times_that_go_back(landmarker, portrait):
    video = VideoLandmarker(landmarker)
    first = video.update(read_image(portrait), 5.0)
    again = video.update(read_image(portrait), 5.0)
    np.testing.assert_array_equal(again.faces.points, first.faces.points)
    with pytest.raises(VideoError, match=r"earlier than that of the last frame, 5.*reset\(\)"):
        video.update(read_image(portrait), 4.0)
    with pytest.raises(VideoError, match="finite"):
        video.update(read_image(portrait), float("nan"))
    video.reset()
    assert video.update(read_image(portrait), 0.0).frame.number == 0
