"""The measured parts: complete jobs, stages of an image, the driver alone, merging."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
import tracemalloc
from itertools import cycle, islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pyarrow as pa

from pipnet.bulk.export import ExportFormat, export
from pipnet.bulk.inputs import find_references
from pipnet.bulk.job import annotate
from pipnet.bulk.job_config import JobConfig, resolve
from pipnet.bulk.job_reader import AnnotatedFaces
from pipnet.bulk.rows import face_rows, to_parquet
from pipnet.bulk.shard_labeler import Shard
from pipnet.bulk.store import ShardRecord, Store
from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.io.image import decode_image
from pipnet.metadata import ModelMetadata

DAMAGED_EVERY = 100
"""One of this number of images is damaged."""
KILL_SHARD_SIZE = 32
"""Images in a shard of the job that is killed: small, so that there are many shards."""
_TIMED_IMAGES = 400
"""Images whose stages are timed."""
_WARM_UP = 10
"""Images before them, which are not counted."""
_MEMORY_FACES = 20_000
"""Faces of the shard whose memory is measured."""


def make_images(folder: Path, shared: Path, count: int) -> Path:
    """Link real images under new names, a thousand in a folder; every hundredth is damaged."""
    real = sorted((shared / "data" / "unlabelled" / "wider").rglob("*.jpg"))
    for number, image in enumerate(islice(cycle(real), count)):
        path = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if number % DAMAGED_EVERY == DAMAGED_EVERY // 2:
            kind = number // DAMAGED_EVERY % 3
            content = image.read_bytes()
            path.write_bytes((content[: len(content) // 2], b"", b"no image")[kind])
        else:
            path.symlink_to(image)
    return folder


# -- complete jobs ----------------------------------------------------------------------------------------


def run(images: Path, labels: Path, *arguments: str) -> dict[str, Any]:
    """Run one job without interruption, and return its counts, speed, and the memory of all its processes."""
    shutil.rmtree(labels, ignore_errors=True)
    started = time.monotonic()
    memory: list[tuple[float, float]] = []
    with start(images, labels, *arguments) as job:
        while job.poll() is None:
            memory.append((round(time.monotonic() - started, 1), round(resident(job.pid) / 2**20, 1)))
            time.sleep(1)
        _, messages = job.communicate()
    seconds = time.monotonic() - started
    if job.returncode:
        raise SystemExit(messages)
    shards = json.loads((labels / "manifest.json").read_text())["shards"]
    count, faces = (sum(shard[key] for shard in shards) for key in ("images", "faces"))
    size = sum(path.stat().st_size for path in labels.glob("shards/*"))
    # Without the first quarter, in which processes load their models.
    steady = [megabytes for _, megabytes in memory[len(memory) // 4 :]]
    return {
        "arguments": " ".join(arguments),
        "seconds": round(seconds, 1),
        "images": count,
        "faces": faces,
        "errors": sum(shard["errors"] for shard in shards),
        "images_per_second": round(count / seconds, 2),
        "faces_per_second": round(faces / seconds, 2),
        "bytes_per_face": round(size / faces, 1),
        "mb_second_quarter": round(float(np.median(steady[: len(steady) // 3 or 1])), 1),
        "mb_last_quarter": round(float(np.median(steady[-(len(steady) // 3 or 1) :])), 1),
        "mb_max": max(megabytes for _, megabytes in memory),
        "checksum": checksum(labels),
        "memory": memory[:: max(len(memory) // 200, 1)],
    }


def start(images: Path, labels: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start or resume a job."""
    command = [sys.executable, "-m", "pipnet", "annotate", str(images), "-o", str(labels), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def resident(pid: int) -> int:
    """Return the resident memory of a process and its children, in bytes; shared pages count for each."""
    total = 0
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def checksum(labels: Path) -> str:
    """Return the SHA-256 of the names and contents of all files of a finished job."""
    digest = hashlib.sha256()
    for path in sorted(p for p in labels.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(labels)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# -- the worker -----------------------------------------------------------------------------------------


def stages(images: Path) -> dict[str, Any]:
    """Measure the stages of an image in one thread, the start of a worker, and the memory of its rows."""
    config, _ = _resolved_config()
    landmarker = config.load(threads=1)
    pipeline = landmarker.pipeline
    files = [path for path in sorted(images.rglob("*.jpg")) if path.is_symlink()][:_TIMED_IMAGES]
    times: list[tuple[float, ...]] = []
    rows: list[list[dict[str, Any]]] = []
    for path in [*files[:_WARM_UP], *files]:
        ends = [time.perf_counter()]
        image = decode_image(path.read_bytes(), path.name)
        ends.append(time.perf_counter())
        detections = pipeline.detector(image)
        ends.append(time.perf_counter())
        faces = pipeline.run([image], [detections], pipeline.detector.box_format)[0]
        ends.append(time.perf_counter())
        rows.append(face_rows(path.name, faces))
        ends.append(time.perf_counter())
        times.append(tuple(1000 * np.diff(ends)))
    shard = [row for image_rows in rows[_WARM_UP:] for row in image_rows]
    started = time.perf_counter()
    to_parquet(shard)
    packing = 1000 * (time.perf_counter() - started) / len(files)
    durations = np.array(times[_WARM_UP:])
    totals = durations.sum(axis=1)
    decode, detect, landmarks, rows_ms = durations.mean(axis=0).round(3).tolist()
    return {
        "images": len(files),
        "faces": sum("face" in row for row in shard),
        "decode_ms": decode,
        "detect_ms": detect,
        "landmarks_ms": landmarks,
        "write_ms": round(rows_ms + packing, 3),
        "variation": round(float(totals.std() / totals.mean()), 3),
        "start_seconds": round(statistics.median(_start_seconds(config) for _ in range(3)), 2),
        "memory_bytes_per_face": round(_memory_per_face(next(row for row in shard if "face" in row))),
    }


def _start_seconds(config: JobConfig) -> float:
    """Return the seconds that a new process takes until it can annotate."""
    imports = "from pipnet.bulk.job_config import JobConfig"
    imports += "; from pipnet.config import LandmarkerConfig, RuntimeConfig"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"{imports}; {config!r}.load(1)"], check=True)
    return time.perf_counter() - started


