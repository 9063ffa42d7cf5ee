"""What benchmarks/scale.py measures: whole jobs, stages of a picture, the driver alone, merging, kills."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pyarrow as pa

from pipnet.bulk.annotated_faces import AnnotatedFaces
from pipnet.bulk.config import Settings, settle
from pipnet.bulk.export import export
from pipnet.bulk.inputs import find_pictures
from pipnet.bulk.job import annotate
from pipnet.bulk.rows import face_rows, to_parquet
from pipnet.bulk.shard import Shard
from pipnet.bulk.store import Record, Store
from pipnet.config import DETECTOR_SIZE, MAX_PIXELS, RuntimeConfig
from pipnet.hub import DEFAULT_MODEL
from pipnet.io.image import decode_image
from pipnet.metadata import ModelMetadata

DAMAGED = 100
"""One of so many pictures is damaged."""
KILL_SHARD = 32
"""Pictures in a shard of the job that is killed: small, so that there are many to be killed in."""
_STAGED = 400
"""Pictures whose stages are timed."""
_WARM = 10
"""Pictures before them that warm everything up."""
_HELD = 20_000
"""Faces of the shard whose memory is measured."""


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


# -- whole jobs ----------------------------------------------------------------------------------------


def run(pictures: Path, labels: Path, *how: str) -> dict[str, Any]:
    """One defer_signals job from its beginning: what it found, how fast, the memory of all its processes."""
    shutil.rmtree(labels, ignore_errors=True)
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
    size = sum(path.stat().st_size for path in labels.glob("shards/*"))
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
        "bytes_a_face": round(size / faces, 1),
        "mb_second_quarter": round(float(np.median(steady[: len(steady) // 3 or 1])), 1),
        "mb_last_quarter": round(float(np.median(steady[-(len(steady) // 3 or 1) :])), 1),
        "mb_most": max(megabytes for _, megabytes in memory),
        "checksum": checksum(labels),
        "memory": memory[:: max(len(memory) // 200, 1)],
    }


def start(pictures: Path, labels: Path, *how: str) -> subprocess.Popen[str]:
    """Begin, or go on with, a job."""
    command = [sys.executable, "-m", "pipnet", "annotate", str(pictures), "-o", str(labels), *how]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


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


# -- what a worker does --------------------------------------------------------------------------------


def stages(pictures: Path) -> dict[str, Any]:
    """What one picture costs one thread, by stage; how long a worker takes to begin; what its rows hold."""
    settings, _ = _settled()
    landmarker = settings.landmarker(threads=1)
    cv2.setNumThreads(1)
    files = [path for path in sorted(pictures.rglob("*.jpg")) if path.is_symlink()][:_STAGED]
    times: list[tuple[float, ...]] = []
    rows: list[list[dict[str, Any]]] = []
    for path in [*files[:_WARM], *files]:
        ends = [time.perf_counter()]
        image = decode_image(path.read_bytes(), path.name)
        ends.append(time.perf_counter())
        boxes = landmarker.detector(image)
        ends.append(time.perf_counter())
        faces = landmarker.at_boxes([image], [boxes], landmarker.detector.box_format)[0]
        ends.append(time.perf_counter())
        rows.append(face_rows(path.name, faces, np.zeros_like(faces.scores)))
        ends.append(time.perf_counter())
        times.append(tuple(1000 * np.diff(ends)))
    found = [row for of_picture in rows[_WARM:] for row in of_picture]
    began = time.perf_counter()
    to_parquet(found)
    packing = 1000 * (time.perf_counter() - began) / len(files)
    each = np.array(times[_WARM:])
    totals = each.sum(axis=1)
    decode, detect, landmarks, rows_ms = each.mean(axis=0).round(3).tolist()
    return {
        "pictures": len(files),
        "faces": sum("face" in row for row in found),
        "decode_ms": decode,
        "detect_ms": detect,
        "landmarks_ms": landmarks,
        "write_ms": round(rows_ms + packing, 3),
        "variation": round(float(totals.std() / totals.mean()), 3),
        "begin_seconds": round(statistics.median(_seconds_to_begin(settings) for _ in range(3)), 2),
        "held_bytes_a_face": round(_held(next(row for row in found if "face" in row))),
    }


def _seconds_to_begin(settings: Settings) -> float:
    """How long a fresh process takes until it can look at a picture."""
    code = f"from pipnet.bulk.config import Settings; Settings(**{asdict(settings)!r}).landmarker(1)"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def _held(row: dict[str, Any]) -> float:
    """Bytes of memory that a face takes until its shard is written: as a row, and as it is packed."""
    tracemalloc.start()
    rows = [
        {key: np.array(v) if isinstance(v, np.ndarray) else v for key, v in row.items()} for _ in range(_HELD)
    ]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    to_parquet(rows)
    return (held + pa.default_memory_pool().max_memory()) / _HELD


# -- what the driver does ------------------------------------------------------------------------------


class _NoWork:
    """An engine whose shards are done at once: what is left is the driver's own time."""

    size = 2

    def __init__(self) -> None:
        self._given: list[Shard] = []

    def give(self, shard: Shard) -> None:
        self._given.append(shard)

    def wait(self) -> tuple[Shard, Record | None]:
        shard = self._given.pop()
        return shard, Record(shard.number, len(shard.pictures), 0, 0, len(shard.pictures), "0" * 64)

    def stop(self) -> None:
        self._given.clear()


