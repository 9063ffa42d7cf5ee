"""``pipnet data convert`` and ``pipnet data prepare``: what is kept, and that nothing is overwritten."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipnet.annotations.formats import Annotations, read_annotations, write_annotations
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.datasets.prepare import prepare
from pipnet.datasets.scheme_proposal import propose_scheme
from pipnet.errors import BoxError, DataError
from pipnet.evaluation.metrics import norm_distance
from pipnet.geometry import CropConfig
from pipnet.scheme import LandmarkScheme
from test_own_datasets import FIVE, own_annotations


def test_data_convert_maps_the_scheme_of_a_dataset(tmp_path, small_300w, capsys):
    target = tmp_path / "19.json"
    assert main(["data", "convert", str(small_300w), str(target), "--subset", "afw", "--scheme", "aflw"]) == 0
    assert "4 faces" in capsys.readouterr().err
    loaded = read_annotations(target)
    expected = load_samples(small_300w, "afw", "aflw")[0]
    np.testing.assert_allclose(loaded.samples[2].points, expected[2].points, atol=0.01)
    assert loaded.names == LandmarkScheme.load("aflw").landmark_names
    assert main(["data", "convert", str(target), str(tmp_path / "cvat.xml")]) == 0
    assert main(["data", "convert", str(target), str(tmp_path / "x.json"), "--scheme", "aflw"]) == 1
    assert "are for datasets only" in capsys.readouterr().err


def test_data_convert_keeps_a_split(tmp_path, small_300w, capsys):
    samples = own_annotations(small_300w, FIVE).samples
    marked = [replace(s, attributes=frozenset({"test"} if i < 5 else ())) for i, s in enumerate(samples)]
    write_annotations(tmp_path / "a.json", Annotations(marked, tuple(FIVE)))
    assert main(["data", "convert", str(tmp_path / "a.json"), str(tmp_path / "a.csv")]) == 0
    scheme = propose_scheme(Annotations(samples, tuple(FIVE)), "five").scheme
    assert len(load_samples(tmp_path / "a.csv", None, scheme)[0]) == 7
    capsys.readouterr()
    assert main(["data", "convert", str(tmp_path / "a.json"), str(tmp_path / "a.xml")]) == 1
    assert "cvat cannot express the subset of a face (test)" in capsys.readouterr().err
    assert not (tmp_path / "a.xml").exists()


def test_data_commands_overwrite_nothing(tmp_path, small_300w, capsys):
    labels, root = tmp_path / "a.json", tmp_path / "300w"
    shutil.copytree(small_300w, root)
    write_annotations(labels, own_annotations(small_300w, FIVE))
    before = labels.read_bytes()
    (tmp_path / "mine_mean_face.png").write_bytes(b"a photo")
    for command in (
        ["convert", str(labels), str(labels)],
        ["convert", str(labels), str(tmp_path / "mine_mean_face.png"), "--to", "csv"],
        ["convert", str(root), str(root), "--scheme", "aflw"],
        ["convert", str(labels), str(root / "afw")],
        ["scheme", str(labels), "-o", str(tmp_path / "mine.toml")],
        ["prepare", "300w", str(root), str(root)],
    ):
        assert main(["data", *command]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert labels.read_bytes() == before
    assert len(load_samples(root, "train")[0]) == 12


def test_data_prepare_invalidates_earlier_subsets(tmp_path, small_300w):
    root = tmp_path / "300w"
    shutil.copytree(small_300w, root)
    assert main(["data", "prepare", "300w", str(root), str(tmp_path / "out")]) == 1
    shutil.rmtree(root / "ibug")
    assert main(["data", "prepare", "300w", str(root), str(tmp_path / "out")]) == 1
    with pytest.raises(DataError, match="'challenging' is not in this folder"):
        load_samples(tmp_path / "out", "challenging")


def test_data_prepare_adds_no_boxes(tmp_path, small_300w):
    """A face without a box has none after it was written to COCO either."""
    list(prepare("300w", small_300w, tmp_path / "out"))
    for scheme in ("300w", "aflw"):
        raw, prepared = (load_samples(root, "afw", scheme)[0][1] for root in (small_300w, tmp_path / "out"))
        assert raw.box is prepared.box is None
        loaded = LandmarkScheme.load(scheme)
        assert norm_distance(raw.points, loaded) == pytest.approx(
            norm_distance(prepared.points, loaded), rel=1e-4
        )
    with pytest.raises(BoxError, match="has no face boxes"):
        CropConfig(box="dataset").face_box(prepared.points, prepared.box)
