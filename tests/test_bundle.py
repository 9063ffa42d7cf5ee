"""Bundles: faces of a dataset in one file that trains like the dataset."""

import shutil
import zipfile

import numpy as np
import pytest

from pipnet.annotations.annotation_set import Annotations
from pipnet.annotations.formats import write_annotations
from pipnet.cli import main
from pipnet.datasets.bundle import unpack_bundle
from pipnet.datasets.load import load_samples
from pipnet.datasets.unlabeled import load_unlabeled
from pipnet.errors import DataError
from pipnet.evaluation.metrics import norm_distance
from pipnet.geometry import CropConfig, tight_box
from pipnet.io.image import read_image
from pipnet.training.recipe import load_recipe
from pipnet.training.trainer import train
from pipnet.warp import crop

RECIPE = """
workers: 0
precision: float32
data: {validation: 0}
initial: {pretrained: false}
model: {backbone: lcnet_050, input_size: 64, neighbors: 3}
optim: {batch_size: 4, epochs: 1, lr: 0.002}
"""


@pytest.fixture(scope="module")
def bundle(small_300w, tmp_path_factory):
    """All faces of a small dataset, and images without labels."""
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(small_300w / "ibug", folder / "photos", ignore=shutil.ignore_patterns("*.pts"))
    path = folder / "faces.zip"
    flags = ["--subset", "train", "--subset", "full", "--subset", "common", "--limit", "3"]
    flags += ["--size", "64", "--unlabeled", str(folder / "photos")]
    assert main(["data", "bundle", str(small_300w), str(path), *flags]) == 0
    return path


def test_bundle_has_the_faces_of_its_subsets(small_300w, bundle):
    for subset in ("train", "full", "common"):
        before, _, _ = load_samples(small_300w, subset)
        after, scheme, spec = load_samples(bundle, subset)
        assert [s.name for s in after] == [s.name for s in before]
        assert [s.group for s in after] == [s.group for s in before]
        assert (scheme.name, spec.title) == ("300w", "300-W")
    names = zipfile.ZipFile(bundle).namelist()
    images = [name for name in names if name.endswith(".webp") and name.startswith("images/")]
    assert len(images) == 24  # those of common are in full too
    with pytest.raises(DataError, match="subset 'challenging' is not in this folder or bundle"):
        load_samples(bundle, "challenging")


def test_bundle_has_the_same_face_crops(small_300w, bundle):
    """The labels are moved with the images: a crop of 64 pixels is the same, up to its compression."""
    before, scheme, _ = load_samples(small_300w, "train")
    after, _, _ = load_samples(bundle, "train")
    config = CropConfig(scale=1.2)
    for old, new in zip(before, after, strict=True):
        image, reduced = read_image(old.image), read_image(new.image)
        box = tight_box(new.points)
        assert (box[2:] - box[:2]).max() == pytest.approx(64, abs=1)
        crops = [
            crop(pixels, sample.crop_region(config, pixels), 64).astype(int)
            for pixels, sample in ((image, old), (reduced, new))
        ]
        assert np.abs(crops[0] - crops[1]).mean() < 6
        scale = norm_distance(new.points, scheme, None) / norm_distance(old.points, scheme, None)
        assert new.label_offset[0] == pytest.approx(old.label_offset[0] * scale, rel=0.03)
        assert old.label_offset[0] != 0


def test_bundle_keeps_small_faces(small_300w, tmp_path):
    path = tmp_path / "large.zip"
    assert main(["data", "bundle", str(small_300w), str(path), "--size", "2000"]) == 0
    before, _, _ = load_samples(small_300w, "train")
    after, _, _ = load_samples(path)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(np.ptp(new.points, axis=0), np.ptp(old.points, axis=0), atol=2e-3)
        assert new.label_offset == pytest.approx(old.label_offset)


def test_bundle_refuses_another_label_offset(bundle):
    assert {s.label_offset for s in load_samples(bundle, label_offset=(0, 0))[0]} == {(0.0, 0.0)}
    with pytest.raises(DataError, match="the images of a bundle are reduced"):
        load_samples(bundle, label_offset=(1, 1))


