"""The cache of face crops for training."""

import pickle
import shutil

import numpy as np
import pytest

from pipnet.datasets.load import load_samples
from pipnet.errors import PipnetError
from pipnet.geometry import CropConfig, tight_box
from pipnet.hub import cache_folder
from pipnet.io.image import read_image
from pipnet.training.crop_cache import FaceCrops
from pipnet.warp import crop

UNSCALED = CropConfig(scale=1)


def face_crops(samples, margin=1.5, size=200, config=UNSCALED):
    return FaceCrops(samples, config, size, margin)


def test_face_crops_equal_crops_of_the_image(small_300w):
    samples, _, _ = load_samples(small_300w, "train")
    crops = face_crops(samples)
    assert len(crops) == len(samples)
    for i, sample in enumerate(samples):
        image, points, _ = crops[i]
        full_image = read_image(sample.image)
        box, part_box = tight_box(sample.points), tight_box(points)
        np.testing.assert_allclose(crop(image, part_box, 64), crop(full_image, box, 64), atol=1)


def test_face_crops_reduce_large_faces_in_place(small_300w):
    samples, _, _ = load_samples(small_300w, "train")
    small, large = face_crops(samples, 1.5, 30), face_crops(samples)
    assert small[0][0].shape[0] < large[0][0].shape[0] / 2
    a = crop(small[0][0], tight_box(small[0][1]), 32).astype(int)
    b = crop(large[0][0], tight_box(large[0][1]), 32).astype(int)
    assert np.abs(a - b).mean() < 5  # half a shrunk pixel of shift would give 9


def test_face_crops_rebuild_deleted_caches_and_follow_labels(small_300w):
    samples, _, _ = load_samples(small_300w, "afw")
    first = face_crops(samples)[0][0].copy()
    shutil.rmtree(cache_folder())
    np.testing.assert_array_equal(face_crops(samples)[0][0], first)
    before = len(list((cache_folder() / "crops").iterdir()))
    face_crops(samples[:2])
    assert len(list((cache_folder() / "crops").iterdir())) == before + 1


def test_face_crops_decode_sets_above_the_limit(small_300w, monkeypatch, tmp_path):
    samples, _, _ = load_samples(small_300w, "afw")
    expected = [face_crops(samples, 1.4, 100)[i] for i in range(4)]
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path))
    monkeypatch.setenv("PIPNET_CACHE_GB", "0.0001")
    crops = face_crops(samples, 1.4, 100)
    assert not list((tmp_path / "crops").iterdir())
    for i in range(4):
        np.testing.assert_array_equal(crops[i][0], expected[i][0])
        np.testing.assert_array_equal(crops[i][1], expected[i][1])


@pytest.mark.parametrize("damage", ["no pixels", "no index", "torn index", "short pixels"])
def test_face_crops_rebuild_damaged_caches(small_300w, monkeypatch, tmp_path, damage):
    samples, _, _ = load_samples(small_300w, "afw")
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path))
    expected = face_crops(samples, 1.4, 100)[3][0].copy()
    (folder,) = (tmp_path / "crops").iterdir()
    pixels, index = folder / "pixels.bin", folder / "index.json"
    if damage.startswith("no"):
        (pixels if "pixels" in damage else index).unlink()
    elif damage == "torn index":
        index.write_text(index.read_text()[:20])
    else:
        pixels.write_bytes(pixels.read_bytes()[:-9])
    np.testing.assert_array_equal(face_crops(samples, 1.4, 100)[3][0], expected)
    assert index.exists()
    assert pixels.exists()


def test_face_crops_are_pickled_without_pixels(small_300w):
    samples, _, _ = load_samples(small_300w, "afw")
    crops = face_crops(samples, 1.4, 100)
    packed = pickle.dumps(crops)
    assert len(packed) < 20_000
    np.testing.assert_array_equal(pickle.loads(packed)[2][0], crops[2][0])


@pytest.mark.parametrize("clip", [True, False])
def test_face_crops_crop_box_equals_that_of_the_image(small_300w, clip):
    samples, _, _ = load_samples(small_300w, "train")
    config = CropConfig(scale=1.3, square=False, clip=clip)
    for size in (27, 270):
        crops = face_crops(samples, 1.2, size, config)
        for i, sample in enumerate(samples):
            expected = config.region(tight_box(sample.points), 260, 230)
            np.testing.assert_allclose(crops.crop_region(i), expected, atol=4 if size == 27 else 0.01)


def test_face_crops_delete_the_least_recently_used_cache(small_300w, monkeypatch, tmp_path):
    samples, _, _ = load_samples(small_300w, "train")
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path))
    face_crops(samples, 1.4, 100)
    (first,) = (tmp_path / "crops").iterdir()
    size = sum(f.stat().st_size for f in first.iterdir())
    monkeypatch.setenv("PIPNET_CACHE_GB", str(1.5 * size / 2**30))
    face_crops(samples, 1.41, 100)
    (second,) = (tmp_path / "crops").iterdir()
    assert second != first


def test_face_crops_work_without_a_writable_cache(small_300w, monkeypatch, tmp_path):
    samples, _, _ = load_samples(small_300w, "afw")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path / "file"))
    assert face_crops(samples, 1.4, 100)[3][0].size


def test_face_crops_name_all_unreadable_images(small_300w, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(small_300w, root)
    samples, _, _ = load_samples(root, "afw")
    for sample in samples[:2]:
        sample.image.write_bytes(b"no image")
    with pytest.raises(PipnetError, match=r"2 images.*image_0_1.*image_1_1"):
        face_crops(samples)
