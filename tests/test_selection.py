"""Which faces a result holds: quality, number, order, one result per face; and refinement."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipnet import DataError, FaceLandmarker, ModelError
from pipnet.confidence import LOW_QUALITY
from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.geometry import box_iou
from pipnet.inference.detectors.base import Detections
from pipnet.inference.detectors.pipnet_face import PipnetFaceDetector
from pipnet.inference.selection import face_sizes, without_duplicates
from pipnet.io.image import read_image
from pipnet.video.tracker import FaceTracker

FORMAT_1 = Path(__file__).parent / "format1" / "model.onnx"


@pytest.fixture(scope="module")
def pair(portrait):
    """The portrait, and beside it the portrait upside down, whose landmarks have low quality."""
    image = read_image(portrait)
    return np.concatenate([image, image[::-1, ::-1]], axis=1)


PAIR = np.array([[178, 56, 271, 179], [753, 333, 846, 456]], np.float32)
"""The boxes of both faces, of the format ``pipnet-face``."""


def both(_):
    """Detect both faces of the pair, the clear one with the higher score."""
    return PAIR, [0.9, 0.6]


@pytest.fixture(scope="module")
def plain(landmarker, pair):
    return FaceLandmarker(landmarker.model, both, box_format="pipnet-face")(pair)


# -- candidates ----------------------------------------------------------------------------------------


class Proposals:
    """A detector that is unsure of the face, and nearly sure of a place without a face."""

    box_format = "face"
    boxes = np.array([[10, 10, 90, 100], [178, 63, 267, 175]], np.float32)

    def __call__(self, image):
        return Detections(self.boxes[:1], np.array([0.5], np.float32))

    def candidates(self, image):
        return Detections(self.boxes, np.array([0.5, 0.4], np.float32))


def test_quality_of_landmarks_selects_the_candidates_that_are_faces(landmarker, portrait):
    (face,) = FaceLandmarker(landmarker.model, Proposals(), max_faces=1)(portrait)
    np.testing.assert_array_equal(face.box, Proposals.boxes[1])
    assert face.detection_score == np.float32(0.4)


def test_without_a_calibration_the_detector_decides(portrait):
    faces = FaceLandmarker(FORMAT_1, Proposals())(portrait)
    np.testing.assert_array_equal(faces.boxes, Proposals.boxes[:1])


def test_landmarks_find_a_half_hidden_face(landmarker, portrait):
    detector, image = PipnetFaceDetector(), read_image(portrait).copy()
    np.testing.assert_array_equal(detector.candidates(image).boxes, detector(image).boxes)
    image[120:200, 150:300] = 120  # nose, mouth and chin
    assert len(detector(image).boxes) == 0
    assert len(detector.candidates(image).boxes) > 1
    (face,) = FaceLandmarker(landmarker.model, detector)(image)
    assert box_iou(face.box[None], np.array([178, 63, 267, 175], np.float32))[0] > 0.5


# -- min_quality ---------------------------------------------------------------------------------------


def test_all_faces_are_returned_by_default(plain):
    assert len(plain) == 2
    assert plain.quality[0] > 0.9 > LOW_QUALITY > plain.quality[1]


def test_min_quality_leaves_faces_out(landmarker, pair, plain):
    strict = FaceLandmarker(landmarker.model, both, box_format="pipnet-face", min_quality=LOW_QUALITY)
    for faces in (strict(pair), strict([pair])[0]):
        np.testing.assert_array_equal(faces.points, plain.points[:1])
        np.testing.assert_array_equal(faces.boxes, plain.boxes[:1])
    from_boxes = strict(pair, boxes=plain.boxes, box_format="pipnet-face")
    np.testing.assert_array_equal(from_boxes.points, plain.points[:1])
    assert len(strict(pair, boxes=plain.boxes[1], box_format="pipnet-face")) == 0


def test_min_quality_needs_a_calibrated_model():
    with pytest.raises(ModelError, match="'format1' is not calibrated, which min_quality needs"):
        FaceLandmarker(FORMAT_1, min_quality=0.1)
    assert FaceLandmarker(FORMAT_1, min_quality=0).pipeline.config.min_quality == 0


def test_faces_that_min_quality_leaves_out_are_missed_in_an_evaluation(small_300w):
    samples, _, spec = load_samples(small_300w, "common")
    for min_quality, missed in ((0.0, 0), (1.0, len(samples))):
        landmarker = FaceLandmarker(min_quality=min_quality)
        if missed:
            with pytest.raises(DataError, match=f"nothing to evaluate: {missed} faces missed"):
                evaluate(landmarker, decoded(samples), spec)
        else:
            assert not evaluate(landmarker, decoded(samples), spec).missed


# -- max_faces and sort --------------------------------------------------------------------------------


def upside_down_first(_):
    return PAIR, [0.6, 0.9]


@pytest.mark.parametrize("detector", [both, upside_down_first])
def test_max_faces_keeps_the_highest_detection_scores(landmarker, pair, detector):
    options = {"detector": detector, "box_format": "pipnet-face"}
    (face,) = FaceLandmarker(landmarker.model, **options, max_faces=1)(pair)
    np.testing.assert_array_equal(face.box, PAIR[np.argmax(detector(pair)[1])])
    assert len(FaceLandmarker(landmarker.model, **options, max_faces=5)(pair)) == 2


def test_max_faces_counts_faces_of_enough_quality(landmarker, pair):
    options = {"detector": upside_down_first, "box_format": "pipnet-face", "max_faces": 1}
    assert FaceLandmarker(landmarker.model, **options)(pair).quality[0] < LOW_QUALITY
    assert FaceLandmarker(landmarker.model, **options, min_quality=LOW_QUALITY)(pair).quality[0] > 0.9


def test_sort_by_size_puts_the_largest_face_first(landmarker, portrait):
    image = PIL.Image.open(portrait)
    canvas = PIL.Image.new("RGB", (1024, 512))
    canvas.paste(image.resize((256, 256)), (0, 0))
    canvas.paste(image.resize((512, 512)), (512, 0))
    boxes = landmarker(np.asarray(canvas)).boxes
    small_first = boxes[np.argsort(boxes[:, 0])]
    for sort, sizes in (("detection", [42, 84]), ("size", [84, 42])):
        sorting = FaceLandmarker(landmarker.model, sort=sort)
        faces = sorting(canvas, boxes=small_first, box_format="pipnet-face")
        np.testing.assert_allclose(face_sizes(faces.points), sizes, rtol=0.15)
        assert (faces.boxes == (small_first if sort == "detection" else small_first[::-1])).all()


# -- one result a face ---------------------------------------------------------------------------------


def test_any_rotation_returns_a_face_once(shared, landmarker):
    photo = shared / "data" / "unlabelled" / "helen" / "images" / "2504948725_2.jpg"
    on_its_side = np.ascontiguousarray(np.rot90(read_image(photo), -1))
    boxes = [[49, 45, 133, 143], [14, 13, 163, 149]]  # both on the right one of the two faces
    searching = FaceLandmarker(landmarker.model, lambda _: boxes, any_rotation=True)
    (face,) = searching(on_its_side)
    assert face.quality > 0.8


def test_without_duplicates_keeps_the_higher_quality_and_neighbors(plain):
    face = plain.points[:1]
    size = face_sizes(face)[0]
    points = np.concatenate([face, face + 0.05 * size, face + 0.7 * size])
    assert without_duplicates(points, np.float32([0.5, 0.9, 0.1])).tolist() == [1, 2]
    assert without_duplicates(points, np.full(3, np.nan, np.float32)).tolist() == [0, 2]
    assert without_duplicates(points[:0], np.zeros(0, np.float32)).tolist() == []


# -- video ---------------------------------------------------------------------------------------------


def test_track_of_low_quality_is_hidden_and_keeps_its_id(landmarker, portrait):
    clear = read_image(portrait)
    left, top, right, bottom = landmarker(clear).boxes[0].astype(int)
    hidden = clear.copy()
    hidden[(top + bottom) // 2 : bottom, left:right] = 90  # a hand over the lower half of the face
    frames = [clear] * 3 + [hidden] * 3 + [clear] * 3

    def track(min_quality):
        tracker = FaceTracker(FaceLandmarker(landmarker.model, min_quality=min_quality).pipeline)
        return [tracker(frame, number / 25) for number, frame in enumerate(frames)]

    shown = track(0.0)
    qualities = [float(result.faces.quality[0]) for result in shown]
    covered, uncovered = max(qualities[3:6]), min(*qualities[:3], *qualities[6:])
    assert covered < uncovered
    shown_above = track((covered + uncovered) / 2)
    assert [result.track_ids for result in shown] == [[1]] * 9
    assert [result.track_ids for result in shown_above] == [[1]] * 3 + [[]] * 3 + [[1]] * 3
    for all_faces, good_faces in zip(shown, shown_above, strict=True):
        assert all_faces.detected == good_faces.detected
        assert len(good_faces.faces) == len(good_faces.track_ids)
    np.testing.assert_array_equal(shown[-1].faces.points, shown_above[-1].faces.points)


def test_track_ids_count_the_faces_that_are_shown(landmarker, pair, plain):
    def detector(_):
        return plain.boxes[::-1], plain.detection_score  # the hidden face is found first

    hiding = FaceLandmarker(landmarker.model, detector, box_format="pipnet-face", min_quality=LOW_QUALITY)
    tracker = FaceTracker(hiding.pipeline)
    results = [tracker(pair, number / 25) for number in range(3)]
    assert [result.track_ids for result in results] == [[1]] * 3
    assert (results[-1].faces.quality > 0.9).all()


def test_max_faces_of_a_video_keeps_the_first_track(landmarker, portrait):
    image = read_image(portrait)
    pair = np.concatenate([image, image[:, ::-1]], axis=1)
    landmarker = FaceLandmarker(landmarker.model, max_faces=1)
    tracker = FaceTracker(landmarker.pipeline, detect_every=2)
    first, *others = [tracker(frame, number / 25) for number, frame in enumerate([pair] * 5)]
    assert first.track_ids == [1]
    for result in others:
        assert result.track_ids == [1]
        np.testing.assert_allclose(result.faces.points, first.faces.points, atol=2)
    gone = pair.copy()
    half = slice(0, 512) if first.faces.points[0, 0, 0] < 512 else slice(512, None)
    gone[:, half] = 128
    assert tracker(gone, 0.2).track_ids == [2]  # its place is taken by the other face


# -- refinement ----------------------------------------------------------------------------------------


def test_refine_steps_never_lower_the_mean_score(shared, landmarker):
    samples, _, _ = load_samples(shared / "data" / "cfp_profile", "val", landmarker.metadata.scheme)
    refining = FaceLandmarker(landmarker.model, refine_steps=2)
    changed = 0
    for image, _ in decoded(samples[:12]):
        before, after = landmarker(image), refining(image)
        gain = after.scores.mean(axis=1) - before.scores.mean(axis=1)
        moved = (after.crop_boxes != before.crop_boxes).any(axis=1)
        np.testing.assert_array_equal(after.points[~moved], before.points[~moved])
        assert (gain[moved] > 0).all()
        changed += int(moved.sum())
    assert 0 < changed < 12
