"""The page on the rows of `training.unlabeled.controlled`: errors, gains over controls, resolution."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipnet.evaluation.metrics import bootstrap, paired_gain

sys.path.append(str(Path(__file__).parents[2]))
from _common import table
from training.unlabeled.controlled import (
    CHOICE,
    JITTERED,
    MAX_RATIO,
    MAX_SHIFT,
    ROWS,
    SETS,
    WARM_START_LR,
    ControlledRow,
)

_BOOTSTRAP = 4000
INTRODUCTION = f"""
HELEN and LFPW are labeled. No network that is trained here or that labels was trained on AFW. A row is one
training; with a warm start the peak of its learning rate is {WARM_START_LR:g}. The public networks are those
of `recipes/teachers`, trained on WFLW's training faces, with adapters fitted on HELEN and LFPW; labels are
their consensus (pipnet-68 labels better, but was trained on AFW). The curriculum by agreement gives each
landmark its task: full where the votes agree within 3 % of the crop, half below 6 %, else quarter.
Of WIDER, HELEN and LFW together there are at most {MAX_RATIO} unlabeled faces for a labeled
one; the crops of WIDER and HELEN are those of the datasets' boxes, and in LFW the detector searches. A
control is trained on labels alone, with at least as many optimizer steps as its row and at most one epoch
more.