def test_train_and_evaluate_accept_a_bundle(bundle, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    weights = train(load_recipe(path, ["--data.root", str(bundle)]), tmp_path / "run")
    assert weights.is_file()
    arguments = ["--data", str(bundle), "--subset", "full", "-o", str(tmp_path / "out")]
    assert main(["evaluate", "pipnet-tiny", *arguments]) == 0


def test_bundle_has_unlabeled_faces(bundle, small_300w, tmp_path):
    faces = load_unlabeled(bundle, tmp_path)
    assert len(faces) == 3
    assert all(face.box is None and read_image(face.image).size for face in faces)
    path = tmp_path / "labeled.zip"
    assert main(["data", "bundle", str(small_300w), str(path)]) == 0
    with pytest.raises(DataError, match="no unlabeled faces in this bundle"):
        load_unlabeled(path, tmp_path)


def test_bundle_moves_unlabeled_boxes(small_300w, tmp_path):
    """The box of an unlabeled face is around the same pixels."""
    sample = load_samples(small_300w, "train")[0][0]
    x0, y0, x1, y1 = tight_box(sample.points).tolist()
    rows = f"image,x,y,w,h,box_format\n{sample.image},{x0},{y0},{x1 - x0},{y1 - y0},landmarks\n"
    (tmp_path / "boxes.csv").write_text(rows)
    path = tmp_path / "b.zip"
    flags = ["--unlabeled", str(tmp_path / "boxes.csv"), "--size", "64"]
    assert main(["data", "bundle", str(small_300w), str(path), *flags]) == 0
    (face,) = load_unlabeled(path, tmp_path)
    assert face.box_format == "landmarks"
    assert (face.box[2:] - face.box[:2]).max() == pytest.approx(64, abs=1)
    old = crop(read_image(sample.image), tight_box(sample.points), 64).astype(int)
    new = crop(read_image(face.image), face.box, 64).astype(int)
    assert np.abs(old - new).mean() < 6


def test_bundle_accepts_own_annotations(small_300w, tmp_path):
    """With names, boxes and subsets; the scheme is passed to the training, as without a bundle."""
    samples, scheme, _ = load_samples(small_300w, "lfpw")
    write_annotations(tmp_path / "own.json", Annotations(samples, scheme.landmark_names), "coco")
    path = tmp_path / "own.zip"
    assert main(["data", "bundle", str(tmp_path / "own.json"), str(path), "--size", "50"]) == 0
    after, _, _ = load_samples(path, scheme="300w")
    assert [s.name for s in after] == [s.name for s in samples]
    with pytest.raises(DataError, match="the landmark scheme is missing"):
        load_samples(path)
    assert main(["data", "bundle", str(tmp_path / "own.json"), str(tmp_path / "b.zip"), "--subset", "x"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["b.tar"], "a bundle is a .zip file"),
        (["b.zip", "--size", "8"], "a bundle has a size of at least 32 pixels"),
        (["b.zip", "--quality", "0"], "a quality of 1 to 100"),
        (["b.zip", "--subset", "nothing"], "no subset 'nothing'"),
        (["b.zip", "--limit", "0"], "--limit must be at least 1"),
        (["exists.zip"], "exists already"),
    ],
)
def test_bundle_command_refuses_in_one_line(small_300w, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exists.zip").touch()
    assert main(["data", "bundle", str(small_300w), *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "b.zip").exists()


def test_load_samples_refuses_other_archives(bundle, tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"x.zip: damaged: .*bundle it again"):
        load_samples(path)
    path.write_bytes(bundle.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        load_samples(path)
    for name, content in (("notes.txt", "x"), ("../pipnet.json", "{}"), ("other.json", "{}")):
        with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(DataError, match="not a bundle of faces"):
            load_samples(tmp_path / "y.zip")


def test_unpack_bundle_unpacks_once(bundle):
    folder = unpack_bundle(bundle)
    (folder / "marker").touch()
    assert (unpack_bundle(bundle) / "marker").exists()
