"""Measures of confidence, on numbers whose answers are known."""

import numpy as np
import pytest

from pipnet.evaluation.reliability import (
    Judged,
    auroc,
    calibration_error,
    draw_reliability,
    gain_of_dropping,
    interval,
    risk_coverage,
)


def judged(chance, wrong, errors=None):
    chance, wrong = np.atleast_2d(chance).astype(float), np.atleast_2d(wrong).astype(bool)
    errors = np.where(wrong, 0.1, 0.01) if errors is None else np.atleast_2d(errors).astype(float)
    return Judged(chance, chance, errors, wrong)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    chance, wrong = rng.integers(0, 10, 60) / 10, rng.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in chance[wrong] for b in chance[~wrong]]
    assert auroc(judged(chance, wrong)) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(judged(chance, np.zeros(60))))


def test_said_and_come():
    rng = np.random.default_rng(1)
    chance = rng.random((200, 68))
    honest = judged(chance, rng.random(chance.shape) < chance)
    assert calibration_error(honest) < 0.02
    assert calibration_error(judged(chance, np.zeros_like(chance))) == pytest.approx(0.5, abs=0.02)
    low, high = interval(honest, calibration_error, 50)
    assert 0 < low <= high < 0.03


def test_unknown_landmarks_do_not_count():
    known = judged([0.1, 0.9, 0.2], [0, 1, 0])
    more = judged([0.1, 0.9, 0.2, 0.99], [0, 1, 0, 0], [0.01, 0.1, 0.01, np.nan])
    for measure in (auroc, calibration_error, gain_of_dropping):
        assert measure(known) == measure(more)


def test_leaving_out_the_least_sure():
    one = judged([0.5, 0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0, 0])
    np.testing.assert_allclose(risk_coverage(one), [0.01, 0.01, 0.01, 0.01, 0.028])
    assert gain_of_dropping(one) == pytest.approx(1 - 0.01 / 0.028)


def test_the_figure(tmp_path):
    rng = np.random.default_rng(2)
    chance = rng.random((20, 5))
    draw_reliability({"some faces": judged(chance, rng.random((20, 5)) < chance)}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
