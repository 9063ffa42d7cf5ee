"""Confidence: fitted on labeled faces, stored with the weights, NaN without a calibration."""

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
from pipnet.model.torch_model import TorchModel
from pipnet.training.calibrate import calibrate, observe

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "checkpoints" / "pipnet-tiny.safetensors"
FEATURES = len(features(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((2, 2))))


class RandomModel:
    """A model with random errors; its ``vote_std`` is their standard deviation."""

    def __init__(self, metadata):
        self.metadata, self.rng = metadata, np.random.default_rng(0)

    def __call__(self, crops):
        shape = (len(crops), self.metadata.scheme.landmarks)
        vote_std = self.rng.uniform(0.002, 0.06, shape).astype(np.float32)
        errors = self.rng.normal(0, 1, (*shape, 2)) * vote_std[..., None]
        points = np.tile(self.metadata.mean_face, (len(crops), 1, 1)) + errors
        return CropLandmarks(points.astype(np.float32), np.full(shape, 0.5, np.float32), vote_std)


def with_metadata(model, **changes):
    """Return the same model with other metadata."""

    class SameModel:
        metadata = replace(model.metadata, **changes)

        def __call__(self, crops):
            return model(crops)

    return SameModel()


# -- fitting -------------------------------------------------------------------------------------------


def test_calibrate_gives_calibrated_probabilities(landmarker, monkeypatch):
    """Of landmarks that are wrong with a probability of p, a fraction of p is wrong."""
    metadata = landmarker.metadata
    model = RandomModel(metadata)

    def observe_mean_faces(model, *_):
        prediction = model(np.zeros((400, 8, 8, 3), np.uint8))
        size = np.ptp(metadata.mean_face, axis=0).max()
        errors = np.linalg.norm(prediction.points - metadata.mean_face, axis=2) / size
        return prediction.scores, prediction.vote_std, errors

    monkeypatch.setattr("pipnet.training.calibrate.observe", observe_mean_faces)
    calibration = calibrate(model, [], domain_shift=0)
    scores, vote_std, errors = observe_mean_faces(model)
    probability = calibration.estimate(scores, vote_std, metadata.mean_face).probability
    wrong = errors > MAX_ERROR
    for low in np.arange(0.05, 0.75, 0.1):
        chosen = (probability >= low) & (probability < low + 0.1)
        assert abs(wrong[chosen].mean() - probability[chosen].mean()) < 0.05
    expected = calibration.estimate(scores, vote_std, metadata.mean_face).expected
    assert expected.mean() == pytest.approx(errors.mean(), rel=0.05)
    assert np.corrcoef(expected.ravel(), vote_std.ravel())[0, 1] > 0.9


def test_calibrate_on_real_faces(small_300w, landmarker):
    samples, _, _ = load_samples(small_300w, "full")
    scores, vote_std, errors = observe(landmarker.model, samples[:4], 5, 0)
    assert scores.shape == vote_std.shape == errors.shape == (20, 68)
    assert np.nanmean(errors[::5]) < 0.04  # the unchanged faces
    harder = np.delete(np.arange(20), np.s_[::5])
    assert np.nanmean(errors[harder]) > np.nanmean(errors[::5])
    calibration = calibrate(landmarker.model, samples[:4])
    assert calibration.is_valid(68)
    probability = calibration.estimate(scores, vote_std, landmarker.metadata.mean_face).probability
    known = np.isfinite(errors)
    wrong = errors > MAX_ERROR
    assert probability[known & wrong].mean() > probability[known & ~wrong].mean()
    assert calibrate(landmarker.model, samples[:4]) == calibration  # the same seed
    with pytest.raises(DataError, match="no faces"):
        calibrate(landmarker.model, [])


def test_observe_measures_stretched_crops_in_units_of_the_face(small_300w, landmarker):
    samples, _, _ = load_samples(small_300w, "full")
    stretched = with_metadata(landmarker.model, crop=replace(landmarker.metadata.crop, square=False))
    _, _, errors = observe(stretched, samples[:4], 1, 0)
    for sample, observed in zip(samples[:4], errors, strict=True):
        box = tight_box(sample.points)
        points = FaceLandmarker(stretched)(sample.image, boxes=box, box_format="landmarks")[0].points
        expected = np.linalg.norm(points - sample.points, axis=1) / (box[2:] - box[:2]).max()
        known = np.isfinite(observed)
        np.testing.assert_allclose(observed[known], expected[known], atol=2e-3)


def test_domain_shift_lowers_high_confidence(landmarker, monkeypatch):
    model = RandomModel(landmarker.metadata)
    rng = np.random.default_rng(1)
    vote_std = rng.uniform(0.002, 0.06, (100, 68)).astype(np.float32)
    scores = np.full_like(vote_std, 0.5)
    errors = np.abs(rng.normal(0, 1, vote_std.shape)) * vote_std
    monkeypatch.setattr("pipnet.training.calibrate.observe", lambda *_: (scores, vote_std, errors))
    same, half, other = (
        calibrate(model, [], domain_shift=shift)
        .estimate(scores, vote_std, model.metadata.mean_face)
        .probability
        for shift in (0, 0.5, 1)
    )
    log_odds = np.log(same / (1 - same))
    np.testing.assert_allclose(np.log(other / (1 - other)), 0.75 * log_odds + 0.25, atol=1e-3)
    confident = same < 0.2
    assert (same[confident] < half[confident]).all()
    assert (half[confident] < other[confident]).all()


