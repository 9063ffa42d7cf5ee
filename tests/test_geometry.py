"""Coordinates, boxes, crops and warps."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipnet.errors import BoxError
from pipnet.geometry import (
    CropConfig,
    affine,
    box_iou,
    box_to_crop,
    check_boxes,
    compose,
    crop,
    from_fraction,
    similarity,
    tight_box,
    to_fraction,
    warp,
)

coordinate = st.floats(-1000, 1000, width=32)
side = st.floats(1, 1000, width=32)


@given(coordinate, coordinate, side, side, st.floats(0, 1), st.floats(0, 1))
def test_to_fraction_inverts_from_fraction(x, y, w, h, fx, fy):
    box = np.float32([x, y, x + w, y + h])
    fraction = np.array([[fx, fy]])
    back = to_fraction(from_fraction(fraction, box).astype(np.float64), box)
    np.testing.assert_allclose(back, fraction, atol=2e-3)


def test_box_to_crop_follows_the_pixel_center_rule():
    """Crop pixel k of S lies at the fraction (k + 0.5) / S of its box."""
    box = np.float32([10, 20, 110, 220])
    inside = affine(from_fraction(np.array([[0.5 / 64, 63.5 / 64]]), box), box_to_crop(box, 64))
    np.testing.assert_allclose(inside, [[0, 63]], atol=1e-4)


def test_crop_of_whole_pixels_copies_them():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    box = np.float32([9.5, 4.5, 41.5, 36.5])  # the edges of pixels 10 to 41 and 5 to 36
    np.testing.assert_array_equal(crop(image, box, 32), image[5:37, 10:42])


def test_crop_keeps_the_place_of_a_point_when_shrinking():
    image = np.zeros((900, 900, 3), np.uint8)
    cv2.circle(image, (400, 500), 40, (255, 255, 255), -1)
    box = np.float32([50, 100, 850, 900])
    small = crop(image, box, 100)
    brightness = small[..., 0].astype(float)
    rows, columns = np.indices(brightness.shape)
    centroid = np.array([[(columns * brightness).sum(), (rows * brightness).sum()]]) / brightness.sum()
    points = from_fraction((centroid + 0.5) / 100, box)
    np.testing.assert_allclose(points, [[400, 500]], atol=0.1)


def test_crop_averages_instead_of_aliasing_when_shrinking():
    checkerboard = ((np.indices((800, 800)).sum(axis=0) % 2) * 255).astype(np.uint8)
    image = np.repeat(checkerboard[..., None], 3, axis=2)
    small = crop(image, np.float32([-0.5, -0.5, 799.5, 799.5]), 100)
    assert np.abs(small.astype(int) - 127).max() <= 1


def test_crop_is_black_outside_the_image():
    image = np.full((20, 20, 3), 200, np.uint8)
    out = crop(image, np.float32([-100, -100, -50, -50]), 16)
    assert not out.any()


@pytest.mark.parametrize("square", [True, False])
def test_crop_config_is_square_or_stretched(square):
    box = CropConfig(scale=1.2, square=square).region(np.float32([100, 100, 200, 300]), 1000, 1000)
    expected = [30, 80, 270, 320] if square else [90, 80, 210, 320]
    np.testing.assert_allclose(box, expected, rtol=1e-5)


def test_crop_config_clips_at_the_border():
    box = CropConfig(scale=2.0, square=False, clip=True).region(np.float32([0, 10, 50, 90]), 60, 100)
    np.testing.assert_allclose(box, [-0.5, -0.5, 59.5, 99.5])


@given(st.integers(0, 10**6))
def test_similarity_recovers_a_motion(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(10, 2)) * 50
    angle, scale = rng.uniform(-3, 3), rng.uniform(0.2, 5)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = points @ rotation.T + rng.normal(size=2) * 100
    np.testing.assert_allclose(affine(points, similarity(points, moved)), moved, atol=1e-6)


def test_compose_applies_the_first_map_first():
    shift = np.array([[1.0, 0, 5], [0, 1, 0]])
    double = np.array([[2.0, 0, 0], [0, 2, 0]])
    np.testing.assert_allclose(affine(np.ones((1, 2)), compose(shift, double)), [[12, 2]])


def test_crop_of_an_image_longer_than_opencv_accepts():
    image = np.random.default_rng(0).integers(0, 256, (60, 40_000, 3), np.uint8)
    box = np.float32([35_000.3, 5.2, 35_040.3, 45.2])
    near = crop(image[:, 34_900:35_200], box - np.float32([34_900, 0, 34_900, 0]), 32)
    np.testing.assert_allclose(crop(image, box, 32).astype(int), near.astype(int), atol=2)


def test_warp_of_a_far_away_box_does_not_crash():
    image = np.zeros((10, 10, 3), np.uint8)
    assert warp(image, np.array([[0.01, 0, -1e6], [0, 0.01, 1e6]]), 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 10, np.nan]], "not finite"),
        ([[0, 0, 10, np.inf]], "not finite"),
        ([[5, 5, 5, 10]], "empty"),
        ([[5, 5, 1, 10]], "empty"),
        ([[200, 0, 300, 10]], "outside"),
        ([[-50, 0, -10, 10]], "outside"),
        ([[1, 2, 3]], "shape"),
        ("abcd", "must be numbers"),
        ([[1, 2, 3, "x"]], "must be numbers"),
    ],
)
def test_check_boxes_refuses_bad_boxes(boxes, message):
    with pytest.raises(BoxError, match=message):
        check_boxes(boxes, 100, 100)


def test_check_boxes_accepts_no_boxes():
    assert check_boxes([], 100, 100).shape == (0, 4)


def test_check_boxes_accepts_one_flat_box():
    assert check_boxes([1, 2, 3, 4], 100, 100).shape == (1, 4)


def test_box_iou_by_hand():
    boxes = np.float32([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 5, 10]])
    np.testing.assert_allclose(box_iou(boxes, np.float32([0, 0, 10, 10])), [1, 0, 0.5])


def test_tight_box_ignores_unknown_points():
    points = np.float32([[1, 2], [np.nan, np.nan], [5, 9]])
    np.testing.assert_allclose(tight_box(points), [1, 2, 5, 9])
    with pytest.raises(BoxError):
        tight_box(points[1:2])


def test_crop_config_does_not_clip_a_box_outside_the_image():
    config = CropConfig(scale=1.0, square=False, clip=True)
    np.testing.assert_allclose(
        config.region(np.float32([50, 199.5, 150, 320]), 200, 200), [50, 199.5, 150, 320]
    )
