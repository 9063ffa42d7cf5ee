"""Known label offsets: read with the dataset, removed for training, reported apart in evaluations."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.annotations.samples import without_label_offset
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import read_image, write_image
from pipnet.training.recipe import load_recipe
from pipnet.training.split import load_split


@pytest.mark.parametrize(
    ("subset", "offsets"), [("afw", {2.3}), ("lfpw", {1.8}), ("helen", {2.4}), ("challenging", {2.3})]
)
def test_load_samples_sets_the_label_offset_of_300w(small_300w, subset, offsets):
    samples, _, _ = load_samples(small_300w, subset)
    assert {sample.label_offset[0] for sample in samples} == offsets
    assert {sample.label_offset[1] for sample in samples} == {0}


def test_load_samples_sets_the_label_offset_of_reduced_helen_crops(small_300w, tmp_path):
    sample = load_samples(small_300w, "helen")[0][0]
    folder = tmp_path / "helen" / "trainset"
    folder.mkdir(parents=True)
    write_image(folder / "face.jpg", np.zeros((448, 448, 3), np.uint8))
    (folder / "face.pts").write_text(sample.image.with_suffix(".pts").read_text())
    assert load_samples(tmp_path, "helen")[0][0].label_offset == (1.4, 0)


def test_load_samples_keeps_the_label_offset_in_mapped_schemes(small_300w):
    mapped = load_samples(small_300w, "afw", "aflw")[0][0]
    assert mapped.label_offset == (2.3, 0)


def test_without_label_offset_moves_points_once(small_300w):
    sample = load_samples(small_300w, "afw")[0][0]
    moved = without_label_offset(sample)
    np.testing.assert_allclose(sample.points - moved.points, np.tile([2.3, 0], (68, 1)), atol=1e-4)
    assert without_label_offset(moved) is moved


@pytest.mark.parametrize(("offset", "expected"), [(None, 2.3), ((0.0, 0.0), 0.0), ((1.0, 1.0), 1.0)])
def test_load_split_removes_the_label_offset(small_300w, tmp_path, offset, expected):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim: {batch_size: 2}\ndata: {subset: afw, validation: 0.3}")
    flags = ["--data.root", str(small_300w)]
    if offset is not None:
        flags += ["--data.label-offset", *(str(value) for value in offset)]
    faces = load_split(load_recipe(recipe, flags))
    filed = {sample.name: sample for sample in load_samples(small_300w, "afw")[0]}
    for sample in (*faces.training, *faces.validation):
        assert filed[sample.name].points[0, 0] - sample.points[0, 0] == pytest.approx(expected, abs=1e-3)


def test_load_split_removes_the_label_offset_of_further_datasets(small_300w, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim: {batch_size: 2}\ndata: {subset: afw, validation: 0}")
    flags = ["--data.root", str(small_300w), "--data.also", str(small_300w)]
    filed = {sample.name: sample for sample in load_samples(small_300w, "train")[0]}
    for more, expected in (([], {2.3, 2.4, 1.8}), (["--data.label-offset", "0", "0"], {0.0})):
        faces = load_split(load_recipe(recipe, [*flags, *more]))
        moved = {
            round(float(filed[s.name.removeprefix("300-W/")].points[0, 0] - s.points[0, 0]), 2)
            for s in faces.training
        }
        assert moved == expected


def test_evaluate_reports_labels_as_filed_and_offset_removed(landmarker, small_300w):
    """The predictions are equal: labels without their offset have the same error in both columns."""
    samples, scheme, spec = load_samples(small_300w, "afw")
    errors = evaluate(landmarker, decoded(samples), spec)
    moved = [replace(sample, label_offset=(0.0, 0.0)) for sample in samples]
    filed = evaluate(landmarker, decoded(moved), spec)
    np.testing.assert_array_equal(errors.pixels, filed.pixels)
    np.testing.assert_array_equal(filed.pixels, filed.offset_removed)
    expected = [
        np.linalg.norm(points - sample.points + [2.3, 0], axis=1)
        for points, sample in zip(errors.predicted, samples, strict=True)
    ]
    units = [np.linalg.norm(sample.points[36] - sample.points[45]) for sample in samples]
    np.testing.assert_allclose(
        errors.offset_removed, np.array(expected) / np.array(units)[:, None], rtol=1e-3
    )


def test_evaluate_accepts_the_offset_of_own_labels(landmarker, portrait, tmp_path, capsys):
    """Labels that count from 1 are off by one pixel, which the second column removes."""
    image = read_image(portrait)
    sample = replace(
        load_sample(landmarker, portrait), points=(landmarker(image)[0].points + 1).astype(np.float32)
    )
    write_annotations(
        tmp_path / "labels.csv", Annotations([sample], landmarker.model.metadata.scheme.landmark_names)
    )
    command = ["evaluate", DEFAULT_MODEL, "--data", str(tmp_path / "labels.csv"), "--json"]
    assert main([*command, "--label-offset", "1", "1"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["offset_removed"]["nme"] < summary["pixels"]["nme"]
    with pytest.raises(DataError, match="finite"):
        load_samples(tmp_path / "labels.csv", None, "300w", label_offset=(float("nan"), 0))


def load_sample(landmarker, portrait):
    from pipnet.annotations.samples import FaceSample

    return FaceSample(portrait, landmarker(portrait)[0].points, "portrait", "portrait")
