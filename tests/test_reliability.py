"""Measures of confidence on data with known results."""

import runpy
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RELIABILITY = runpy.run_path(str(BENCHMARKS / "accuracy" / "confidence" / "reliability.py"))
ReliabilityData = RELIABILITY["ReliabilityData"]
auroc = RELIABILITY["auroc"]
bootstrap_interval = RELIABILITY["bootstrap_interval"]
calibration_error = RELIABILITY["calibration_error"]
draw_reliability = RELIABILITY["draw_reliability"]
gain_of_dropping = RELIABILITY["gain_of_dropping"]
risk_coverage = RELIABILITY["risk_coverage"]


def data_of(probability, wrong, errors=None):
    probability, wrong = np.atleast_2d(probability).astype(float), np.atleast_2d(wrong).astype(bool)
    errors = np.where(wrong, 0.1, 0.01) if errors is None else np.atleast_2d(errors).astype(float)
    return ReliabilityData(probability, probability, errors, wrong)


def test_auroc_is_the_share_of_correctly_ordered_pairs():
    rng = np.random.default_rng(0)
    probability, wrong = rng.integers(0, 10, 60) / 10, rng.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in probability[wrong] for b in probability[~wrong]]
    assert auroc(data_of(probability, wrong)) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(data_of(probability, np.zeros(60))))


def test_calibration_error_of_calibrated_and_other_probabilities():
    rng = np.random.default_rng(1)
    probability = rng.random((200, 68))
    calibrated = data_of(probability, rng.random(probability.shape) < probability)
    assert calibration_error(calibrated) < 0.02
    assert calibration_error(data_of(probability, np.zeros_like(probability))) == pytest.approx(0.5, abs=0.02)
    low, high = bootstrap_interval(calibrated, calibration_error, 50)
    assert 0 < low <= high < 0.03


def test_measures_ignore_unknown_landmarks():
    known = data_of([0.1, 0.9, 0.2], [0, 1, 0])
    with_unknown = data_of([0.1, 0.9, 0.2, 0.99], [0, 1, 0, 0], [0.01, 0.1, 0.01, np.nan])
    for measure in (auroc, calibration_error, gain_of_dropping):
        assert measure(known) == measure(with_unknown)


def test_risk_coverage_and_gain_of_dropping():
    data = data_of([0.5, 0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0, 0])
    np.testing.assert_allclose(risk_coverage(data), [0.01, 0.01, 0.01, 0.01, 0.028])
    assert gain_of_dropping(data) == pytest.approx(1 - 0.01 / 0.028)


def test_draw_reliability_writes_a_figure(tmp_path):
    rng = np.random.default_rng(2)
    probability = rng.random((20, 5))
    draw_reliability(
        {"some faces": data_of(probability, rng.random((20, 5)) < probability)}, tmp_path / "a.png"
    )
    assert (tmp_path / "a.png").stat().st_size > 5000
