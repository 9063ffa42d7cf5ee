"""Timing several ways to do the same, in turns: what disturbs one round disturbs all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from pipnet.errors import PipnetError
from pipnet.progress import track

_WARM_UP = 0.5
"""Seconds that each way runs before anything is counted."""
_FEWEST = 3
"""Runs of each way in a round."""


class Timing(NamedTuple):
    """How long one run took."""

    median: float
    """Milliseconds; over all runs of all rounds."""
    p95: float
    """Milliseconds; 95 of 100 runs took no longer."""
    rounds: list[float]
    """Median of each round in milliseconds."""
    runs: int
    """How many were counted."""

    def times_faster(self, reference: Timing) -> float:
        """How many times as long the reference took: the median over rounds of the ratio in each."""
        return float(np.median(np.divide(reference.rounds, self.rounds)))


def time_in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int = 10, seconds: float = 0.3
) -> dict[str, Timing]:
    """Time several ways, round by round, each for a moment in every round.

    Args:
        ways: what to run, by name.
        rounds: how many turns everyone gets.
        seconds: how long each turn is, at least; never fewer than 3 runs.

    Raises:
        PipnetError: fewer than 1 round.
    """
    if rounds < 1:
        raise PipnetError(f"at least 1 round, not {rounds}")
    for run in ways.values():
        _turn(run, _WARM_UP)
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in track(range(rounds), rounds, "rounds"):
        for name, run in ways.items():
            taken[name].append(_turn(run, seconds))
    return {name: _timing(turns) for name, turns in taken.items()}


def _turn(run: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each run of one turn."""
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < _FEWEST or time.perf_counter() < until:
        started = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def _timing(turns: list[list[float]]) -> Timing:
    every = np.concatenate(turns)
    medians = [round(float(np.median(turn)), 4) for turn in turns]
    return Timing(float(np.median(every)), float(np.percentile(every, 95)), medians, len(every))
