"""Rotation search: faces at any roll."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.box_adapter import BoxAdapter
from pipnet.geometry import affine, tight_box
from pipnet.inference.detectors.base import Detections
from pipnet.inference.rotation import face_roll, upright_angles
from pipnet.scheme import SchemeMapping


@pytest.fixture(scope="module")
def upright(portrait, landmarker):
    """The portrait and its landmarks."""
    faces = landmarker(portrait)
    return faces.image, faces.points[0]


@pytest.fixture(scope="module")
def any_rotation():
    return FaceLandmarker(any_rotation=True)


def rotate(upright, angle):
    """Return the portrait rotated clockwise about its face, and the landmarks in it."""
    image, points = upright
    center = tuple(float(v) for v in points.mean(axis=0))
    matrix = cv2.getRotationMatrix2D(center, -angle, 1)
    rotated = np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1]))
    return rotated, affine(points, matrix).astype(np.float32)


@pytest.fixture(scope="module")
def error(upright):
    """A function of a face and true landmarks: the mean error as a fraction of the upright face's size."""
    size = np.ptp(upright[1], axis=0).max()
    return lambda face, points: float(np.linalg.norm(face.points - points, axis=1).mean() / size)


@pytest.mark.parametrize("angle", range(-150, 181, 30))
def test_any_rotation_predicts_a_rotated_face_in_its_box(upright, any_rotation, error, angle):
    image, points = rotate(upright, angle)
    face = any_rotation(image, boxes=tight_box(points), box_format="landmarks")[0]
    assert error(face, points) < 0.02
    assert abs((face_roll(face.points, any_rotation.metadata) - angle + 180) % 360 - 180) < 5


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_any_rotation_does_not_trust_the_high_scores_of_the_tiny_model(upright, error, angle):
    image, points = rotate(upright, angle)
    landmarker = FaceLandmarker("pipnet-tiny", any_rotation=True)
    face = landmarker(image, boxes=tight_box(points), box_format="landmarks")[0]
    assert error(face, points) < 0.03


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_any_rotation_finds_a_face_detected_in_a_rotated_image_only(upright, landmarker, error, angle):
    def upright_only(image):
        """Return clear faces only: the default detector finds this large face at any roll."""
        return [face.box for face in landmarker(image) if face.scores.mean() > 0.5]

    image, points = rotate(upright, angle)
    assert not upright_only(image)
    faces = FaceLandmarker(detector=upright_only, any_rotation=True)(image)
    assert len(faces) == 1
    assert error(faces[0], points) < 0.02
    # Its box is drawn as if the face were upright, so that an upright crop does not fit.
    plain = landmarker(image, boxes=faces.boxes, box_format="face")
    assert not plain[0].scores.mean() > 0.5
    again = FaceLandmarker(landmarker.model, any_rotation=True)(image, boxes=faces.boxes, box_format="face")
    np.testing.assert_allclose(again.points, faces.points, atol=0.5)


def test_any_rotation_accepts_a_box_drawn_for_an_upright_face(upright, any_rotation, error):
    """Detectors draw such boxes; no rotated crop around them contains the face well."""
    image, points = rotate(upright, 180)
    left, top, right, bottom = tight_box(points)
    box = np.array([left, top + 0.75 * (bottom - top), right, bottom + 0.75 * (bottom - top)], np.float32)
    assert error(any_rotation(image, boxes=box, box_format="landmarks")[0], points) < 0.02


def test_any_rotation_does_not_change_upright_faces(portrait, any_rotation, landmarker):
    searched, plain = any_rotation(portrait), landmarker(portrait)
    np.testing.assert_array_equal(searched.points, plain.points)
    np.testing.assert_array_equal(searched.boxes, plain.boxes)
    np.testing.assert_array_equal(searched.crop_boxes, plain.crop_boxes)


def test_any_rotation_applies_tta_to_the_upright_crop(upright, error):
    image, points = rotate(upright, 120)
    landmarker = FaceLandmarker(any_rotation=True, tta="flip")
    face = landmarker(image, boxes=tight_box(points), box_format="landmarks")[0]
    assert error(face, points) < 0.02
    assert (face.tta_std > 0).any()


def test_any_rotation_finds_no_face_in_an_empty_image(any_rotation):
    assert len(any_rotation(np.full((80, 120, 3), 128, np.uint8))) == 0


def test_any_rotation_gives_models_of_dataset_boxes_the_same_crop(upright, landmarker):
    """Its face boxes are 1.5 times the landmarks' boxes, and its crop scale is so much smaller."""
    image, points = rotate(upright, 40)
    metadata = landmarker.metadata
    box = tight_box(points)
    center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2

    class DatasetBoxModel:
        def __init__(self):
            crop = replace(metadata.crop, scale=metadata.crop.scale / 1.5, box="dataset")
            adapters = {**metadata.box_adapters, "landmarks": BoxAdapter(-0.25, -0.25, 1.25, 1.25)}
            self.metadata = replace(metadata, crop=crop, box_adapters=adapters)

        def __call__(self, crops):
            return landmarker.model(crops)

    wide = np.concatenate([center - 1.5 * half, center + 1.5 * half])[None]
    wide_model = FaceLandmarker(DatasetBoxModel(), any_rotation=True)
    tight_model = FaceLandmarker(landmarker.model, any_rotation=True)
    from_wide = wide_model.pipeline.predict([image], [wide])
    from_tight = tight_model.pipeline.predict([image], [box[None]])
    np.testing.assert_allclose(from_wide.points, from_tight.points, atol=0.5)


class FivePointDetector:
    """A detector of one face that returns its box and five points."""

    box_format = "landmarks"

    def __init__(self, points, five):
        self.points, self.five = points, five

    def __call__(self, image):
        box = tight_box(self.points)[None].astype(np.float32)
        return Detections(box, np.ones(1, np.float32), self.five)


@pytest.mark.parametrize(("angle", "is_rotated"), [(0, False), (15, False), (40, True), (-75, True)])
def test_five_points_of_the_detector_rotate_the_first_crop(upright, landmarker, error, angle, is_rotated):
    image, points = rotate(upright, angle)
    mapping = SchemeMapping.load("300w", "five")
    detector = FivePointDetector(points, mapping(points)[None])
    assert (np.abs(upright_angles(detector(image))) > 20).all() == is_rotated
    with_points = FaceLandmarker(detector=detector)(image)
    without = FaceLandmarker(detector=FivePointDetector(points, None))(image)
    if is_rotated:
        assert error(with_points[0], points) < 0.02
        assert error(with_points[0], points) < error(without[0], points)
    else:
        assert np.array_equal(with_points.points, without.points)
