"""How much other work disturbs a benchmark: a fixed loop between rounds, and other processes' CPU time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_LOOP_SPREAD = 0.15
"""Ratios are not stated if the fixed loop varies by more than this fraction."""
MAX_OTHERS_SHARE = 0.10
"""Ratios are not stated if other processes take more than this fraction of the machine's CPU time."""
_LOOP = 200_000
"""Additions of the fixed loop, some milliseconds."""
_LOOPS = 3
"""The fixed loop runs this many times between two rounds; the median counts."""
_NAP = 0.01
"""Seconds between two looks at the CPU time of this process."""
_ASLEEP = 0.1
"""The process is idle if it uses less than this fraction of a CPU."""
_MAX_WAIT = 1.0
"""Seconds after which a row is timed although the process is not idle."""


class Noise(NamedTuple):
    """The disturbance of a benchmark."""

    loop_spread: float
    """10th to 90th percentile over rounds of the time of a fixed loop, over its median."""
    others_share: float | None
    """Fraction of the CPU time of the machine that other processes took; None where /proc/stat is missing."""

    @property
    def problem(self) -> str | None:
        """Why ratios of this run are not reliable; None if they are."""
        problems = []
        if self.others_share is not None and self.others_share > MAX_OTHERS_SHARE:
            problems.append(
                f"other processes took {100 * self.others_share:.0f} % of the CPU"
                f" (at most {100 * MAX_OTHERS_SHARE:.0f} %)"
            )
        if self.loop_spread > MAX_LOOP_SPREAD:
            problems.append(
                f"a fixed loop varied by {100 * self.loop_spread:.0f} %"
                f" (at most {100 * MAX_LOOP_SPREAD:.0f} %)"
            )
        if not problems:
            return None
        return f"too noisy for ratios: {' and '.join(problems)}. Stop other programs and run it again."

    def to_dict(self) -> dict[str, Any]:
        """Return the values and the problem, rounded."""
        others = None if self.others_share is None else round(self.others_share, 4)
        return {
            "loop_spread": round(self.loop_spread, 4),
            "others_share": others,
            "problem": self.problem,
        }


class NoiseMeter:
    """Measures the disturbance from its first to its last sample."""

    def __init__(self, loop: Callable[[], object] | None = None) -> None:
        self._loop = loop or _fixed_loop
        self._loops: list[float] = []
        self._cpu: list[tuple[float, float, float]] = []

    def sample(self) -> None:
        """Time the fixed loop and read the CPU times; call it before the first and after every round."""
        durations = []
        for _ in range(_LOOPS):
            started = time.perf_counter()
            self._loop()
            durations.append(time.perf_counter() - started)
        self._loops.append(float(np.median(durations)))
        stat = read_cpu_times()
        if stat is not None:
            times = os.times()
            own = times.user + times.system + times.children_user + times.children_system
            self._cpu.append((*stat, own))

    def noise(self) -> Noise:
        """Return the disturbance between the first and the last sample."""
        low, middle, high = np.percentile(self._loops, (10, 50, 90)) if self._loops else (0, 1, 0)
        return Noise(float((high - low) / middle), others_share(self._cpu))


def others_share(samples: list[tuple[float, float, float]]) -> float | None:
    """Return the fraction of all CPU time that other processes took between the first and the last sample.

    Args:
        samples: seconds of the machine's CPUs at work and in total, and of this process and its finished
            children at work.
    """
    if len(samples) < 2:
        return None
    busy, total, own = np.subtract(samples[-1], samples[0])
    return float(np.clip((busy - own) / total, 0, 1)) if total > 0 else None


def read_cpu_times(path: Path = Path("/proc/stat")) -> tuple[float, float] | None:
    """Return the seconds that all CPUs of the machine worked, and all seconds; None where there is no file.

    Time that a hypervisor gave to other machines counts as work.
    """
    try:
        user, nice, system, idle, iowait, *other = map(int, path.read_text().split("\n", 1)[0].split()[1:9])
    except (OSError, ValueError):
        return None
    busy = user + nice + system + sum(other)
    ticks = os.sysconf("SC_CLK_TCK")
    return busy / ticks, (busy + idle + iowait) / ticks


def wait_until_idle(
    cpu_time: Callable[[], float] = time.process_time, nap: Callable[[float], None] = time.sleep
) -> bool:
    """Wait until the threads of this process sleep, at most a second; return whether they do.

    Thread pools keep their threads busy for some time after a call. Those of one row would slow down the
    next one.
    """
    before = cpu_time()
    for _ in range(round(_MAX_WAIT / _NAP)):
        nap(_NAP)
        now = cpu_time()
        if now - before < _ASLEEP * _NAP:
            return True
        before = now
    return False


def _fixed_loop() -> int:
    total = 0
    for number in range(_LOOP):
        total += number
    return total
