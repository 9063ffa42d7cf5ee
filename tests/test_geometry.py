"""Coordinates, boxes, crops and warps."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipnet.datasets.load import load_samples
from pipnet.errors import BoxError
from pipnet.geometry import (
    CropConfig,
    affine,
    box_iou,
    box_to_crop,
    check_boxes,
    compose,
    from_fraction,
    invert,
    similarity,
    tight_box,
    to_fraction,
)
from pipnet.io.image import read_image
from pipnet.warp import crop, reduce, resize, sample_map, warp

coordinate = st.floats(-1000, 1000, width=32)
side = st.floats(1, 1000, width=32)
EXACT_OPENCV = int(cv2.__version__.split(".")[0]) >= 5
"""OpenCV 4 rounds positions to 1/32 pixel; OpenCV 5 and pipnet do not."""


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


@pytest.mark.parametrize("clip", [True, False])
def test_crop_config_whole_pixels_crops_like_the_authors(clip):
    """Pixels as image[int(y0):int(y1), int(x0):int(x1)], labels as fractions of the float box."""
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    config = CropConfig(scale=1.2, square=False, clip=clip, whole_pixels=True)
    for x0, y0, x1, y1 in ((40.3, 30.6, 90.9, 88.2), (11.0, 20.0, 51.0, 60.0), (-3.2, 70.4, 60.8, 131.5)):
        width, height = x1 - x0, y1 - y0
        low = np.array([x0 - 0.1 * width, y0 - 0.1 * height])
        high = np.array([x1 + 0.1 * width, y1 + 0.1 * height])
        if clip:
            low, high = np.maximum(low, 0), np.minimum(high, [159, 119])
        elif x0 < 0:
            continue  # negative indices count from the end: the authors always clip
        box = np.float32([x0, y0, x1, y1])
        region, label_box = config.region(box, 160, 120), config.label_box(box, 160, 120)
        np.testing.assert_allclose(label_box, [*low, *high], atol=1e-4)
        (left, top), (right, bottom) = low.astype(int), high.astype(int)
        assert region.tolist() == [left - 0.5, top - 0.5, right - 0.5, bottom - 0.5]
        authors_crop = cv2.resize(image[top:bottom, left:right], (128, 128))
        difference = np.abs(crop(image, region, 128).astype(int) - authors_crop)
        # At the border OpenCV repeats the crop's last pixels, where ours continues with the image.
        assert difference[3:-3, 3:-3].max() <= (1 if EXACT_OPENCV else 8)
    exact = CropConfig(scale=1.2, square=False, clip=clip)
    np.testing.assert_array_equal(exact.region(box, 160, 120), exact.label_box(box, 160, 120))


def test_crop_config_whole_pixels_keeps_at_least_one_pixel():
    config = CropConfig(scale=1.0, square=False, whole_pixels=True)
    assert config.region(np.float32([10.2, 10.3, 10.7, 10.8]), 50, 50).tolist() == [9.5, 9.5, 10.5, 10.5]


@pytest.mark.parametrize("square", [True, False])
def test_crop_config_face_box_of_inverts_region(square):
    config = CropConfig(scale=1.3, square=square, shift_up=0.1)
    box = np.float32([10, 20, 60, 70]) if square else np.float32([10, 20, 60, 110])
    np.testing.assert_allclose(config.face_box_of(config.region(box, 500, 500)), box, atol=1e-4)


def test_crop_of_whole_pixels_copies_them():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    box = np.float32([9.5, 4.5, 41.5, 36.5])  # the edges of pixels 10 to 41 and 5 to 36
    np.testing.assert_array_equal(crop(image, box, 32), image[5:37, 10:42])


def test_crop_keeps_the_position_of_a_point_when_reducing():
    image = np.zeros((900, 900, 3), np.uint8)
    cv2.circle(image, (400, 500), 40, (255, 255, 255), -1)
    box = np.float32([50, 100, 850, 900])
    small = crop(image, box, 100)
    brightness = small[..., 0].astype(float)
    rows, columns = np.indices(brightness.shape)
    centroid = np.array([[(columns * brightness).sum(), (rows * brightness).sum()]]) / brightness.sum()
    points = from_fraction((centroid + 0.5) / 100, box)
    np.testing.assert_allclose(points, [[400, 500]], atol=0.1)


def test_crop_averages_instead_of_aliasing_when_reducing():
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


def test_crop_of_a_very_long_image_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (60, 40_000, 3), np.uint8)
    box = np.float32([35_000.3, 5.2, 35_040.3, 45.2])
    near = crop(image[:, 34_900:35_200], box - np.float32([34_900, 0, 34_900, 0]), 32)
    np.testing.assert_allclose(crop(image, box, 32).astype(int), near.astype(int), atol=2)


def affine_map(scale_x, scale_y, degrees, image, size):
    """Return the map that turns and scales an image about its center, onto the center of a crop."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    linear = np.array([[cos, -sin], [sin, cos]]) * [scale_x, scale_y]
    center = (np.array(image.shape[1::-1]) - 1) / 2
    return np.hstack([linear, ((size - 1) / 2 - linear @ center)[:, None]])


