"""Training crops and their augmentation."""

from dataclasses import replace

import numpy as np
import pytest

from pipnet.annotations.samples import FaceSample
from pipnet.datasets.load import load_samples
from pipnet.geometry import CropConfig, tight_box, to_fraction
from pipnet.io.image import read_image, write_image
from pipnet.scheme import LandmarkScheme
from pipnet.training.augment import Augmentation, training_crop
from pipnet.training.dataset import FaceDataset
from pipnet.warp import crop

ALWAYS = Augmentation(
    translate=1, scale=1, rotate=1, flip=0.5, occlude=0, blur=0, grayscale=0, color_jitter=0
)


@pytest.fixture(scope="module")
def labeled(portrait, landmarker):
    """The portrait as an array, and its landmarks."""
    image = read_image(portrait)
    return image, landmarker(image)[0].points


def example(labeled, augmentation, seed):
    image, points = labeled
    rng = np.random.default_rng(seed)
    scheme = LandmarkScheme.load("300w")
    box = CropConfig().region(tight_box(points), 512, 512)
    return training_crop(image, points, box, 128, scheme, augmentation, rng)


@pytest.mark.parametrize("seed", range(5))
def test_training_crop_has_no_black_edges(seed, tmp_path):
    """All augmentations together, also of stretched faces, leave no black edges."""
    write_image(tmp_path / "white.png", np.full((900, 900, 3), 255, np.uint8))
    face = np.array([[400, 400], [500, 400], [400, 500], [500, 500]], np.float32)
    sample = FaceSample(tmp_path / "white.png", face, "white", "white")
    scheme = LandmarkScheme("four", "", 4, "box", (), (), {})
    most = Augmentation(
        translate=1, translate_by=0.08, scale=1, scale_by=0.25, rotate=1, rotate_by=40,
        stretch=1, stretch_by=0.4, flip=0, occlude=0, blur=0, color_jitter=0,
    )  # fmt: skip
    dataset = FaceDataset([sample], scheme, CropConfig(scale=1.2), 64, most, seed)
    assert min(dataset[i].crop.min() for i in range(40)) > 200


def test_training_crop_accepts_tiny_faces(small_300w):
    samples, scheme, _ = load_samples(small_300w, "afw")
    dataset = FaceDataset(samples[:1], scheme, CropConfig(scale=40), 32, Augmentation.none())
    assert dataset[0].crop.shape == (32, 32, 3)


def test_training_crop_without_augmentation_is_the_crop(labeled):
    image, points = labeled
    out, fractions, _ = example(labeled, Augmentation.none(), 0)
    box = CropConfig().region(tight_box(points), 512, 512)
    np.testing.assert_array_equal(out, crop(image, box, 128))
    np.testing.assert_allclose(fractions, to_fraction(points, box), atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_training_crop_moves_labels_with_the_image(labeled, landmarker, seed):
    """The model predicts the landmarks of an augmented crop at the labels, also when mirrored."""
    out, fractions, _ = example(labeled, ALWAYS, seed)
    predicted = landmarker(out, boxes=tight_box(fractions * 128), box_format="landmarks")[0].points
    width = np.ptp(fractions[:, 0]) * 128
    distance = np.linalg.norm(predicted - (fractions * 128 - 0.5), axis=1).mean() / width
    assert distance < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_training_crop_keeps_labels_of_stretched_and_downscaled_faces(labeled, landmarker, seed):
    changes = replace(Augmentation.none(), stretch=1, stretch_by=0.3, downscale=1, downscale_by=3)
    out, fractions, _ = example(labeled, changes, seed)
    _, plain, _ = example(labeled, Augmentation.none(), seed)
    factors = np.ptp(fractions, axis=0) / np.ptp(plain, axis=0)
    assert factors.prod() == pytest.approx(1, abs=1e-4)
    assert 0.02 < abs(np.log(factors[0])) < np.log(1.3)
    predicted = landmarker(out, boxes=tight_box(fractions * 128), box_format="landmarks")[0].points
    distance = np.linalg.norm(predicted - (fractions * 128 - 0.5), axis=1).mean()
    assert distance < 0.08 * np.ptp(fractions[:, 0]) * 128
    sharp = example(labeled, replace(changes, downscale=0), seed)[0]
    assert np.abs(np.diff(out.astype(int), axis=0)).mean() < np.abs(np.diff(sharp.astype(int), axis=0)).mean()


def test_training_crop_draws_stretch_and_downscale_separately(labeled):
    """New augmentations do not change the random numbers of earlier ones."""
    both = replace(ALWAYS, occlude=1, color_jitter=1, grayscale=0.5, stretch=0.5, downscale=0.5)
    never = replace(both, stretch=0, downscale=0)
    same = 0
    for seed in range(24):
        (a, one, _), (b, other, _) = (example(labeled, way, seed) for way in (both, never))
        same += bool(np.array_equal(a, b) and np.array_equal(one, other))
    assert 0 < same < 24


def test_training_crop_depends_on_the_seed_only(labeled):
    a, b, c = (example(labeled, Augmentation(), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(a[0], c[0])


def test_training_crop_keeps_unknown_points(labeled):
    image, points = labeled[0], labeled[1].copy()
    points[5] = np.nan
    scheme, rng = LandmarkScheme.load("300w"), np.random.default_rng(0)
    box = CropConfig().region(tight_box(points), 512, 512)
    _, fractions, _ = training_crop(image, points, box, 64, scheme, Augmentation.none(), rng)
    assert np.isnan(fractions).any(axis=1).nonzero()[0].tolist() == [5]
