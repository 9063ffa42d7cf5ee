"""A million and a billion faces, planned: `docs/scale.md`'s tables, `benchmarks/plan.json` and `.png`.

    python benchmarks/plan.py [--failures 0.01] [--straggling 0.25] [--seed 0]

What a picture, a shard and a worker cost is measured (benchmarks/scale.json, benchmarks/speed/network.json).
What machines do to one another is simulated: shards are handed to workers, one after the other, by a driver
that takes its own time; how long one takes is lognormal; workers fail at a constant rate, which loses the
shard in work, and begin anew. The same seed gives the same tables.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import re
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

from pipnet.evaluation.figure import new_figure

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scale.md"
FACES = (10**6, 10**9)
SHARDS = (128, 256, 1024, 4096, 16_384, 65_536)
"""Pictures in a shard."""
WORKERS = (1, 10, 100, 1000, 10_000)
RATES = (0.001, 0.01, 0.1, 1.0)
"""Failures of a worker an hour."""
NETWORK = "pipnet-wild-mbv2, onnxruntime f32, 1 thread"
"""What annotates in benchmarks/scale.json, as it is called in benchmarks/speed/network.json."""


class Machine(NamedTuple):
    """What a simulated worker and driver are like."""

    seconds: float
    """Of a picture."""
    variation: float
    """Standard deviation of that over its mean."""
    begin: float
    """Seconds that a worker takes to begin."""
    driver: float
    """Seconds of the driver for a shard."""
    straggling: float
    """Sigma of a shard's lognormal slowness, beyond what its pictures do."""
    failures: float
    """Of a worker an hour."""


class Outcome(NamedTuple):
    """What a simulated job came to."""

    hours: float
    """From begin to end."""
    core_hours: float
    """Of all workers, from begin to end, idle or not."""
    waste: float
    """Share of them that went into no label that was kept."""