def _memory_per_face(row: dict[str, Any]) -> float:
    """Return the bytes of a face until its shard is written: as a row, and while it is packed."""
    tracemalloc.start()
    rows = [
        {key: np.array(v) if isinstance(v, np.ndarray) else v for key, v in row.items()}
        for _ in range(_MEMORY_FACES)
    ]
    as_rows, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    to_parquet(rows)
    return float((as_rows + pa.default_memory_pool().max_memory()) / _MEMORY_FACES)


# -- the driver ---------------------------------------------------------------------------------------


class _InstantEngine:
    """An engine whose shards are done at once, so that only the driver takes time."""

    size = 2

    def __init__(self) -> None:
        self._submitted: list[Shard] = []

    def submit(self, shard: Shard) -> None:
        self._submitted.append(shard)

    def wait(self) -> tuple[Shard, ShardRecord | None]:
        shard = self._submitted.pop()
        return shard, ShardRecord(shard.number, len(shard.images), 0, 0, len(shard.images), "0" * 64)

    def stop(self) -> None:
        self._submitted.clear()


def driver(images: Path, work: Path, count: int) -> dict[str, Any]:
    """Measure listing, planning and recording without annotation, per image and shard."""
    started = time.perf_counter()
    listed = sum(1 for _ in find_references([images], images, None))
    listing = time.perf_counter() - started
    names = work / "names.txt"
    names.write_text("".join(f"{number // 1000:06}/{number:09}.jpg\n" for number in range(count)))
    config, metadata = _resolved_config(KILL_SHARD_SIZE)
    labels = work / "driver"
    shutil.rmtree(labels, ignore_errors=True)
    times, plan_bytes = {}, 0
    with Store(labels) as store:

        def start_engine(_: object) -> _InstantEngine:
            nonlocal plan_bytes
            times["planned"] = time.perf_counter()
            plan_bytes = (store.work / "plan.jsonl").stat().st_size
            return _InstantEngine()

        started = time.perf_counter()
        annotate([str(names)], store, config, metadata, start_engine)
        times["done"] = time.perf_counter()
        manifest = store.manifest_file.stat().st_size
        shards = -(-count // KILL_SHARD_SIZE)
        tracemalloc.start()
        records = [ShardRecord(**entry) for entry in (store.manifest() or {})["shards"]]
        memory, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return {
        "images": count,
        "shards": len(records),
        "listed_per_second": round(listed / listing),
        "planned_per_second": round(count / (times["planned"] - started)),
        "plan_bytes_per_image": round(plan_bytes / count, 1),
        "seconds_per_shard": round((times["done"] - times["planned"]) / shards, 6),
        "manifest_bytes_per_shard": round(manifest / shards, 1),
        "memory_bytes_per_shard": round(memory / shards),
    }


def merging(labels: Path) -> dict[str, Any]:
    """Measure the export of a finished job into other formats, and the memory of a training on it."""
    _, metadata = _resolved_config()
    result: dict[str, Any] = {}
    with Store(labels) as store:
        faces = sum(record.faces for record in store.final_records() or ())
        for file_format in get_args(ExportFormat):
            started = time.perf_counter()
            file = export(store, metadata, file_format)
            seconds = time.perf_counter() - started
            result[file_format] = {
                "faces_per_second": round(faces / seconds),
                "bytes_per_face": round(file.stat().st_size / faces),
            }
            file.unlink()
        store.remove_work_files()
    started = time.perf_counter()
    count = sum(1 for _ in AnnotatedFaces(labels).read())
    seconds = time.perf_counter() - started
    tracemalloc.start()
    annotated = list(AnnotatedFaces(labels).read())
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        **result,
        "training": {
            "faces_per_second": round(count / seconds),
            "bytes_per_face": round(memory / len(annotated)),
        },
    }


def _resolved_config(shard_size: int = 256) -> tuple[JobConfig, ModelMetadata]:
    """Return the configuration of ``pipnet annotate`` without flags."""
    return resolve(JobConfig(LandmarkerConfig(), RuntimeConfig(), shard_size))
