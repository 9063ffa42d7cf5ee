"""Bulk annotation at size: `benchmarks/scale.md` and `.json`.

    python benchmarks/scale.py                 (20,000 pictures, three times; nothing else should run)

Real pictures under many names, one of a hundred damaged, are annotated by one process, by two, and by two
actors of Ray: the three results must be the same, byte for byte, and memory must not grow. Then a smaller job
is killed at random moments, driver or worker, again and again, and must end with the same files too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

HERE = Path(__file__).parent
WAYS = {
    "one process": ("--workers", "1"),
    "two workers": ("--workers", "2"),
    "Ray, two actors": ("--engine", "ray", "--workers", "2"),
}
DAMAGED = 100
"""One of so many pictures is damaged."""
KILL_SHARD = 32
"""Pictures in a shard of the job that is killed: small, so that there are many to be killed in."""


def main() -> None:
    """Make the pictures, run all, write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--work", type=Path, help="folder for pictures and labels; a temporary one otherwise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        pictures = make_pictures(work / "pictures", arguments.shared.resolve(), arguments.pictures)
        runs = {name: run(pictures, work / f"labels {i}", *how) for i, (name, how) in enumerate(WAYS.items())}
        few = max(arguments.pictures // 10, 10)
        killed = kill(make_pictures(work / "few", arguments.shared.resolve(), few), work, arguments.kills)
    results = {
        "command": "python benchmarks/scale.py"
        + ("" if arguments.pictures == 20_000 else f" --pictures {arguments.pictures}")
        + ("" if arguments.kills == 20 else f" --kills {arguments.kills}"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "machine": f"{torch.cpu.get_capabilities().get('cpu_name') or platform.processor()}, "
        f"{psutil.cpu_count()} cores",
        "pictures": arguments.pictures,
        "identical": len({facts["checksum"] for facts in runs.values()}) == 1,
        "runs": runs,
        "kills": killed,
    }
    (HERE / "scale.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "scale.md").write_text(markdown(results))
    print((HERE / "scale.md").read_text())


def make_pictures(folder: Path, shared: Path, count: int) -> Path:
    """Real pictures under new names, a thousand a folder; every hundredth is cut off, empty or no picture."""
    real = sorted((shared / "data" / "unlabelled" / "wider").rglob("*.jpg"))
    for number, picture in enumerate(islice(cycle(real), count)):
        path = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if number % DAMAGED == DAMAGED // 2:
            kind = number // DAMAGED % 3
            content = picture.read_bytes()
            path.write_bytes((content[: len(content) // 2], b"", b"no picture")[kind])
        else:
            path.symlink_to(picture)
    return folder


def start(pictures: Path, labels: Path, *how: str) -> subprocess.Popen[str]:
    """Begin, or go on with, a job."""
    command = [sys.executable, "-m", "pipnet", "annotate", str(pictures), "-o", str(labels), *how]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def run(pictures: Path, labels: Path, *how: str) -> dict[str, Any]:
    """One undisturbed job: what it found, how fast, and the memory of all its processes over time."""
    began = time.monotonic()
    memory: list[tuple[float, float]] = []
    with start(pictures, labels, *how) as job:
        while job.poll() is None:
            memory.append((round(time.monotonic() - began, 1), round(resident(job.pid) / 2**20, 1)))
            time.sleep(1)
        _, said = job.communicate()
    seconds = time.monotonic() - began
    if job.returncode:
        raise SystemExit(said)
    shards = json.loads((labels / "manifest.json").read_text())["shards"]
    count, faces = (sum(shard[key] for shard in shards) for key in ("pictures", "faces"))
    # The beginning is left out: processes load their models.
    steady = [megabytes for _, megabytes in memory[len(memory) // 4 :]]
    return {
        "how": " ".join(how),
        "seconds": round(seconds, 1),
        "pictures": count,
        "faces": faces,
        "errors": sum(shard["errors"] for shard in shards),
        "pictures_a_second": round(count / seconds, 2),
        "faces_a_second": round(faces / seconds, 2),
        "mb_second_quarter": round(float(np.median(steady[: len(steady) // 3 or 1])), 1),
        "mb_last_quarter": round(float(np.median(steady[-(len(steady) // 3 or 1) :])), 1),
        "mb_most": max(megabytes for _, megabytes in memory),
        "checksum": checksum(labels),
        "memory": memory[:: max(len(memory) // 200, 1)],
    }


def resident(pid: int) -> int:
    """Resident memory of a process and all below it, in bytes; what they share counts for each."""
    total = 0
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def checksum(labels: Path) -> str:
    """SHA-256 over the names and contents of all files of a finished job."""
    found = hashlib.sha256()
    for path in sorted(p for p in labels.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(labels)}\n".encode() + path.read_bytes())
    return found.hexdigest()


def kill(pictures: Path, work: Path, kills: int) -> dict[str, Any]:
    """Kill a job again and again, at random moments, and compare what it ends with."""
    how = ("--workers", "2", "--shard-size", str(KILL_SHARD))
    undisturbed = run(pictures, work / "not killed", *how)
    random.seed(0)
    attempts: dict[str, str] = {}
    done = {"driver": 0, "worker": 0}
    checksums, rounds, recomputed = set(), 0, 0
    while sum(done.values()) < kills:  # usually once: where the job ends before all kills, it begins anew
        labels = work / f"killed {rounds}"
        rounds += 1
        job = start(pictures, labels, *how)
        while True:
            wait = random.uniform(0, 2 * undisturbed["seconds"] / kills)  # noqa: S311
            watch(job, labels, wait, attempts)
            if job.poll() is not None:
                break
            target = random.choice(("driver", "worker"))  # noqa: S311
            if sum(done.values()) == kills:
                watch(job, labels, None, attempts)
                break
            victims = workers(job.pid) if target == "worker" else [psutil.Process(job.pid)]
            if not victims:
                continue
            random.choice(victims).kill()  # noqa: S311
            done[target] += 1
            if target == "driver":
                job.communicate()
                job = start(pictures, labels, *how)
        _, said = job.communicate()
        if job.returncode:
            raise SystemExit(said)
        checksums.add(checksum(labels))
        recomputed += sum(begun_in_vain(marks) for marks in attempts.values())
        attempts.clear()
    return {
        "pictures": undisturbed["pictures"],
        "shard_size": KILL_SHARD,
        "kills": done,
        "jobs": rounds,
        "identical": checksums == {undisturbed["checksum"]},
        "recomputed_pictures": recomputed,
    }


def watch(job: subprocess.Popen[str], labels: Path, seconds: float | None, attempts: dict[str, str]) -> None:
    """Look on for some time, or to the end, and keep what the job marks as begun."""
    began = time.monotonic()
    while job.poll() is None and (seconds is None or time.monotonic() - began < seconds):
        for path in labels.glob(".work/*.marks"):
            try:
                attempts[path.name] = path.read_text()
            except FileNotFoundError:
                continue
        time.sleep(0.02)


def begun_in_vain(marks: str) -> int:
    """Pictures that were begun in all attempts at a shard but the last."""
    attempts = marks.split("begin\n")[1:]
    return sum(line.isdigit() for attempt in attempts[:-1] for line in attempt.splitlines())


def workers(pid: int) -> list[psutil.Process]:
    """The processes that annotate for a driver."""
    found = []
    try:
        for child in psutil.Process(pid).children():
            found += [child] if any("spawn_main" in word for word in child.cmdline()) else []
    except psutil.NoSuchProcess:
        pass
    return found


def markdown(results: dict[str, Any]) -> str:
    """The page."""
    killed = results["kills"]
    same = {True: "the same, byte for byte", False: "**NOT THE SAME**"}
    lines = [
        "# Bulk annotation at size",
        "",
        f"`{results['command']}`, commit {results['commit']}, {results['machine']}. "
        f"{results['pictures']:,} pictures",
        "(real ones of WIDER under many names), one of a hundred damaged. Seconds are from the start of the",
        "command to its end; memory is that of all processes, and what they share counts for each.",
        "",
        f"Results of all ways are {same[results['identical']]}.",
        "",
        "| way | seconds | pictures a second | faces a second | faces | with an error "
        "| MB, second quarter | MB, last quarter | MB, most |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {r['seconds']:.0f} | {r['pictures_a_second']:.1f} | {r['faces_a_second']:.1f} "
        f"| {r['faces']:,} | {r['errors']} | {r['mb_second_quarter']:.0f} | {r['mb_last_quarter']:.0f} "
        f"| {r['mb_most']:.0f} |"
        for name, r in results["runs"].items()
    ]
    drivers, others = killed["kills"]["driver"], killed["kills"]["worker"]
    lines += [
        "",
        f"Killed (SIGKILL) at {drivers + others} random moments, {drivers} times the driver, {others} times",
        f"a worker ({killed['pictures']:,} pictures in shards of {killed['shard_size']}, two workers, jobs:",
        f"{killed['jobs']}): the files are {same[killed['identical']]};",
        f"{killed['recomputed_pictures']:,} pictures were begun more than once.",
    ]
    return "\n".join(lines) + "\n"


def _git(*words: str) -> str:
    return subprocess.check_output(["git", *words], cwd=HERE, text=True).strip()


if __name__ == "__main__":
    main()
