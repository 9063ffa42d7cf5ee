"""Metrics by hand, evaluation on real faces, reports."""

import json
import shutil

import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError
from pipnet.evaluation.composites import HEIGHT, SCALES, WIDTH, composites
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import (
    area_under_curve,
    bootstrap_mean,
    cumulative_errors,
    failure_rate,
    norm_distance,
    point_errors,
)
from pipnet.geometry import CropConfig, crop, tight_box
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import read_image
from pipnet.scheme import LandmarkScheme

RULE = CropConfig(scale=1.1, square=False, clip=True)


def test_nme_by_hand():
    scheme = LandmarkScheme.load("300w")
    true = np.zeros((68, 2), np.float32)
    true[36], true[45] = (0, 0), (30, 40)
    predicted = true.copy()
    predicted[:34] += [3, 4]
    assert norm_distance(true, scheme) == 50
    assert point_errors(predicted, true, 50).mean() == pytest.approx(0.05)


def test_a_scheme_measured_by_the_box():
    scheme = LandmarkScheme.load("aflw")
    points = np.float32([[0, 0], [40, 90]] + [[1, 1]] * 17)
    assert norm_distance(points, scheme) == pytest.approx(60)
    assert norm_distance(points, scheme, np.float32([0, 0, 100, 100])) == pytest.approx(100)


