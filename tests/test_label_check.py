"""Checks of labels: offset, swapped sides, duplicates, disagreement, and the command."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.evaluation.label_check import check_faces, find_duplicates, label_offsets


@pytest.fixture(scope="module")
def labeled(landmarker, small_300w):
    """Faces whose labels are the model's own, averaged over a face and its mirror image."""
    samples, scheme, _ = load_samples(small_300w, "train")
    faces = check_faces(landmarker.model, samples, scheme)
    return [replace(face.sample, points=face.prediction, label_offset=(0.0, 0.0)) for face in faces], scheme


def test_label_offsets_finds_shift_of_one_part(landmarker, labeled):
    samples, scheme = labeled
    shifted = [
        replace(sample, points=sample.points + np.float32([3, 0]))
        if sample.name.startswith("afw")
        else sample
        for sample in samples
    ]
    faces = check_faces(landmarker.model, shifted, scheme)
    offsets = {sample.name: face.offset for sample, face in zip(shifted, faces, strict=True)}
    for name, offset in offsets.items():
        assert offset == pytest.approx(3 if name.startswith("afw") else 0, abs=0.3)
    groups = label_offsets(faces)
    assert groups["all"].faces == 12
    low, high = groups["all"].interval
    assert groups["all"].mean == pytest.approx(1, abs=0.2)
    assert low < groups["all"].mean < high


def test_check_faces_finds_swapped_sides(landmarker, labeled):
    samples, scheme = labeled
    swapped = replace(samples[0], points=samples[0].points[scheme.flip_permutation])
    faces = check_faces(landmarker.model, [swapped, samples[1]], scheme)
    assert [face.is_swapped for face in faces] == [True, False]


def test_check_faces_accepts_partly_labeled_faces(landmarker, labeled):
    samples, scheme = labeled
    half = samples[0].points.copy()
    half[20:] = np.nan
    (face,) = check_faces(landmarker.model, [replace(samples[0], points=half)], scheme)
    assert abs(face.offset) < 1
    assert np.isnan(face.nme)  # the corners of the eyes are unknown


def test_check_faces_maps_other_schemes(landmarker, small_300w):
    samples, scheme, _ = load_samples(small_300w, "afw", "aflw")
    faces = check_faces(landmarker.model, samples, scheme)
    assert all(face.prediction.shape == (19, 2) for face in faces)


def test_find_duplicates_finds_known_duplicates(shared):
    """LFPW has three faces in both of its parts."""
    root = shared / "data" / "300w"
    names = {f"lfpw/trainset/image_{n}" for n in ("0862", "0828", "0215")}
    training = load_samples(root, "lfpw")[0]
    training = [s for i, s in enumerate(training) if i % 8 == 0 or s.name in names]
    pairs = find_duplicates({"train": training, "test": load_samples(root, "common")[0]})
    assert {pair.first.removeprefix("train: ") for pair in pairs} == names


def test_data_check_reports_offsets_and_writes_a_page(small_300w, tmp_path, capsys):
    command = ["data", "check", str(small_300w), "--subset"]
    assert main([*command, "afw", "-o", str(tmp_path / "page")]) == 0
    text = capsys.readouterr().err
    assert "offset of the labels along x" in text
    assert (tmp_path / "page" / "index.html").stat().st_size > 1000
    assert main([*command, "train", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["faces"] == 12
    assert abs(summary["offsets"]["all"]["mean"]) < 1
    assert main([*command, "train", "--limit", "0"]) == 1


def test_data_check_finds_copies_of_test_faces(small_300w, tmp_path, capsys):
    root = tmp_path / "300w"
    shutil.copytree(small_300w, root)
    for suffix in (".png", ".pts"):
        copy = root / "lfpw" / "trainset" / f"copy{suffix}"
        shutil.copy(root / "lfpw" / "testset" / f"image_1_1{suffix}", copy)
    assert main(["data", "check", str(root), "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)["duplicates"]
    assert any("copy" in pair["first"] and "lfpw/testset/image_1_1" in pair["second"] for pair in pairs)
