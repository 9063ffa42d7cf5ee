"""Readers, .pts files, splits, cached crops, augmentation."""

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipnet.annotations.pts import read_pts, write_pts
from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.datasets.load import load_samples, recognize_dataset
from pipnet.errors import DataError, PipnetError
from pipnet.geometry import CropConfig, crop, tight_box, to_fraction
from pipnet.hub import cache_folder
from pipnet.io.image import read_image, write_image
from pipnet.scheme import LandmarkScheme
from pipnet.training.augment import Augmentation, training_crop
from pipnet.training.crop_cache import FaceCrops
from pipnet.training.dataset import FaceDataset

COUNTS = {
    "train": 24 - 12,
    "common": 8,
    "challenging": 4,
    "full": 12,
    "afw": 4,
    "helen+lfpw": 8,
}


@pytest.mark.parametrize(("subset", "count"), COUNTS.items())
def test_300w_parts(small_300w, subset, count):
    samples, scheme, spec = load_samples(small_300w, subset)
    assert (len(samples), scheme.name, spec.title) == (count, "300w", "300-W")
    assert len({s.name for s in samples}) == count
    assert all(s.image.is_file() and s.points.shape == (68, 2) for s in samples)


def test_300w_at_hand(shared):
    root = shared / "data" / "300w"
    counts = {
        "train": 2012,
        "common": 554,
        "common-deduplicated": 551,
        "train-deduplicated": 2009,
        "afw": 337,
    }
    for subset, count in counts.items():
        assert len(load_samples(root, subset)[0]) == count


def test_afw_faces_of_one_photo_stay_together(shared):
    samples, _, _ = load_samples(shared / "data" / "300w", "afw")
    assert len({s.group for s in samples}) <= 185
    training, validation = split_by_group(samples, 0.3, seed=0)
    assert len(training) + len(validation) == len(samples)
    assert not {s.group for s in training} & {s.group for s in validation}
    assert 0.15 < len(validation) / len(samples) < 0.45


@pytest.mark.parametrize("subset", ["challenging", "full"])
def test_load_faces_names_missing_folder(small_300w, tmp_path, subset):
    root = tmp_path / "300w"
    shutil.copytree(small_300w, root)
    shutil.rmtree(root / "ibug")
    with pytest.raises(DataError, match=r"ibug.*ibug\.doc\.ic\.ac\.uk"):
        load_samples(root, subset)


def test_wflw_at_hand(shared):
    root = shared / "data" / "wflw"
    counts = {"test": 114, "pose": 19, "expression": 16, "illumination": 45, "make-up": 12}
    counts |= {"occlusion": 29, "blur": 43}
    for subset, count in counts.items():
        samples, scheme, _ = load_samples(root, subset)
        assert len(samples) == count
        assert scheme.landmarks == 98
    mapped, scheme, _ = load_samples(root, "test", "300w")
    assert mapped[0].points.shape == (68, 2)
    assert scheme.name == "300w"


@pytest.mark.parametrize("line", ["1 2 3", " ".join(["x"] * 207), " ".join(["nan"] * 206) + " a.jpg"])
def test_a_damaged_wflw_line_is_named(tmp_path, line):
    folder = tmp_path / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    folder.mkdir(parents=True)
    (folder / "list_98pt_rect_attr_test.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=r"test\.txt:1"):
        load_samples(tmp_path, "test")


def test_unknown_folders_and_parts(tmp_path, small_300w):
    with pytest.raises(DataError, match="no such file or folder"):
        recognize_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="no faces that we know"):
        recognize_dataset(tmp_path)
    with pytest.raises(DataError, match="no subset 'commn'"):
        load_samples(small_300w, "commn")


def test_pts_there_and_back(tmp_path):
    points = np.float32([[1.5, 2], [-3.25, 1000.125]])
    write_pts(tmp_path / "a.pts", points)
    np.testing.assert_allclose(read_pts(tmp_path / "a.pts", 2), points)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no points between"),
        ("version: 1\nn_points: 2\n{\n1 2\n", "no points between"),
        ("version: 1\nn_points: 2\n{\n1 2\n}", "says 2 points, holds 1"),
        ("version: 1\nn_points: 1\n{\n1 two\n}", "two"),
        ("version: 1\nn_points: 1\n{\n1 nan\n}", "finite"),
        ("version: 1\nn_points: 1\n{\n1 2 3\n}", "pairs"),
        ("version: 1\nn_points: 1\n{\n1 2\n}", "1 points, expected 68"),
    ],
)
def test_bad_pts_are_refused(tmp_path, text, words):
    path = tmp_path / "bad.pts"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_pts(path, 68)


def test_a_pts_file_that_is_no_text(tmp_path, portrait):
    shutil.copy(portrait, tmp_path / "a.pts")
    with pytest.raises(DataError):
        read_pts(tmp_path / "a.pts")


# -- crops -------------------------------------------------------------------------------------------