def main() -> None:
    """Simulate, and write all three files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--failures", type=float, default=0.01, help="of a worker an hour")
    parser.add_argument("--straggling", type=float, default=0.25, help="sigma of the lognormal")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    scale = json.loads((HERE / "scale.json").read_text())
    network = json.loads((HERE / "speed" / "network.json").read_text())
    machine = measured(scale, arguments.straggling, arguments.failures)
    a_picture, seed = faces_a_picture(scale), arguments.seed
    jobs = {
        faces: {
            (size, workers): simulate(machine, faces / a_picture, size, workers, seed)
            for size in SHARDS
            for workers in WORKERS
        }
        for faces in FACES
    }
    rates = {
        (size, rate): simulate(machine._replace(failures=rate), FACES[-1] / a_picture, size, 1000, seed)
        for size in SHARDS
        for rate in RATES
    }
    blocks = {
        "measured": measured_block(scale, network, machine, a_picture, arguments),
        "decode": decode_table(scale, network),
        "million": job_table(jobs[FACES[0]]),
        "billion": job_table(jobs[FACES[1]]),
        "failures": rate_table(rates),
        "shards": shard_table(scale, machine, a_picture),
        "limits": limits_table(scale, a_picture),
    }
    write_page(blocks)
    draw(jobs)
    plain = {
        "command": "python benchmarks/plan.py",
        "scale": {key: scale[key] for key in ("command", "commit", "machine", "pictures")},
        "network": {key: network[key] for key in ("commit", "machine")},
        "seed": seed,
        "machine": machine._asdict(),
        "faces a picture": a_picture,
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
    (HERE / "plan.json").write_text(json.dumps(plain, indent=1) + "\n")
    print("\n\n".join(blocks.values()))


# -- what is measured ----------------------------------------------------------------------------------


def measured(scale: dict[str, Any], straggling: float, failures: float) -> Machine:
    """A worker and a driver like those of benchmarks/scale.json."""
    one, stage = scale["runs"]["one process"], scale["stages"]
    seconds = (one["seconds"] - stage["begin_seconds"]) / one["pictures"]
    alone = scale["driver"]["seconds_a_shard"]
    return Machine(seconds, stage["variation"], stage["begin_seconds"], alone, straggling, failures)


def faces_a_picture(scale: dict[str, Any]) -> float:
    """Faces found in a picture on the mean."""
    one = scale["runs"]["one process"]
    return float(one["faces"] / one["pictures"])


def worker_megabytes(scale: dict[str, Any]) -> float:
    """Memory of one more worker."""
    runs = scale["runs"]
    return float(runs["two workers"]["mb_last_quarter"] - runs["one process"]["mb_last_quarter"])


# -- what is simulated ---------------------------------------------------------------------------------


def simulate(machine: Machine, pictures: float, size: int, workers: int, seed: int) -> Outcome:
    """A job of so many pictures, in shards of a size, on so many workers."""
    count = math.ceil(pictures / size)
    random = np.random.default_rng([seed, size, workers])
    sizes = np.full(count, float(size))
    sizes[-1] = pictures - size * (count - 1)
    sigma = np.sqrt(machine.straggling**2 + np.log1p(machine.variation**2 / sizes))
    kept = sizes * machine.seconds * np.exp(sigma * random.standard_normal(count) - sigma**2 / 2)
    spent = (kept + lost(kept, machine, random)).tolist()
    # Each is given to the worker that is idle first, as soon as the driver has time for it.
    idle = [machine.begin] * workers
    ready = 0.0
    for seconds in spent:
        ready = max(idle[0], ready) + machine.driver
        heapq.heapreplace(idle, ready + seconds)
    hours = max(idle) / 3600
    return Outcome(hours, hours * workers, 1 - float(kept.sum()) / 3600 / (hours * workers))


def lost(kept: np.ndarray, machine: Machine, random: np.random.Generator) -> np.ndarray:
    """Seconds that each shard costs in attempts that failed, with the beginnings after them.

    An attempt lives for an exponential time; the attempts before the one that lives long enough are
    geometric in number, and each of them lasts an exponential time that is cut off at the shard's own.
    """
    rate = machine.failures / 3600
    if not rate:
        return np.zeros_like(kept)
    survives = np.exp(-rate * kept)
    attempts = random.geometric(survives) - 1
    shards = np.repeat(np.arange(len(kept)), attempts)
    lived = -np.log1p(-random.random(len(shards)) * (1 - survives[shards])) / rate
    return np.bincount(shards, lived + machine.begin, len(kept))


# -- what is written -----------------------------------------------------------------------------------


def measured_block(
    scale: dict[str, Any],
    network: dict[str, Any],
    machine: Machine,
    a_picture: float,
    chosen: argparse.Namespace,
) -> str:
    """What the plan rests on, as a paragraph."""
    labels = scale["runs"]["one process"]["bytes_a_face"]
    hours = machine.seconds / a_picture * 1e6 / 3600
    text = f"""Measured by `{scale["command"]}`, commit {scale["commit"]}, {scale["machine"]}:
        {1000 * machine.seconds:.0f} ms a picture and thread, with {a_picture:.2f} faces in a picture, so
        {hours:.1f} core hours a million faces; from picture to picture that varies by
        {100 * machine.variation:.0f} %. A worker begins in {machine.begin:.1f} s and takes
        {worker_megabytes(scale):.0f} MB; the driver takes {1000 * machine.driver:.1f} ms a shard; labels are
        {labels:.0f} bytes a face. Assumed: machines make a shard slower or faster by a lognormal factor of
        sigma {chosen.straggling:g}; a worker fails {chosen.failures:g} times an hour. Seed {chosen.seed}; the
        networks' times are of commit {network["commit"]}."""
    if scale["pictures"] < 20_000:
        text += " **From a small run on a busy machine: a trial of this page, not its numbers.**"
    return fill(" ".join(text.split()), 105, break_on_hyphens=False)