@pytest.mark.parametrize("degrees", [0, 17, 90, 200])
@pytest.mark.parametrize(("scale_x", "scale_y"), [(0.55, 0.55), (1, 1), (3.3, 3.3), (-0.8, 0.8), (0.6, 1.7)])
@pytest.mark.parametrize("shift", [0, 60.3, -90.7])  # beyond the border, where both are black
def test_warp_equals_opencv(portrait, degrees, scale_x, scale_y, shift):
    image, size = read_image(portrait), 256
    matrix = affine_map(scale_x, scale_y, degrees, image, size)
    matrix[:, 2] += shift
    reference = cv2.warpAffine(image, matrix, (size, size)).astype(int)
    difference = np.abs(warp(image, matrix, size) - reference)
    assert difference.mean() < (0.1 if EXACT_OPENCV else 0.5)
    assert difference.max() <= (1 if EXACT_OPENCV else 16)


def test_crops_of_real_faces_are_near_opencv(shared):
    """At 128 pixels most of these crops are reduced by 2 first."""
    samples = load_samples(shared / "data" / "300w", "common")[0][::40]
    for size, limit in ((128, 0.5), (256, 0.05 if EXACT_OPENCV else 0.5)):
        differences = []
        for sample in samples:
            image = read_image(sample.image)
            box = sample.crop_region(CropConfig(), image)
            differences.append(np.abs(crop(image, box, size) - _opencv_crop(image, box, size)).mean())
        assert np.mean(differences) < limit


def _opencv_crop(image, box, size):
    """Return the crop of the versions of pipnet that used OpenCV."""
    matrix, factor = box_to_crop(box, size), int(float(box[2] - box[0]) / size)
    if factor >= 2:
        (x0, y0), (x1, y1) = np.floor(box[:2]).astype(int).clip(0), np.ceil(box[2:]).astype(int)
        part = image[y0:y1, x0:x1]
        small = (part.shape[1] // factor, part.shape[0] // factor)
        fx, fy = part.shape[1] / small[0], part.shape[0] / small[1]
        matrix = compose(np.array([[fx, 0, x0 + fx / 2 - 0.5], [0, fy, y0 + fy / 2 - 0.5]]), matrix)
        image = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(image, matrix, (size, size)).astype(int)


def test_warp_accepts_array_views_and_does_not_change_them(portrait):
    image = read_image(portrait)
    view = image[10:400:2, 400:20:-1]
    copy = view.copy()
    image.flags.writeable = False
    for degrees in (0, 30):
        matrix = affine_map(0.9, 0.9, degrees, view, 128)
        np.testing.assert_array_equal(warp(view, matrix, 128), warp(copy, matrix, 128))
        assert warp(view, matrix, 128).flags.writeable


def test_warp_in_threads_equals_warp(portrait):
    image = read_image(portrait)
    matrices = [affine_map(0.7, 0.7, degrees, image, 256) for degrees in range(0, 60, 3)]
    with ThreadPoolExecutor(4) as pool:
        warped = list(pool.map(lambda matrix: warp(image, matrix, 256), matrices))
    np.testing.assert_array_equal(warped, [warp(image, matrix, 256) for matrix in matrices])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_warp_works_in_a_forked_process():
    """Data loaders fork; kornia-rs 0.2 hangs there if it ran in the parent."""
    code = (
        "import multiprocessing; import numpy as np; from pipnet.warp import resize, warp\n"
        "image, turn = np.full((99, 99, 3), 7, np.uint8), np.array([[0.0, -1, 98], [1, 0, 0]])\n"
        "def run(_): return {int(f.max()) for f in (warp(image, turn, 64), resize(image, 40, 40))}\n"
        "run(0)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(run, range(2)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert result.stdout == "[{7}, {7}]\n", result.stderr


def test_warp_of_a_tiny_image_is_black_around_it():
    image = np.full((1, 1, 3), 90, np.uint8)
    for degrees in (0, 45):
        warped = warp(image, affine_map(8, 8, degrees, image, 31), 31)
        assert warped[15, 15].tolist() == [90, 90, 90]
        assert warped[0, 0].max() == 0


@pytest.mark.parametrize("size", [(256, 256), (393, 393), (244, 100), (111, 333), (640, 640), (512, 900)])
def test_resize_is_near_opencv(portrait, size):
    image = read_image(portrait)
    is_smaller = min(size) < 512
    mode = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    reference = cv2.resize(image, size, interpolation=mode).astype(int)
    resized = resize(image, *size)
    assert resized.shape == (size[1], size[0], 3)
    assert np.abs(resized - reference).mean() < 0.7  # a textured photo


def test_reduce_averages_blocks(portrait):
    image = read_image(portrait)
    blocks = image[:510, :510].reshape(170, 3, 170, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(reduce(image[:510, :510], 3), blocks, atol=0.6)
    assert reduce(image, 3).shape == (171, 171, 3)
    np.testing.assert_allclose(
        reduce(image, 3)[170, :170], image[510:, :510].reshape(2, 170, 3, 3).mean((0, 2)), atol=0.6
    )


def test_sample_map_equals_opencv():
    values = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    matrix = affine_map(0.9, 0.9, 20, values, 40)
    reference = cv2.warpAffine(values, matrix, (40, 40), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = np.s_[8:32, 8:32]  # at the border OpenCV mixes in zeros
    np.testing.assert_allclose(sample_map(values, matrix, 40)[inside], reference[inside], atol=0.04)


def test_invert_undoes_a_map():
    matrix = np.array([[2.0, 0.5, 3], [-1, 1.5, -7]])
    np.testing.assert_allclose(compose(matrix, invert(matrix)), np.eye(3)[:2], atol=1e-12)
    assert not invert(np.array([[1.0, 2, 3], [2, 4, 5]])).any()


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


def test_box_iou_is_intersection_over_union():
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