def test_calibrate_command_changes_the_calibration_alone(small_300w, tmp_path, capsys):
    checkpoint = tmp_path / "model.safetensors"
    shutil.copy(CHECKPOINT, checkpoint)
    command = ["calibrate", str(checkpoint), "--data", str(small_300w), "--share", "1"]
    assert main(command) == 0
    assert "calibrated on" in capsys.readouterr().err
    network, metadata = load_checkpoint(checkpoint)
    assert metadata.calibration.is_valid(68)
    before, _ = load_checkpoint(CHECKPOINT)
    for key, value in before.state_dict().items():
        np.testing.assert_array_equal(network.state_dict()[key], value)
    assert TorchModel(network, metadata).metadata.calibration is not None
    assert main([*command[:-1], "2"]) == 1
    assert "--share" in capsys.readouterr().err
    assert main([*command, "--domain-shift", "2"]) == 1
    assert "--domain-shift" in capsys.readouterr().err


# -- features and coefficients -------------------------------------------------------------------------


def test_features_describe_the_nearest_landmarks_and_the_face(landmarker):
    mean_face = landmarker.metadata.mean_face
    scores = np.full((3, 68), 0.8, np.float32)
    scores[1, 1:] = 0.3
    nearest = np.linalg.norm(mean_face - mean_face[0], axis=1).argsort()
    scores[2, nearest[1:10]] = 0.3
    values = features(scores, np.full_like(scores, 0.01), mean_face)
    assert values.shape == (8, 3, 68)
    np.testing.assert_allclose(values[:4, :, 0], values[:4, :1, 0].repeat(3, axis=1))
    np.testing.assert_allclose(values[4, :, 0], [0.8, 0.35, 0.35], rtol=1e-6)
    face_means = [0.8, (0.8 + 67 * 0.3) / 68, (59 * 0.8 + 9 * 0.3) / 68]
    np.testing.assert_allclose(values[6, :, 0], face_means, rtol=1e-6)


def test_calibration_of_four_features_keeps_its_meaning(landmarker):
    """Earlier models have no features of other landmarks."""
    metadata = landmarker.metadata
    rng = np.random.default_rng(3)
    slopes, constants = rng.normal(0, 1, 4), rng.normal(-2, 1, 68)
    calibration = Calibration((*slopes, *constants), (*slopes, *constants))
    assert calibration.is_valid(68)
    scores = rng.uniform(0, 1, (2, 68)).astype(np.float32)
    vote_std = rng.uniform(0.001, 0.1, (2, 68)).astype(np.float32)
    log_std = np.log(vote_std)
    log_odds = slopes @ np.stack([scores, log_std, log_std**2, scores * log_std]).reshape(4, -1)
    log_odds = log_odds.reshape(2, 68) + constants
    probability = calibration.estimate(scores, vote_std, metadata.mean_face).probability
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-log_odds)), rtol=1e-4)


# -- results and metadata ------------------------------------------------------------------------------


def test_uncalibrated_result_is_nan_in_arrays_and_none_in_json(landmarker, portrait):
    faces = FaceLandmarker(with_metadata(landmarker.model, calibration=None))(portrait)
    assert np.isnan(faces.confidence).all()
    assert np.isnan(faces.expected_error).all()
    assert np.isnan(faces.quality).all()
    face = faces.to_dict()["faces"][0]
    assert face["confidence"] is face["expected_error"] is face["quality"] is None


def test_calibrated_result_has_confidence(landmarker, portrait):
    slopes = (0.0,) * FEATURES
    calibration = Calibration(slopes + (-2.0,) * 68, slopes + (np.log(0.01),) * 68)
    faces = FaceLandmarker(with_metadata(landmarker.model, calibration=calibration))(portrait)
    confidence = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(faces.confidence, np.full((1, 68), confidence), rtol=1e-5)
    np.testing.assert_allclose(faces.expected_error, np.full((1, 68), 0.01), rtol=1e-5)
    np.testing.assert_allclose(faces[0].confidence, faces.confidence[0])
    np.testing.assert_allclose(faces[0].expected_error, faces.expected_error[0])
    assert faces[:1].quality[0] == pytest.approx(confidence, rel=1e-5)
    face = faces.to_dict()["faces"][0]
    assert face["confidence"] == [round(confidence, 4)] * 68
    assert face["expected_error"] == [0.01] * 68
    assert faces[:0].confidence.shape == (0, 68)


def test_metadata_stores_the_calibration_and_refuses_a_malformed_one(landmarker):
    metadata = landmarker.metadata
    calibration = Calibration((0.5,) * (FEATURES + 68), (0.25,) * (FEATURES + 68))
    loaded = ModelMetadata.from_json(replace(metadata, calibration=calibration).to_json(), "x")
    assert loaded.calibration == calibration
    table = json.loads(loaded.to_json())
    del table["calibration"]  # earlier files have none
    assert ModelMetadata.from_json(json.dumps(table), "x").calibration is None
    too_few = [0.5] * (FEATURES - 1 + 68)
    for malformed in (
        {"wrong": too_few, "error": too_few},
        {"wrong": [1.0], "error": [1.0]},
        {"wrong": 3},
        {"wrong": ["a"], "error": []},
    ):
        with pytest.raises(ModelError, match="x: malformed metadata"):
            ModelMetadata.from_json(json.dumps({**table, "calibration": malformed}), "x")