def test_cached_crops_are_the_pictures(small_300w):
    samples, _, _ = load_samples(small_300w, "train")
    crops = FaceCrops(samples, reach=1.5, resolution=200)
    assert len(crops) == len(samples)
    for i, sample in enumerate(samples):
        image, points, _ = crops[i]
        whole = read_image(sample.image)
        box, part_box = tight_box(sample.points), tight_box(points)
        np.testing.assert_allclose(crop(image, part_box, 64), crop(whole, box, 64), atol=1)


def test_large_faces_are_shrunk_in_the_cache_and_stay_in_place(small_300w):
    samples, _, _ = load_samples(small_300w, "train")
    small, large = FaceCrops(samples, 1.5, 30), FaceCrops(samples, 1.5, 200)
    assert small[0][0].shape[0] < large[0][0].shape[0] / 2
    a = crop(small[0][0], tight_box(small[0][1]), 32).astype(int)
    b = crop(large[0][0], tight_box(large[0][1]), 32).astype(int)
    assert np.abs(a - b).mean() < 5  # half a shrunk pixel of shift would give 9


def test_the_cache_may_be_deleted_and_follows_the_labels(small_300w):
    samples, _, _ = load_samples(small_300w, "afw")
    first = FaceCrops(samples, 1.5, 200)[0][0].copy()
    shutil.rmtree(cache_folder())
    np.testing.assert_array_equal(FaceCrops(samples, 1.5, 200)[0][0], first)
    before = len(list((cache_folder() / "crops").iterdir()))
    FaceCrops(samples[:2], 1.5, 200)
    assert len(list((cache_folder() / "crops").iterdir())) == before + 1


def test_a_set_larger_than_the_limit_is_decoded_each_time(small_300w, monkeypatch, tmp_path):
    samples, _, _ = load_samples(small_300w, "afw")
    expected = [FaceCrops(samples, 1.4, 100)[i] for i in range(4)]
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path))
    monkeypatch.setenv("PIPNET_CACHE_GB", "0.0001")
    crops = FaceCrops(samples, 1.4, 100)
    assert not list((tmp_path / "crops").iterdir())
    for i in range(4):
        np.testing.assert_array_equal(crops[i][0], expected[i][0])
        np.testing.assert_array_equal(crops[i][1], expected[i][1])


@pytest.mark.parametrize("damage", ["no pixels", "no index", "torn index", "short pixels"])
def test_a_damaged_cache_is_built_again(small_300w, monkeypatch, tmp_path, damage):
    samples, _, _ = load_samples(small_300w, "afw")
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path))
    expected = FaceCrops(samples, 1.4, 100)[3][0].copy()
    (folder,) = (tmp_path / "crops").iterdir()
    pixels, index = folder / "pixels.bin", folder / "index.json"
    if damage.startswith("no"):
        (pixels if "pixels" in damage else index).unlink()
    elif damage == "torn index":
        index.write_text(index.read_text()[:20])
    else:
        pixels.write_bytes(pixels.read_bytes()[:-9])
    np.testing.assert_array_equal(FaceCrops(samples, 1.4, 100)[3][0], expected)
    assert index.exists()
    assert pixels.exists()


def test_workers_get_no_copy_of_the_pixels(small_300w):
    samples, _, _ = load_samples(small_300w, "afw")
    crops = FaceCrops(samples, 1.4, 100)
    packed = pickle.dumps(crops)
    assert len(packed) < 20_000
    np.testing.assert_array_equal(pickle.loads(packed)[2][0], crops[2][0])


@pytest.mark.parametrize("clip", [True, False])
def test_crop_boxes_are_those_of_the_whole_picture(small_300w, clip):
    samples, _, _ = load_samples(small_300w, "train")
    rule = CropConfig(scale=1.3, square=False, clip=clip)
    for resolution in (20, 200):
        crops = FaceCrops(samples, 1.5, resolution)
        for i, sample in enumerate(samples):
            expected = rule(tight_box(sample.points), 260, 230)
            np.testing.assert_allclose(
                crops.crop_box(i, rule), expected, atol=4 if resolution == 20 else 0.01
            )


def test_labels_on_one_point_and_in_another_encoding_are_named(small_300w, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(small_300w, root)
    (root / "afw" / "._image_0_1.pts").write_bytes(b"\x00\xff")  # macOS archives hold such
    assert len(load_samples(root, "afw")[0]) == 4
    write_pts(root / "afw" / "image_0_1.pts", np.ones((68, 2), np.float32))
    with pytest.raises(DataError, match="afw/image_0_1: its landmarks lie on one"):
        load_samples(root, "afw")
    (root / "afw" / "image_0_1.pts").write_bytes("n_points: 68 \xe9 {1 2}".encode("latin-1"))
    with pytest.raises(DataError, match="image_0_1"):
        load_samples(root, "afw")


def test_the_sets_not_used_for_longest_go_first(small_300w, monkeypatch, tmp_path):
    samples, _, _ = load_samples(small_300w, "train")
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path))
    FaceCrops(samples, 1.4, 100)
    (first,) = (tmp_path / "crops").iterdir()
    size = sum(f.stat().st_size for f in first.iterdir())
    monkeypatch.setenv("PIPNET_CACHE_GB", str(1.5 * size / 2**30))
    FaceCrops(samples, 1.41, 100)
    (second,) = (tmp_path / "crops").iterdir()
    assert second != first


