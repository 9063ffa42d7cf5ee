"""Metrics with known results, evaluation of real faces, reports."""

import json
import shutil

import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError
from pipnet.evaluation.composite_images import HEIGHT, SCALES, WIDTH, composites
from pipnet.evaluation.contact_sheet import with_caption
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import (
    area_under_curve,
    bootstrap_mean,
    cumulative_errors,
    failure_rate,
    norm_distance,
    point_errors,
)
from pipnet.geometry import tight_box
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import read_image
from pipnet.scheme import LandmarkScheme
from pipnet.warp import crop

pytestmark = pytest.mark.usefixtures("loaded_once")


def test_point_errors_and_norm_distance_of_eye_corners():
    scheme = LandmarkScheme.load("300w")
    true = np.zeros((68, 2), np.float32)
    true[36], true[45] = (0, 0), (30, 40)
    predicted = true.copy()
    predicted[:34] += [3, 4]
    assert norm_distance(true, scheme) == 50
    assert point_errors(predicted, true, 50).mean() == pytest.approx(0.05)


def test_norm_distance_of_boxes():
    scheme = LandmarkScheme.load("aflw")
    points = np.float32([[0, 0], [40, 90]] + [[1, 1]] * 17)
    assert norm_distance(points, scheme) == pytest.approx(60)
    assert norm_distance(points, scheme, np.float32([0, 0, 100, 100])) == pytest.approx(100)


