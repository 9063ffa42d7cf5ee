"""Faces turned by any angle."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.geometry import affine, tight_box
from pipnet.inference.rotation import roll
from pipnet.io.image import read_image


@pytest.fixture(scope="module")
def upright(portrait, landmarker):
    image = read_image(portrait)
    return image, landmarker(image)[0].points


@pytest.fixture(scope="module")
def any_rotation():
    return FaceLandmarker.from_pretrained(any_rotation=True)


def turned(upright, angle):
    """The portrait turned clockwise about its face, and where the landmarks then are."""
    image, points = upright
    center = tuple(float(v) for v in points.mean(axis=0))
    matrix = cv2.getRotationMatrix2D(center, -angle, 1)
    whole = np.asarray(cv2.warpAffine(image, matrix, image.shape[1::-1]))
    return whole, affine(points, matrix).astype(np.float32)


@pytest.mark.parametrize("angle", range(-150, 181, 30))
def test_a_face_in_a_given_box(upright, any_rotation, angle):
    image, truth = turned(upright, angle)
    face = any_rotation(image, boxes=tight_box(truth), box_format="landmarks")[0]
    size = np.ptp(upright[1], axis=0).max()
    assert np.linalg.norm(face.points - truth, axis=1).mean() < 0.02 * size
    assert abs((roll(face.points, any_rotation.model.metadata) - angle + 180) % 360 - 180) < 5


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_a_face_that_is_found_in_the_turned_picture_only(upright, landmarker, angle):
    def upright_only(image):
        """The default detector finds this large face however it lies; most others it does not."""
        return [face.box for face in landmarker(image) if face.scores.mean() > 0.5]

    image, truth = turned(upright, angle)
    assert not upright_only(image)
    faces = FaceLandmarker.from_pretrained(detector=upright_only, any_rotation=True)(image)
    size = np.ptp(upright[1], axis=0).max()
    assert len(faces) == 1
    assert np.linalg.norm(faces[0].points - truth, axis=1).mean() < 0.02 * size
    again = landmarker(image, boxes=faces.boxes, box_format="face")
    assert not again[0].scores.mean() > 0.5  # looked at upright
    again = FaceLandmarker(landmarker.model, any_rotation=True)(image, boxes=faces.boxes, box_format="face")
    np.testing.assert_allclose(again.points, faces.points, atol=0.5)


def test_a_box_drawn_as_if_the_face_were_upright(upright, any_rotation):
    """As detectors do of faces upside down: no turn about it holds the face well enough to be sure."""
    image, truth = turned(upright, 180)
    left, top, right, bottom = tight_box(truth)
    box = np.array([left, top + 0.75 * (bottom - top), right, bottom + 0.75 * (bottom - top)], np.float32)
    face = any_rotation(image, boxes=box, box_format="landmarks")[0]
    assert np.linalg.norm(face.points - truth, axis=1).mean() < 0.02 * np.ptp(upright[1], axis=0).max()


def test_an_upright_face_stays_what_it_was(portrait, any_rotation, landmarker):
    found, plain = any_rotation(portrait), landmarker(portrait)
    np.testing.assert_array_equal(found.points, plain.points)
    np.testing.assert_array_equal(found.boxes, plain.boxes)


def test_views_are_taken_of_the_upright_face(upright):
    image, truth = turned(upright, 120)
    landmarker = FaceLandmarker.from_pretrained(any_rotation=True, tta="flip")
    face = landmarker(image, boxes=tight_box(truth), box_format="landmarks")[0]
    assert np.linalg.norm(face.points - truth, axis=1).mean() < 0.02 * np.ptp(upright[1], axis=0).max()


def test_no_face_is_no_face(any_rotation):
    assert len(any_rotation(np.full((80, 120, 3), 128, np.uint8))) == 0


def test_a_model_of_given_boxes_sees_the_same_crop(upright, landmarker):
    """Its face boxes are half as large again as the landmarks' boxes, and its crops so much tighter."""
    image, truth = turned(upright, 40)
    metadata = landmarker.model.metadata
    box = tight_box(truth)
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2

    class OfGivenBoxes:
        def __init__(self):
            crop = replace(metadata.crop, scale=metadata.crop.scale / 1.5, box="dataset")
            fits = {**metadata.box_adapters, "landmarks": (-0.25, -0.25, 1.25, 1.25)}
            self.metadata = replace(metadata, crop=crop, box_adapters=fits)

        def __call__(self, crops):
            return landmarker.model(crops)

    wide = np.concatenate([middle - 1.5 * half, middle + 1.5 * half])[None]
    given = FaceLandmarker(OfGivenBoxes(), any_rotation=True).predict([image], [wide])
    tight = FaceLandmarker(landmarker.model, any_rotation=True).predict([image], [box[None]])
    np.testing.assert_allclose(given.points, tight.points, atol=0.5)