def driver(pictures: Path, work: Path, count: int) -> dict[str, Any]:
    """Listing, planning and noting without any work: seconds and bytes of each picture and shard."""
    began = time.perf_counter()
    listed = sum(1 for _ in find_pictures([pictures], pictures, None))
    listing = time.perf_counter() - began
    names = work / "names.txt"
    names.write_text("".join(f"{number // 1000:06}/{number:09}.jpg\n" for number in range(count)))
    settings, metadata = _settled(KILL_SHARD)
    labels = work / "driver"
    shutil.rmtree(labels, ignore_errors=True)
    seconds, plan = {}, 0
    with Store(labels) as store:

        def begin(_: object) -> _NoWork:
            nonlocal plan
            seconds["planned"] = time.perf_counter()
            plan = (store.work / "plan.jsonl").stat().st_size
            return _NoWork()

        began = time.perf_counter()
        annotate([str(names)], store, settings, metadata, begin)
        seconds["done"] = time.perf_counter()
        manifest = store.manifest_file.stat().st_size
        shards = -(-count // KILL_SHARD)
        tracemalloc.start()
        records = [Record(**facts) for facts in (store.manifest() or {})["shards"]]
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return {
        "pictures": count,
        "shards": len(records),
        "listed_a_second": round(listed / listing),
        "planned_a_second": round(count / (seconds["planned"] - began)),
        "plan_bytes_a_picture": round(plan / count, 1),
        "seconds_a_shard": round((seconds["done"] - seconds["planned"]) / shards, 6),
        "manifest_bytes_a_shard": round(manifest / shards, 1),
        "held_bytes_a_shard": round(held / shards),
    }


def merging(labels: Path) -> dict[str, Any]:
    """The labels of a finished job as one file of another format, and as what a training holds of them."""
    _, metadata = _settled()
    found: dict[str, Any] = {}
    with Store(labels) as store:
        faces = sum(record.faces for record in store.finished() or ())
        for kind in ("jsonl", "coco"):
            began = time.perf_counter()
            file = export(store, metadata, kind)
            seconds = time.perf_counter() - began
            found[kind] = {
                "faces_a_second": round(faces / seconds),
                "bytes_a_face": round(file.stat().st_size / faces),
            }
            file.unlink()
        store.finish()
    began = time.perf_counter()
    read = sum(1 for _ in AnnotatedFaces(labels).read())
    seconds = time.perf_counter() - began
    tracemalloc.start()
    kept = list(AnnotatedFaces(labels).read())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        **found,
        "training": {"faces_a_second": round(read / seconds), "bytes_a_face": round(held / len(kept))},
    }


def _settled(shard_size: int = 256) -> tuple[Settings, ModelMetadata]:
    """The settings of ``pipnet annotate`` without flags."""
    runtime = {key: value for key, value in asdict(RuntimeConfig()).items() if key != "threads"}
    sizes = {"detector_size": DETECTOR_SIZE, "max_pixels": MAX_PIXELS, "shard_size": shard_size}
    return settle(
        Settings(DEFAULT_MODEL, "auto", passes=1, tta="none", any_rotation=False, **sizes, **runtime)
    )


# -- kills ---------------------------------------------------------------------------------------------


def kill(pictures: Path, work: Path, kills: int) -> dict[str, Any]:
    """Kill a job again and again, at random moments, and compare what it ends with."""
    how = ("--workers", "2", "--shard-size", str(KILL_SHARD))
    defer_signals = run(pictures, work / "not killed", *how)
    random.seed(0)
    attempts: dict[str, str] = {}
    done = {"driver": 0, "worker": 0}
    checksums, rounds, recomputed = set(), 0, 0
    while sum(done.values()) < kills:  # usually once: where the job ends before all kills, it begins anew
        labels = work / f"killed {rounds}"
        shutil.rmtree(labels, ignore_errors=True)
        rounds += 1
        job = start(pictures, labels, *how)
        while True:
            wait = random.uniform(0, 2 * defer_signals["seconds"] / kills)  # noqa: S311
            watch(job, labels, wait, attempts)
            if job.poll() is not None:
                break
            target = random.choice(("driver", "worker"))  # noqa: S311
            if sum(done.values()) == kills:
                watch(job, labels, None, attempts)
                break
            victims = list(workers(job.pid)) if target == "worker" else [psutil.Process(job.pid)]
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
        "pictures": defer_signals["pictures"],
        "shard_size": KILL_SHARD,
        "kills": done,
        "jobs": rounds,
        "identical": checksums == {defer_signals["checksum"]},
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


def workers(pid: int) -> Iterator[psutil.Process]:
    """The processes that annotate for a driver."""
    try:
        for child in psutil.Process(pid).children():
            if any("spawn_main" in word for word in child.cmdline()):
                yield child
    except psutil.NoSuchProcess:
        return
