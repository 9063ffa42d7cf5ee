"""A job from start to end: planned or resumed, annotated, and its manifest completed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pipnet
from pipnet.bulk.engines.base import Engine, run_shards
from pipnet.bulk.inputs import common_folder, find_inputs, find_references
from pipnet.bulk.job_config import JobConfig
from pipnet.bulk.store import FORMAT, ShardRecord, Store
from pipnet.bulk.worker import WorkerConfig
from pipnet.errors import DataError
from pipnet.metadata import ModelMetadata
from pipnet.progress import show_progress


class Summary(NamedTuple):
    """The result of a run of a job."""

    images: int
    """Number of images of the job."""
    faces: int
    """Number of faces in them."""
    low_quality: int
    """Number of faces with a quality below `LOW_QUALITY`; 0 if the model is not calibrated."""
    errors: int
    """Number of images that could not be read."""
    new_images: int
    """Number of images that this run annotated; earlier runs annotated the others."""
    new_faces: int
    """Number of faces in them."""
    seconds: float
    """Duration of this run."""


def annotate(
    names: Sequence[str],
    store: Store,
    config: JobConfig,
    metadata: ModelMetadata,
    start_engine: Callable[[WorkerConfig], Engine],
    *,
    column: str | None = None,
    threads: int = 1,
    timeout: float = 300,
) -> Summary:
    """Annotate images, or resume an unfinished job.

    Args:
        names: folders, lists, tar files, Parquet tables and images; globs and braces of them.
        store: the job's folder, entered.
        config: the settings that the labels depend on.
        metadata: the metadata of the model.
        start_engine: makes the engine; not called if no shard is left.
        column: the image column of Parquet tables, see `find_references`.
        threads: threads of each worker.
        timeout: seconds that one image may take before its worker is ended.

    Raises:
        WriteError: the folder cannot be written.
        DataError: there are no images, the folder belongs to another job, or the images are gone.
        PipnetError: see `run_shards`.
    """
    started = time.monotonic()
    job = _plan_or_resume(names, store, config, metadata, column)
    final = store.final_records()
    if final is not None:
        return _summary(final, [], started)
    earlier = store.records()
    new: list[ShardRecord] = []
    worker_config = WorkerConfig(
        config, job["model"]["sha256"], Path(job["base"]), store.folder, threads, timeout
    )
    done = sum(record.images for record in earlier.values())
    with closing(_run_remaining(store, lambda: start_engine(worker_config), earlier)) as results:
        for record in show_progress(results, job["images"], "annotating", lambda record: record.images, done):
            store.add_record(record)
            new.append(record)
    records = sorted([*earlier.values(), *new], key=lambda record: record.number)
    store.write_manifest({**job, "shards": [asdict(record) for record in records]})
    return _summary(records, new, started)


def _run_remaining(
    store: Store, start_engine: Callable[[], Engine], done: Mapping[int, ShardRecord]
) -> Generator[ShardRecord, None, None]:
    """Yield the records of the remaining shards; if there are none, no engine starts."""
    remaining = (shard for shard in store.shards() if shard.number not in done)
    first = next(remaining, None)
    if first is not None:
        yield from run_shards(start_engine(), chain([first], remaining), store)


def _plan_or_resume(
    names: Sequence[str], store: Store, config: JobConfig, metadata: ModelMetadata, column: str | None
) -> dict[str, Any]:
    """Return the manifest: that of the job to resume, or a new one after the plan is written."""
    expected: dict[str, Any] = {
        "format": FORMAT,
        "pipnet": pipnet.__version__,
        "model": {
            "name": metadata.name,
            "sha256": config.checksum(),
            "license": metadata.license,
            "scheme": json.loads(json.dumps(metadata.scheme.to_dict())),  # tuples as lists, as they are read
        },
        "settings": config.to_dict(),
        "inputs": [os.path.abspath(name) for name in names],  # noqa: PTH100  (keeps links)
        "column": column,
    }
    manifest = store.manifest()
    if manifest is None:
        store.discard_progress()
    else:
        _check_same(manifest, _without_scheme(expected), store.folder)
        if "shards" in manifest or store.has_plan():
            return manifest
    inputs = find_inputs(names)
    base = common_folder(inputs)
    references = show_progress(find_references(inputs, base, column), None, "listing images")
    count, checksum = store.write_plan(references, config.shard_size)
    if not count:
        raise DataError(f"{', '.join(names):.200}: no images")
    job = {**expected, "base": str(base), "images": count, "plan": checksum}
    if manifest is not None:  # the plan was removed; the same images give the same plan
        _check_same(manifest, _without_scheme(job), store.folder)
    store.write_manifest(job)
    return job


def _without_scheme(job: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest without the scheme: the model's checksum covers it, and its form changed."""
    return job | {"model": {key: value for key, value in job["model"].items() if key != "scheme"}}


def _check_same(manifest: dict[str, Any], expected: dict[str, Any], folder: Path) -> None:
    """Refuse to mix the labels of two jobs in one folder; the first difference is named."""
    for key, value in expected.items():
        old = manifest.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            _check_same(old, value, folder)
        elif old != value:
            raise DataError(
                f"{folder}: started with {key} {_short(old)}, not {_short(value)}: "
                "use the same arguments, or another -o"
            )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text:.80}"


def _summary(records: Sequence[ShardRecord], new: Sequence[ShardRecord], started: float) -> Summary:
    return Summary(
        images=sum(record.images for record in records),
        faces=sum(record.faces for record in records),
        low_quality=sum(record.low_quality for record in records),
        errors=sum(record.errors for record in records),
        new_images=sum(record.images for record in new),
        new_faces=sum(record.faces for record in new),
        seconds=time.monotonic() - started,
    )