def test_curves_by_hand():
    nmes = np.array([0.0, 0.05, 0.2])
    assert failure_rate(nmes) == pytest.approx(1 / 3)
    assert area_under_curve(nmes) == pytest.approx((1 + 0.5) / 3, abs=1e-3)
    errors, shares = cumulative_errors(nmes)
    assert (errors[-1], shares[0], shares[-1]) == (0.1, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert area_under_curve(np.zeros(3)) == pytest.approx(1)
    assert area_under_curve(np.ones(3)) == 0


def test_bootstrap_interval_covers_the_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = bootstrap_mean(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_a_perfect_model_has_no_error_in_either_frame(landmarker, small_300w):
    """The small collection is labeled by the model itself, from another crop."""
    samples, scheme, spec = load_samples(small_300w, "common")
    errors = evaluate(landmarker, decoded(samples), spec)
    summary = errors.summary(scheme)
    assert summary["faces"] == 8
    assert summary["missed"] == 0
    assert summary["pixels"]["nme"] < 3
    assert summary["official"]["nme"] < 3
    assert set(summary["pixels"]["regions"]) == set(scheme.regions)


def test_the_official_frame_is_the_stretched_square(landmarker, small_300w):
    """By hand: x and y as fractions of 1.1 x the tight box cut at the picture's border."""
    samples, scheme, spec = load_samples(small_300w, "afw")
    errors = evaluate(landmarker, decoded(samples), spec)
    sample, predicted = errors.samples[0], errors.predicted[0]
    x0, y0, x1, y1 = tight_box(sample.points).astype(float)
    margin = np.array([x1 - x0, y1 - y0]) * 0.05
    low = np.maximum([x0, y0] - margin, -0.5)
    high = np.minimum([x1, y1] + margin, [259.5, 229.5])
    p, t = (predicted - low) / (high - low), (sample.points - low) / (high - low)
    expected = np.linalg.norm(p - t, axis=1) / np.linalg.norm(t[36] - t[45])
    np.testing.assert_allclose(errors.official[0], expected, rtol=1e-4)


def test_a_missed_face_is_counted_and_no_error(landmarker, small_300w):
    samples, scheme, spec = load_samples(small_300w, "afw")
    blind = FaceLandmarker(landmarker.model, lambda _: [[0, 0, 20, 20]], box_format="landmarks")
    with pytest.raises(DataError, match="4 faces not found"):
        evaluate(blind, decoded(samples), spec, true_boxes=False)
    seen = []

    def sometimes(image):
        seen.append(1)
        return tight_box(samples[len(seen) - 1].points) if len(seen) != 2 else []

    half = FaceLandmarker(landmarker.model, sometimes, box_format="landmarks")
    errors = evaluate(half, decoded(samples), spec, true_boxes=False)
    assert [s.name for s in errors.missed] == [samples[1].name]
    assert errors.summary(scheme)["faces"] == 4
    assert len(errors.nmes) == 3
    assert errors.summary(scheme)["pixels"]["fr10"] == 25


def test_another_number_of_landmarks_is_refused(landmarker, shared):
    samples, _, spec = load_samples(shared / "data" / "wflw", "pose")
    with pytest.raises(DataError, match="98 landmarks, the model 68"):
        evaluate(landmarker, decoded(samples[:1]), spec)


def test_composites_are_real_faces_elsewhere(small_300w):
    samples, _, _ = load_samples(small_300w, "common")
    made = list(composites(samples, seed=3))
    again = list(composites(samples, seed=3))
    originals = [pair for pair in decoded(samples) for _ in SCALES]
    sizes = set()
    for (image, sample), (same, _), (source, original) in zip(made, again, originals, strict=True):
        assert image.shape == (HEIGHT, WIDTH, 3)
        np.testing.assert_array_equal(image, same)
        here, there = tight_box(sample.points), tight_box(original.points)
        ratio = (here[2] - here[0]) / (there[2] - there[0]) * 260 / HEIGHT
        sizes.add(min(SCALES, key=lambda scale: abs(scale - ratio)))
        pasted, plain = crop(image, here, 32).astype(int), crop(source, there, 32).astype(int)
        assert np.abs(pasted - plain).mean() < 12
    assert sizes == set(SCALES)
    assert len({sample.name for _, sample in made}) == len(made) == 3 * len(samples)


def test_the_command_prints_one_line_and_keeps_pictures(small_300w, tmp_path, capsys):
    arguments = ["evaluate", DEFAULT_MODEL, "--data", str(small_300w), "--subset", "full"]
    assert main([*arguments, "--json", "-o", str(tmp_path), "--detector", "auto"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    summary = json.loads(out)
    assert set(summary) == {"faces", "missed", "without_norm", "pixels", "official", "offset_removed"}
    keys = {"nme", "nme_ci", "fr10", "auc10", "median", "p95", "regions"}
    assert set(summary["pixels"]) == set(summary["official"]) == keys
    assert summary["faces"] == 12
    kept = json.loads((tmp_path / "evaluation.json").read_text())
    assert kept["pixels"] == summary["pixels"]
    assert len(kept["per_face"]) + len(kept["missed_faces"]) == 12
    for name in ("ced.png", "worst.jpg"):
        assert min(read_image(tmp_path / name).shape[:2]) > 200


def test_a_picture_that_cannot_be_read_is_named_and_the_rest_is_measured(small_300w, tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(small_300w / "afw", root)
    cut = sorted(root.glob("*.jpg"))[1]
    cut.write_bytes(cut.read_bytes()[:3000])
    for more in ([], ["--composites"]):
        assert main(["evaluate", DEFAULT_MODEL, "--data", str(root), "--json", *more]) == 1
        captured = capsys.readouterr()
        assert json.loads(captured.out)["faces"] == 3 * (3 if more else 1)
        assert captured.err.count(str(cut)) == 1


def test_what_the_output_needs_is_found_out_first(small_300w, tmp_path, capsys):
    (tmp_path / "file").touch()
    words = ["evaluate", DEFAULT_MODEL, "--data", str(small_300w), "-o", str(tmp_path / "file"), "--json"]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {tmp_path / 'file'}: cannot be made: File exists\n"


def test_the_command_shows_a_table(small_300w, capsys):
    arguments = ["evaluate", DEFAULT_MODEL, "--data", str(small_300w), "--composites"]
    assert main([*arguments, "--subset", "challenging"]) == 0
    text = capsys.readouterr().err
    assert "NME" in text
    assert "12 faces, 0 missed" in text


def test_evaluate_names_missing_subset(small_300w, tmp_path, capsys):
    data = tmp_path / "300w"
    shutil.copytree(small_300w, data)
    shutil.rmtree(data / "ibug")
    assert main(["evaluate", DEFAULT_MODEL, "--data", str(data), "--subset", "challenging"]) == 1
    assert "ibug" in capsys.readouterr().err
