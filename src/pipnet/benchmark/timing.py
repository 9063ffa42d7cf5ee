"""Interleaved timing: all candidates are timed in each round, so that a disturbance affects all of them.

Thread pools of the functions that are not being timed sleep: a function starts when this process is idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from pipnet.benchmark.noise import NoiseMeter, wait_until_idle
from pipnet.errors import PipnetError
from pipnet.progress import show_progress

_WARM_UP = 0.5
"""Seconds that each function runs before it is timed."""
_MIN_RUNS = 3
"""Minimum number of runs of each function in a round."""


class Timing(NamedTuple):
    """Durations of the runs of a function."""

    median: float
    """Median over all runs of all rounds, in milliseconds."""
    p95: float
    """95th percentile over all runs of all rounds, in milliseconds."""
    rounds: list[float]
    """Median of each round, in milliseconds."""
    runs: int
    """Number of timed runs."""

    def times_faster(self, reference: Timing) -> float:
        """Return the median over rounds of the reference's duration over this one."""
        return float(np.median(np.divide(reference.rounds, self.rounds)))


def time_interleaved(
    runs: Mapping[str, Callable[[], object]],
    rounds: int = 10,
    seconds: float = 0.3,
    meter: NoiseMeter | None = None,
) -> dict[str, Timing]:
    """Time several functions, each of them in every round.

    Args:
        runs: the functions by name.
        rounds: number of rounds.
        seconds: minimum duration of a function's runs in a round; there are at least 3 runs.
        meter: measures the disturbance by other processes before and after every round.

    Raises:
        PipnetError: fewer than 1 round.
    """
    if rounds < 1:
        raise PipnetError(f"--rounds must be at least 1, not {rounds}")
    for run in runs.values():
        _time_round(run, _WARM_UP)
    durations: dict[str, list[list[float]]] = {name: [] for name in runs}
    _sample(meter)
    for _ in show_progress(range(rounds), rounds, "rounds"):
        for name, run in runs.items():
            wait_until_idle()
            run()  # wakes its threads
            durations[name].append(_time_round(run, seconds))
        _sample(meter)
    return {name: _timing(by_round) for name, by_round in durations.items()}


def _sample(meter: NoiseMeter | None) -> None:
    if meter is not None:
        wait_until_idle()
        meter.sample()


def _time_round(run: Callable[[], object], seconds: float) -> list[float]:
    """Return the duration of each run of one round in milliseconds."""
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < _MIN_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        durations.append(1000 * (time.perf_counter() - started))
    return durations


def _timing(by_round: list[list[float]]) -> Timing:
    durations = np.concatenate(by_round)
    medians = [round(float(np.median(values)), 4) for values in by_round]
    return Timing(float(np.median(durations)), float(np.percentile(durations, 95)), medians, len(durations))