The NME of a face is the mean over its true box, {JITTERED} boxes that are shifted and scaled by up to
{100 * MAX_SHIFT:.0f} %, and the box of pipnet-face unless it missed the face. The norm is the inter-ocular
distance, for CFP the longer side of the landmarks' box. **The choice is made on AFW alone.** All sets are
measured in the same run: CFP 301 to 350 is shown beside it, and the test sets are used for no choice.
`run.py controlled --runs RUNS`; further seeds: `--seeds 0 1 2 --only ROW`.
"""


class Gain(NamedTuple):
    """The gain of a row over its control on an evaluation set, in percent."""

    mean: float
    low: float
    high: float
    """The 95 % bootstrap interval over faces, of errors that are means over the seeds."""
    two_sigma: float
    """Two standard deviations: of the bootstrap over faces and, with several seeds, of their mean."""
    seeds: int


def gain_of(
    row: ControlledRow, test: str, results: dict[str, Any], faces: dict[str, np.ndarray], column: int = 0
) -> Gain | None:
    """Return the gain over the control for the seeds that both have; None if there are none.

    Args:
        row: a row with a control.
        test: the name of the evaluation set.
        results: the results of all rows, by name and seed.
        faces: the errors of every face.
        column: 0 for the mean over the boxes, 1 for the true box.
    """
    seeds = sorted(set(results.get(row.name, {})) & set(results.get(row.control, {})))
    if not seeds:
        return None
    before, after = (
        np.stack([faces[f"controlled/{name}/{seed}/{test}"][:, column] for seed in seeds])
        for name in (row.control, row.name)
    )
    mean, (low, high) = paired_gain(before.mean(axis=0), after.mean(axis=0))
    variance = _bootstrap_std(before.mean(axis=0), after.mean(axis=0)) ** 2
    if len(seeds) > 1:
        by_seed = 100 * (1 - after.mean(axis=1) / before.mean(axis=1))
        variance += float(by_seed.var(ddof=1)) / len(seeds)
    return Gain(mean, low, high, 2 * float(np.sqrt(variance)), len(seeds))


def _bootstrap_std(before: np.ndarray, after: np.ndarray) -> float:
    """Return the standard deviation of `paired_gain` over bootstrap samples of the faces."""
    gains: list[float] = []

    def gain(faces: np.ndarray) -> float:
        gains.append(float(100 * (1 - after[faces].mean() / before[faces].mean())))
        return gains[-1]

    bootstrap(gain, len(before), _BOOTSTRAP)
    return float(np.std(gains))


def report(results: dict[str, Any], faces: dict[str, np.ndarray]) -> list[str]:
    """Return the lines of the page on the finished rows.

    Args:
        results: the results of all parts of the benchmark.
        faces: the errors of every face, of all parts.
    """
    rows = results.get("controlled", {})
    head = [test.name + (" (choice)" if test is CHOICE else "") for test in SETS]
    return [
        *INTRODUCTION.strip().splitlines(),
        "",
        "NME in %, mean over the boxes of a face and over the seeds:",
        "",
        *table(
            ["row", "seeds", "steps", "labeled, pseudo-labeled", *head],
            [_nmes(row, rows[row.name]) for row in ROWS if row.name in rows],
        ),
        "",
        f"Gain over the control in %, with its paired bootstrap interval over faces.{_choice(rows, faces)}",
        "",
        *table(
            ["row", "control", *head], [_gains(row, rows, faces) for row in ROWS if rows.get(row.control)]
        ),
        "",
        "Resolution: two standard deviations of the gain, in percentage points; in brackets that of the same",
        "trainings measured from true boxes alone.",
        "",
        *table(["gain of", *head], _resolutions(results, faces)),
        "",
        "With the 0.9 % by which two trainings of the same recipe differ on WFLW-68 (see STC), the",
        "resolution of STC's gain is 4.9.",
    ]


def _nmes(row: ControlledRow, by_seed: dict[str, Any]) -> list[object]:
    first = next(iter(by_seed.values()))
    pseudo = f", {first['labeling']['labeled']:,}" if "labeling" in first else ""
    means = [np.mean([result["nme"][test.name] for result in by_seed.values()]) for test in SETS]
    cells = [f"{mean:.2f}" for mean in means]
    return [
        row.name,
        ", ".join(sorted(by_seed)),
        f"{first['steps']:,}",
        f"{first['labeled']:,}{pseudo}",
        *cells,
    ]


def _gains(row: ControlledRow, results: dict[str, Any], faces: dict[str, np.ndarray]) -> list[object]:
    gains = [gain_of(row, test.name, results, faces) for test in SETS]
    cells = [f"{gain.mean:.1f} ({gain.low:.1f} to {gain.high:.1f})" if gain else "" for gain in gains]
    return [row.name, row.control, *cells]


def _choice(results: dict[str, Any], faces: dict[str, np.ndarray]) -> str:
    """Return which row is chosen, once all of them are measured."""
    gains = {row.name: gain_of(row, CHOICE.name, results, faces) for row in ROWS if row.control}
    means = {name: gain.mean for name, gain in gains.items() if gain}
    if len(means) < len(gains):
        return ""
    best = max(means, key=lambda name: means[name])
    return f" Chosen on {CHOICE.name}: **{best if means[best] > 0 else 'none, all gains are negative'}**."


def _resolutions(results: dict[str, Any], faces: dict[str, np.ndarray]) -> list[list[object]]:
    """Return the lines on the resolution: of the earlier rows, which have no controls, then of these."""
    lines: list[list[object]] = []
    for name, number in (("STC", 5), ("plain self-training", 3)):
        cells = []
        for test in SETS:
            keys = [f"tests/{name}/{i}/{test.folder} {test.subset}" for i in (0, number)]
            two_sigma = 2 * _bootstrap_std(*(faces[key] for key in keys)) if set(keys) <= set(faces) else None
            cells.append("" if two_sigma is None else f"{two_sigma:.1f}")
        lines.append([f"before: {name}, true boxes, no control, one seed", *cells])
    rows = results.get("controlled", {})
    for row in ROWS:
        cells, seeds = [], 0
        for test in SETS if row.control else ():
            gains = [gain_of(row, test.name, rows, faces, column) for column in (0, 1)]
            mean, true = (gain and gain.two_sigma for gain in gains)
            seeds = gains[0].seeds if gains[0] else 0
            cells.append("" if mean is None or true is None else f"{mean:.1f} ({true:.1f})")
        if seeds:
            noise = f"faces and {seeds} seeds" if seeds > 1 else "faces alone, one seed"
            lines.append([f"{row.name}: {noise}", *cells])
    return lines
