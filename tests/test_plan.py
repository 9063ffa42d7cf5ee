"""The simulation behind docs/scale.md, against closed-form results."""

import runpy
from pathlib import Path

import numpy as np
import pytest

PLAN = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "simulated" / "cluster" / "run.py"))
CALM = PLAN["Machine"](seconds=0.5, variation=0.0, start=2.0, driver=0.0, straggling=0.0, failures=0.0)


def test_simulate_without_chance_waits_for_the_last_shards():
    """Ten shards of 50 s on four workers are three rounds; a second of the driver for each delays them."""
    hours, core_hours, waste = PLAN["simulate"](CALM, 1000, 100, 4, 0)
    assert (3600 * hours, 3600 * core_hours) == pytest.approx((152, 608))
    assert waste == pytest.approx(1 - 500 / 608)
    slow = PLAN["simulate"](CALM._replace(driver=1.0), 1000, 100, 4, 0)
    assert 3600 * slow.hours == pytest.approx(2 + 3 * 51 + 1)


def test_lost_matches_the_expected_time_of_failures():
    """A shard of d seconds takes (exp(rate d) - 1) / rate in the mean, and a start for each failure."""
    failing, kept = CALM._replace(failures=1.0), np.full(200_000, 5400.0)
    lost = PLAN["lost"](kept, failing, np.random.default_rng(0)).mean()
    failures = np.expm1(1.5)
    assert lost == pytest.approx(3600 * failures - 5400 + 2 * failures, rel=0.02)
    assert not PLAN["lost"](kept, CALM, np.random.default_rng(0)).any()


def test_simulate_is_deterministic_by_seed():
    machine = CALM._replace(straggling=0.25, failures=0.5)
    first, again, other = (PLAN["simulate"](machine, 1e5, 256, 10, seed) for seed in (0, 0, 1))
    assert first == again != other
