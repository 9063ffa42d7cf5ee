"""A job that is killed repeatedly at random moments, driver or worker."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from scale.annotate.parts import KILL_SHARD_SIZE, checksum, run, start


def kill(images: Path, work: Path, kills: int) -> dict[str, Any]:
    """Kill a job repeatedly at random moments, and compare its files with those of a job without kills."""
    arguments = ("--workers", "2", "--shard-size", str(KILL_SHARD_SIZE))
    reference = run(images, work / "not killed", *arguments)
    random.seed(0)
    journals: dict[str, str] = {}
    done = {"driver": 0, "worker": 0}
    checksums, rounds, recomputed = set(), 0, 0
    while sum(done.values()) < kills:  # usually once; if a job ends before all kills, another one starts
        labels = work / f"killed {rounds}"
        shutil.rmtree(labels, ignore_errors=True)
        rounds += 1
        job = start(images, labels, *arguments)
        while True:
            wait = random.uniform(0, 2 * reference["seconds"] / kills)  # noqa: S311
            watch(job, labels, wait, journals)
            if job.poll() is not None:
                break
            target = random.choice(("driver", "worker"))  # noqa: S311
            if sum(done.values()) == kills:
                watch(job, labels, None, journals)
                break
            victims = list(workers(job.pid)) if target == "worker" else [psutil.Process(job.pid)]
            if not victims:
                continue
            random.choice(victims).kill()  # noqa: S311
            done[target] += 1
            if target == "driver":
                job.communicate()
                job = start(images, labels, *arguments)
        _, messages = job.communicate()
        if job.returncode:
            raise SystemExit(messages)
        checksums.add(checksum(labels))
        recomputed += sum(repeated_images(journal) for journal in journals.values())
        journals.clear()
    return {
        "images": reference["images"],
        "shard_size": KILL_SHARD_SIZE,
        "kills": done,
        "jobs": rounds,
        "identical": checksums == {reference["checksum"]},
        "recomputed_images": recomputed,
    }


def watch(job: subprocess.Popen[str], labels: Path, seconds: float | None, journals: dict[str, str]) -> None:
    """Watch a job for some time, or to its end, and keep the latest text of its crash journals."""
    started = time.monotonic()
    while job.poll() is None and (seconds is None or time.monotonic() - started < seconds):
        for path in labels.glob(".work/*.journal"):
            try:
                journals[path.name] = path.read_text()
            except FileNotFoundError:
                continue
        time.sleep(0.02)


def repeated_images(journal: str) -> int:
    """Return the number of images that were started in all attempts at a shard but the last."""
    attempts = journal.split("begin\n")[1:]
    return sum(line.isdigit() for attempt in attempts[:-1] for line in attempt.splitlines())


def workers(pid: int) -> Iterator[psutil.Process]:
    """Yield the worker processes of a driver."""
    try:
        for child in psutil.Process(pid).children():
            if any("spawn_main" in word for word in child.cmdline()):
                yield child
    except psutil.NoSuchProcess:
        return
