"""Confidence: fitted where the truth is known, carried with the weights, honest where nobody measured."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.confidence import MAX_ERROR, Calibration, features
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ModelError
from pipnet.geometry import tight_box
from pipnet.inference.backends.base import CropLandmarks
from pipnet.metadata import ModelMetadata
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.predictor import TorchModel
from pipnet.training.calibrate import calibrate, observe

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "checkpoints" / "pipnet-300w-mbv2.safetensors"


class Doubter:
    """A model that errs at random, and whose spread says by how much on the mean."""

    def __init__(self, metadata):
        self.metadata, self.rng = metadata, np.random.default_rng(0)
        self.truth = None

    def __call__(self, crops):
        shape = (len(crops), self.metadata.scheme.landmarks)
        vote_std = self.rng.uniform(0.002, 0.06, shape).astype(np.float32)
        away = self.rng.normal(0, 1, (*shape, 2)) * vote_std[..., None]
        points = np.tile(self.metadata.mean_face, (len(crops), 1, 1)) + away
        return CropLandmarks(points.astype(np.float32), np.full(shape, 0.5, np.float32), vote_std)


def test_chances_are_chances(landmarker, monkeypatch):
    """Of landmarks said to be wrong with a chance of p, a share of p is."""
    metadata = landmarker.model.metadata
    model = Doubter(metadata)

    def on_mean_faces(model, samples, looks, seed):
        found = model(np.zeros((400, 8, 8, 3), np.uint8))
        size = np.ptp(metadata.mean_face, axis=0).max()
        return found.scores, found.vote_std, np.linalg.norm(found.points - metadata.mean_face, axis=2) / size

    monkeypatch.setattr("pipnet.training.calibrate.observe", on_mean_faces)
    calibration = calibrate(model, [], elsewhere=0)
    scores, vote_std, errors = on_mean_faces(model, [], 1, 0)
    chance, wrong = calibration.error_probability(scores, vote_std, metadata.mean_face), errors > MAX_ERROR
    for low in np.arange(0.05, 0.75, 0.1):
        chosen = (chance >= low) & (chance < low + 0.1)
        assert abs(wrong[chosen].mean() - chance[chosen].mean()) < 0.05
    expected = calibration.expected_error(scores, vote_std, metadata.mean_face)
    assert expected.mean() == pytest.approx(errors.mean(), rel=0.05)
    assert np.corrcoef(expected.ravel(), vote_std.ravel())[0, 1] > 0.9


def test_real_faces_seen_several_times(small_300w, landmarker):
    samples, _, _ = load_samples(small_300w, "full")
    scores, vote_std, errors = observe(landmarker.model, samples[:4], looks=5, seed=0)
    assert scores.shape == vote_std.shape == errors.shape == (20, 68)
    assert np.nanmean(errors[::5]) < 0.04  # as they are
    harder = np.delete(np.arange(20), np.s_[::5])
    assert np.nanmean(errors[harder]) > np.nanmean(errors[::5])
    calibration = calibrate(landmarker.model, samples)
    assert calibration.is_valid(68)
    chance = calibration.error_probability(scores, vote_std, landmarker.model.metadata.mean_face)
    known = np.isfinite(errors)
    wrong = errors > MAX_ERROR
    assert chance[known & wrong].mean() > chance[known & ~wrong].mean()
    assert calibrate(landmarker.model, samples) == calibration  # by the seed
    with pytest.raises(DataError, match="no faces"):
        calibrate(landmarker.model, [])


def test_errors_of_stretched_crops_are_those_of_the_face(small_300w, landmarker):
    samples, _, _ = load_samples(small_300w, "full")
    metadata = replace(landmarker.model.metadata, crop=replace(landmarker.model.metadata.crop, square=False))

    class Stretched:
        def __init__(self):
            self.metadata = metadata

        def __call__(self, crops):
            return landmarker.model(crops)

    _, _, errors = observe(Stretched(), samples[:4], looks=1, seed=0)
    for sample, row in zip(samples[:4], errors, strict=True):
        box = tight_box(sample.points)
        found = FaceLandmarker(Stretched())(sample.image, boxes=box, box_format="landmarks")[0].points
        away = np.linalg.norm(found - sample.points, axis=1) / (box[2:] - box[:2]).max()
        np.testing.assert_allclose(row[np.isfinite(row)], away[np.isfinite(row)], atol=2e-3)


def test_elsewhere_what_is_sure_is_wrong_more_often(landmarker, monkeypatch):
    model = Doubter(landmarker.model.metadata)
    rng = np.random.default_rng(1)
    vote_std = rng.uniform(0.002, 0.06, (100, 68)).astype(np.float32)
    seen = np.full_like(vote_std, 0.5), vote_std, np.abs(rng.normal(0, 1, vote_std.shape)) * vote_std
    monkeypatch.setattr("pipnet.training.calibrate.observe", lambda *_: seen)
    mean_face = model.metadata.mean_face
    same, half, other = (
        calibrate(model, [], elsewhere=share).error_probability(*seen[:2], mean_face) for share in (0, 0.5, 1)
    )
    odds = np.log(same / (1 - same))
    np.testing.assert_allclose(np.log(other / (1 - other)), 0.75 * odds + 0.25, atol=1e-3)
    sure = same < 0.2
    assert (same[sure] < half[sure]).all()
    assert (half[sure] < other[sure]).all()


def test_terms_tell_of_those_around_and_of_the_whole_face(landmarker):
    mean_face = landmarker.model.metadata.mean_face
    scores = np.full((3, 68), 0.8, np.float32)
    scores[1, 1:] = 0.3
    near = np.linalg.norm(mean_face - mean_face[0], axis=1).argsort()
    scores[2, near[1:10]] = 0.3
    of_terms = features(scores, np.full_like(scores, 0.01), mean_face)
    assert of_terms.shape == (8, 3, 68)
    np.testing.assert_allclose(of_terms[:4, :, 0], of_terms[:4, :1, 0].repeat(3, axis=1))
    np.testing.assert_allclose(of_terms[4, :, 0], [0.8, 0.35, 0.35], rtol=1e-6)
    np.testing.assert_allclose(
        of_terms[6, :, 0], [0.8, (0.8 + 67 * 0.3) / 68, (59 * 0.8 + 9 * 0.3) / 68], rtol=1e-6
    )


def test_older_calibrations_have_fewer_terms(landmarker):
    """They say what they said."""
    metadata = landmarker.model.metadata
    rng = np.random.default_rng(3)
    slopes, constants = rng.normal(0, 1, 4), rng.normal(-2, 1, 68)
    older = Calibration((*slopes, *constants), (*slopes, *constants))
    assert older.is_valid(68)
    scores = rng.uniform(0, 1, (2, 68)).astype(np.float32)
    vote_std = rng.uniform(0.001, 0.1, (2, 68)).astype(np.float32)
    amount = np.log(vote_std)
    said = slopes @ np.stack([scores, amount, amount**2, scores * amount]).reshape(4, -1)
    odds = said.reshape(2, 68) + constants
    chance = older.error_probability(scores, vote_std, metadata.mean_face)
    np.testing.assert_allclose(chance, 1 / (1 + np.exp(-odds)), rtol=1e-4)


def test_nobody_measured(landmarker, portrait):
    plain = FaceLandmarker(_with(landmarker.model, None))(portrait)
    assert np.isnan(plain.confidence).all()
    assert np.isnan(plain.expected_error).all()
    assert np.isnan(plain.quality).all()
    assert "confidence" not in plain.to_dict()["faces"][0]


def test_results_carry_it(landmarker, portrait):
    count = _terms()
    calibration = Calibration((0.0,) * count + (-2.0,) * 68, (0.0,) * count + (np.log(0.01),) * 68)
    faces = FaceLandmarker(_with(landmarker.model, calibration))(portrait)
    right = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(faces.confidence, np.full((1, 68), right), rtol=1e-5)
    np.testing.assert_allclose(faces.expected_error, np.full((1, 68), 0.01), rtol=1e-5)
    np.testing.assert_allclose(faces[0].confidence, faces.confidence[0])
    assert faces[:1].quality[0] == pytest.approx(right, rel=1e-5)
    assert faces.to_dict()["faces"][0]["confidence"] == [round(right, 4)] * 68
    assert faces[:0].confidence.shape == (0, 68)


def test_it_travels_with_the_description_and_must_be_sound(landmarker):
    metadata = landmarker.model.metadata
    count = _terms()
    calibration = Calibration((0.5,) * (count + 68), (0.25,) * (count + 68))
    there = ModelMetadata.from_json(replace(metadata, calibration=calibration).to_json(), "x")
    assert there.calibration == calibration
    table = json.loads(there.to_json())
    del table["calibration"]  # as older files are
    assert ModelMetadata.from_json(json.dumps(table), "x").calibration is None
    several = [0.5] * (count - 1 + 68)
    for bad in (
        {"wrong": several, "error": several},
        {"wrong": [1.0], "error": [1.0]},
        {"wrong": 3},
        {"wrong": ["a"], "error": []},
    ):
        with pytest.raises(ModelError, match="its description is damaged"):
            ModelMetadata.from_json(json.dumps({**table, "calibration": bad}), "x")


def test_on_the_command_line(small_300w, tmp_path, capsys):
    checkpoint = tmp_path / "model.safetensors"
    shutil.copy(SHIPPED, checkpoint)
    words = ["calibrate", str(checkpoint), "--data", str(small_300w), "--share", "1"]
    assert main(words) == 0
    assert "calibrated on" in capsys.readouterr().err
    network, metadata = load_checkpoint(checkpoint)
    assert metadata.calibration.is_valid(68)
    before, _ = load_checkpoint(SHIPPED)
    for key, value in before.state_dict().items():
        np.testing.assert_array_equal(network.state_dict()[key], value)
    assert TorchModel(network, metadata).metadata.calibration is not None
    assert main([*words[:-1], "2"]) == 1
    assert "--share is above 0 and at most 1" in capsys.readouterr().err
    assert main([*words, "--elsewhere", "2"]) == 1
    assert "--elsewhere is 0 to 1" in capsys.readouterr().err


def _terms():
    """How many there are."""
    return len(features(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((2, 2))))


def _with(model, calibration):
    class Same:
        metadata = replace(model.metadata, calibration=calibration)

        def __call__(self, crops):
            return model(crops)

    return Same()