def test_failure_rate_and_curves_have_known_values():
    nmes = np.array([0.0, 0.05, 0.2])
    assert failure_rate(nmes) == pytest.approx(1 / 3)
    assert area_under_curve(nmes) == pytest.approx((1 + 0.5) / 3, abs=1e-3)
    errors, fractions = cumulative_errors(nmes)
    assert (errors[-1], fractions[0], fractions[-1]) == (0.1, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert area_under_curve(np.zeros(3)) == pytest.approx(1)
    assert area_under_curve(np.ones(3)) == 0


def test_bootstrap_mean_interval_contains_the_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = bootstrap_mean(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_evaluate_small_errors_in_both_frames(landmarker, small_300w):
    """The small dataset is labeled by the model itself, from another crop."""
    samples, scheme, spec = load_samples(small_300w, "common")
    errors = evaluate(landmarker, decoded(samples), spec)
    summary = errors.summary(scheme)
    assert summary["faces"] == 8
    assert summary["missed"] == 0
    assert summary["pixels"]["nme"] < 3
    assert summary["official"]["nme"] < 3
    assert set(summary["pixels"]["regions"]) == set(scheme.regions)


def test_evaluate_official_frame_is_the_stretched_square(landmarker, small_300w):
    """x and y are fractions of 1.1 times the tight box, clipped at the image border."""
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


def test_evaluate_counts_missed_faces_as_failures(landmarker, small_300w):
    samples, scheme, spec = load_samples(small_300w, "afw")
    wrong_boxes = FaceLandmarker(landmarker.model, lambda _: [[0, 0, 20, 20]], box_format="landmarks")
    with pytest.raises(DataError, match="4 faces missed"):
        evaluate(wrong_boxes, decoded(samples), spec, true_boxes=False)
    calls = []

    def missing_the_second(image):
        calls.append(1)
        return tight_box(samples[len(calls) - 1].points) if len(calls) != 2 else []

    partial = FaceLandmarker(landmarker.model, missing_the_second, box_format="landmarks")
    errors = evaluate(partial, decoded(samples), spec, true_boxes=False)
    assert [s.name for s in errors.missed] == [samples[1].name]
    assert errors.summary(scheme)["faces"] == 4
    assert len(errors.nmes) == 3
    assert errors.summary(scheme)["pixels"]["fr10"] == 25


def test_evaluate_refuses_another_number_of_landmarks(landmarker, shared):
    samples, _, spec = load_samples(shared / "data" / "wflw", "pose")
    with pytest.raises(DataError, match="98 landmarks, the model 68"):
        evaluate(landmarker, decoded(samples[:1]), spec)


def test_composites_paste_the_faces_with_their_landmarks(small_300w):
    samples = load_samples(small_300w, "common")[0][:3]
    pairs = list(composites(samples, seed=3))
    repeated = list(composites(samples, seed=3))
    originals = [pair for pair in decoded(samples) for _ in SCALES]
    sizes = set()
    for (image, sample), (same, _), (source, original) in zip(pairs, repeated, originals, strict=True):
        assert image.shape == (HEIGHT, WIDTH, 3)
        np.testing.assert_array_equal(image, same)
        box, original_box = tight_box(sample.points), tight_box(original.points)
        ratio = (box[2] - box[0]) / (original_box[2] - original_box[0]) * 260 / HEIGHT
        sizes.add(min(SCALES, key=lambda scale: abs(scale - ratio)))
        face, original_face = crop(image, box, 32).astype(int), crop(source, original_box, 32).astype(int)
        assert np.abs(face - original_face).mean() < 12
        offset, expected = sample.label_offset[0], original.label_offset[0] * ratio * HEIGHT / 260
        assert offset == pytest.approx(expected, rel=0.1)
    assert sizes == set(SCALES)
    assert len({sample.name for _, sample in pairs}) == len(pairs) == 3 * len(samples)


def test_evaluate_command_prints_one_line_and_writes_the_record_and_images(small_300w, tmp_path, capsys):
    arguments = ["evaluate", DEFAULT_MODEL, "--data", str(small_300w), "--subset", "challenging"]
    assert main([*arguments, "--json", "-o", str(tmp_path), "--detector", "pipnet-face"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    summary = json.loads(out)
    frames = {"pixels", "official", "offset_removed"}
    assert set(summary) == {"faces", "missed", "without_norm", "peers"} | frames
    keys = {"nme", "nme_ci", "fr10", "auc10", "median", "p95", "regions"}
    assert set(summary["pixels"]) == set(summary["official"]) == keys
    assert summary["faces"] == 4
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["pixels"] == summary["pixels"]
    assert len(record["per_face"]) + len(record["missed_faces"]) == 4
    for name in ("ced.png", "worst.jpg"):
        assert min(read_image(tmp_path / name).shape[:2]) > 200


def test_evaluate_command_reports_unreadable_images_and_measures_the_others(small_300w, tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(small_300w / "afw", root, ignore=shutil.ignore_patterns("*_3_1.*"))
    cut = sorted(root.glob("*.jpg"))[1]
    cut.write_bytes(cut.read_bytes()[:3000])
    for more in ([], ["--composites"]):
        assert main(["evaluate", DEFAULT_MODEL, "--data", str(root), "--json", *more]) == 1
        captured = capsys.readouterr()
        summary = json.loads(captured.out)
        assert (summary["faces"], summary["missed"]) == (2 * (3 if more else 1), 0)
        assert captured.err.count(str(cut)) == 1


def test_evaluate_command_checks_the_output_folder_first(small_300w, tmp_path, capsys):
    (tmp_path / "file").touch()
    command = ["evaluate", DEFAULT_MODEL, "--data", str(small_300w), "-o", str(tmp_path / "file"), "--json"]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {tmp_path / 'file'}: cannot be made: File exists\n"


def test_evaluate_command_prints_a_table(small_300w, capsys):
    arguments = ["evaluate", DEFAULT_MODEL, "--data", str(small_300w)]
    assert main([*arguments, "--subset", "challenging"]) == 0
    text = capsys.readouterr().err
    assert "NME" in text
    assert "4 faces, 0 missed" in text


def test_evaluate_command_names_a_missing_subset(small_300w, tmp_path, capsys):
    data = tmp_path / "300w"
    shutil.copytree(small_300w, data)
    shutil.rmtree(data / "ibug")
    assert main(["evaluate", DEFAULT_MODEL, "--data", str(data), "--subset", "challenging"]) == 1
    assert "ibug" in capsys.readouterr().err


def test_with_caption_keeps_the_end_of_a_long_text():
    tile = np.full((50, 200, 3), 128, np.uint8)
    short, long, longer = (with_caption(tile, text) for text in ("NME 3 %", "a" * 90 + "z", "a" * 99 + "z"))
    assert short.shape == long.shape
    assert short.shape[0] > 50
    np.testing.assert_array_equal(short[:50], tile)
    assert short[50:].any()
    np.testing.assert_array_equal(long, longer)