def test_a_cache_that_cannot_be_written_does_not_matter(small_300w, monkeypatch, tmp_path):
    samples, _, _ = load_samples(small_300w, "afw")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path / "file"))
    assert FaceCrops(samples, 1.4, 100)[3][0].size


def test_all_unreadable_pictures_are_named_at_once(small_300w, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(small_300w, root)
    samples, _, _ = load_samples(root, "afw")
    for sample in samples[:2]:
        sample.image.write_bytes(b"no picture")
    with pytest.raises(PipnetError, match=r"2 pictures.*image_0_1.*image_1_1"):
        FaceCrops(samples, 1.5, 200)


# -- augmentation -------------------------------------------------------------------------------------

ALWAYS = Augmentation(
    translate=1, scale=1, rotate=1, flip=0.5, occlude=0, blur=0, grayscale=0, color_jitter=0
)


def example(portrait, landmarker, augmentation, seed):
    image = read_image(portrait)
    points = landmarker(image)[0].points
    rng = np.random.default_rng(seed)
    scheme = LandmarkScheme.load("300w")
    box = CropConfig()(tight_box(points), 512, 512)
    return image, points, training_crop(image, points, box, 128, scheme, augmentation, rng)


@pytest.mark.parametrize("seed", range(5))
def test_around_a_face_there_is_picture_enough(seed, tmp_path):
    """For all that is varied at once, also faces that are stretched: no black edges."""
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


def test_faces_smaller_than_a_pixel_of_the_crop(small_300w):
    samples, scheme, _ = load_samples(small_300w, "afw")
    dataset = FaceDataset(samples[:1], scheme, CropConfig(scale=40), 32, Augmentation.none())
    assert dataset[0].crop.shape == (32, 32, 3)


def test_without_augmentation_it_is_the_crop(portrait, landmarker):
    image, points, (out, fractions, _) = example(portrait, landmarker, Augmentation.none(), 0)
    box = CropConfig()(tight_box(points), 512, 512)
    np.testing.assert_array_equal(out, crop(image, box, 128))
    np.testing.assert_allclose(fractions, to_fraction(points, box), atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_labels_move_with_the_picture(portrait, landmarker, seed):
    """What the model finds in a varied crop is where the labels went, also when mirrored."""
    _, _, (out, fractions, _) = example(portrait, landmarker, ALWAYS, seed)
    found = landmarker(out, boxes=tight_box(fractions * 128), box_format="landmarks")[0].points
    width = np.ptp(fractions[:, 0]) * 128
    distance = np.linalg.norm(found - (fractions * 128 - 0.5), axis=1).mean() / width
    assert distance < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_stretched_and_coarse_faces_keep_their_labels(portrait, landmarker, seed):
    changes = replace(Augmentation.none(), stretch=1, stretch_by=0.3, downscale=1, downscale_by=3)
    image, points, (out, fractions, _) = example(portrait, landmarker, changes, seed)
    _, plain, _ = example(portrait, landmarker, Augmentation.none(), seed)[2]
    factors = np.ptp(fractions, axis=0) / np.ptp(plain, axis=0)
    assert factors.prod() == pytest.approx(1, abs=1e-4)
    assert 0.02 < abs(np.log(factors[0])) < np.log(1.3)
    found = landmarker(out, boxes=tight_box(fractions * 128), box_format="landmarks")[0].points
    away = np.linalg.norm(found - (fractions * 128 - 0.5), axis=1).mean()
    assert away < 0.08 * np.ptp(fractions[:, 0]) * 128
    sharp = example(portrait, landmarker, replace(changes, downscale=0), seed)[2][0]
    assert np.abs(np.diff(out.astype(int), axis=0)).mean() < np.abs(np.diff(sharp.astype(int), axis=0)).mean()


def test_what_was_added_later_changes_no_earlier_training(portrait, landmarker):
    """The chances of stretched and coarse faces are drawn aside."""
    both = replace(ALWAYS, occlude=1, color_jitter=1, grayscale=0.5, stretch=0.5, downscale=0.5)
    never = replace(both, stretch=0, downscale=0)
    same = 0
    for seed in range(24):
        (a, one, _), (b, other, _) = (example(portrait, landmarker, way, seed)[2] for way in (both, never))
        same += bool(np.array_equal(a, b) and np.array_equal(one, other))
    assert 0 < same < 24


def test_chance_comes_from_the_seed_alone(portrait, landmarker):
    a, b, c = (example(portrait, landmarker, Augmentation(), seed)[2] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(a[0], c[0])


def test_unknown_points_stay_unknown(portrait, landmarker):
    image = read_image(portrait)
    points = landmarker(image)[0].points.copy()
    points[5] = np.nan
    scheme, rng = LandmarkScheme.load("300w"), np.random.default_rng(0)
    box = CropConfig()(tight_box(points), 512, 512)
    _, fractions, _ = training_crop(image, points, box, 64, scheme, Augmentation.none(), rng)
    assert np.isnan(fractions).any(axis=1).nonzero()[0].tolist() == [5]