def decode_table(scale: dict[str, Any], network: dict[str, Any]) -> str:
    """Where the time of a picture goes, and what a faster network is worth."""
    stage = scale["stages"]
    faces = stage["faces"] / stage["pictures"]
    best = {
        row["name"]: min(row["per_face"].values())
        for row in network["rows"]
        if row["name"].endswith(", 1 thread") and row["per_face"]
    }
    lines = [
        "| network (one thread) | ms a picture | decoding | detector | landmarks | packing"
        " | core hours a million faces | a billion |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, milliseconds in best.items():
        # The stage with the default network, changed as the networks differ when timed alone.
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
    """Wall time, waste and core hours by shard size and workers."""
    lines = [
        "| pictures a shard | " + " | ".join(map(named, WORKERS)) + " |",
        "|---" * (len(WORKERS) + 1) + "|",
    ]
    for size in SHARDS:
        cells = [outcomes[size, workers] for workers in WORKERS]
        lines.append(
            f"| {size:,} | "
            + " | ".join(f"{duration(o.hours)}, {100 * o.waste:.0f} %, {o.core_hours:,.0f}" for o in cells)
            + " |"
        )
    return "\n".join(lines)


def rate_table(outcomes: dict[tuple[int, float], Outcome]) -> str:
    """Waste by shard size and rate of failures."""
    lines = ["| pictures a shard | " + " | ".join(f"{rate:g}" for rate in RATES) + " |"]
    lines += ["|---" * (len(RATES) + 1) + "|"]
    lines += [
        f"| {size:,} | " + " | ".join(f"{100 * outcomes[size, rate].waste:.1f} %" for rate in RATES) + " |"
        for size in SHARDS
    ]
    return "\n".join(lines)


def shard_table(scale: dict[str, Any], machine: Machine, a_picture: float) -> str:
    """What grows and shrinks with the shard, for a billion faces."""
    alone, stage, one = scale["driver"], scale["stages"], scale["runs"]["one process"]
    pictures = FACES[-1] / a_picture
    lines = [
        "| pictures a shard | work of one | memory of a worker | MB a file | files | manifest"
        " | driver's memory | most workers of one driver |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in SHARDS:
        shards = pictures / size
        held = worker_megabytes(scale) + size * a_picture * stage["held_bytes_a_face"] / 1e6
        lines.append(
            f"| {size:,} | {duration(size * machine.seconds / 3600)} | {held:,.0f} MB"
            f" | {size * a_picture * one['bytes_a_face'] / 1e6:.2f} | {shards:,.0f}"
            f" | {shards * alone['manifest_bytes_a_shard'] / 1e6:,.1f} MB"
            f" | {shards * alone['held_bytes_a_shard'] / 1e6:,.1f} MB"
            f" | {size * machine.seconds / machine.driver:,.0f} |"
        )
    return "\n".join(lines)


def limits_table(scale: dict[str, Any], a_picture: float) -> str:
    """What does not depend on shards: the input's list, the labels, and merging them."""
    alone, merged, one = scale["driver"], scale["merging"], scale["runs"]["one process"]
    rows = {
        "listing folders": "listed_a_second",
        "reading a `.txt` list, and writing the plan": "planned_a_second",
    }
    lines = ["| | a million faces | a billion faces |", "|---|---|---|"]
    for title, key in rows.items():
        lines.append(
            f"| {title} | " + " | ".join(duration(n / a_picture / alone[key] / 3600) for n in FACES) + " |"
        )
    sizes = {
        "plan, until the job is finished": alone["plan_bytes_a_picture"] / a_picture,
        "labels (Parquet)": one["bytes_a_face"],
        "labels as JSON lines": merged["jsonl"]["bytes_a_face"],
        "labels as COCO": merged["coco"]["bytes_a_face"],
        "memory of a training on all of them": merged["training"]["bytes_a_face"],
    }
    for title, size in sizes.items():
        lines.append(f"| {title} | " + " | ".join(f"{size * n / 1e9:,.1f} GB" for n in FACES) + " |")
    readers = {
        "jsonl": "merging them into JSON lines",
        "coco": "merging them into COCO",
        "training": "reading them for a training",
    }
    for kind, title in readers.items():
        speed = merged[kind]["faces_a_second"] * 3600
        lines.append(f"| {title} | " + " | ".join(duration(n / speed) for n in FACES) + " |")
    return "\n".join(lines)


def named(workers: int) -> str:
    """A number of workers as people say it."""
    return f"{workers:,} workers" if workers > 1 else "1 worker"


def duration(hours: float) -> str:
    """A time as people say it."""
    for unit, length in (("years", 24 * 365.25), ("days", 24), ("h", 1), ("min", 1 / 60)):
        if hours >= 1.5 * length:
            amount = hours / length
            return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{3600 * hours:.0f} s"


def write_page(blocks: dict[str, str]) -> None:
    """Put the tables between their marks; what people wrote around them stays."""
    text = PAGE.read_text()
    for name, block in blocks.items():
        marks = re.compile(rf"(<!-- plan.py: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = marks.subn(lambda m, block=block: f"{m[1]}\n{block}\n\n{m[2]}", text)
        if found != 1:
            raise SystemExit(f"{PAGE}: no place for {name}")
    PAGE.write_text(text)


def draw(jobs: dict[int, dict[tuple[int, int], Outcome]]) -> None:
    """Waste over the size of shards, a curve a number of workers."""
    figure = new_figure(9, 3.2)
    for axes, (faces, outcomes) in zip(figure.subplots(1, 2, sharey=True), jobs.items(), strict=True):
        for workers in WORKERS:
            waste = [100 * outcomes[size, workers].waste for size in SHARDS]
            axes.plot(SHARDS, waste, marker="o", label=named(workers))
        axes.set(
            xscale="log", xlabel="pictures a shard", title=f"{faces:,} faces", xticks=SHARDS, ylim=(0, 100)
        )
        axes.set_xticklabels([f"{size:,}" for size in SHARDS], rotation=30)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("core hours wasted, %")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(HERE / "plan.png", dpi=110)


if __name__ == "__main__":
    main()
