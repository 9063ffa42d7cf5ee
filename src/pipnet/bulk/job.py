"""A whole job: planned or taken up again, worked off, and closed."""

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
from pipnet.bulk.config import JobConfig
from pipnet.bulk.engines.base import Engine, run
from pipnet.bulk.inputs import common_folder, find_pictures, find_sources
from pipnet.bulk.store import FORMAT, Record, Store
from pipnet.bulk.worker import Work
from pipnet.errors import DataError
from pipnet.metadata import ModelMetadata
from pipnet.progress import track


class Summary(NamedTuple):
    """What a job came to."""

    pictures: int
    """Pictures of the whole job."""
    faces: int
    """Faces found in them."""
    errors: int
    """Pictures that could not be read."""
    new_pictures: int
    """Pictures that this run did; the others were done before."""
    new_faces: int
    """Faces in them."""
    seconds: float
    """How long this run took."""


def annotate(
    names: Sequence[str],
    store: Store,
    config: JobConfig,
    metadata: ModelMetadata,
    start: Callable[[Work], Engine],
    *,
    column: str | None = None,
    threads: int = 1,
    timeout: float = 300,
) -> Summary:
    """Annotate pictures, or go on with it.

    Args:
        names: folders, lists, tar files, Parquet tables, pictures; globs and braces of them.
        store: the job's folder, entered.
        config: what the labels depend on.
        metadata: the model's description.
        start: makes the engine; not called where nothing is left to do.
        column: where Parquet tables have the pictures, see `find_pictures`.
        threads: of each process.
        timeout: seconds that one picture may take before its process is ended.

    Raises:
        WriteError: the folder cannot be written.
        DataError: no pictures, another job's folder, the pictures are gone.
        PipnetError: see `run`.
    """
    started = time.monotonic()
    job = _begin(names, store, config, metadata, column)
    finished = store.finished()
    if finished is not None:
        return _summary(finished, [], started)
    before = store.done()
    fresh: list[Record] = []
    work = Work(config, job["model"]["sha256"], Path(job["base"]), store.folder, threads, timeout)
    done = sum(record.pictures for record in before.values())
    with closing(_work_off(store, lambda: start(work), before)) as found:
        for record in track(found, job["pictures"], "annotating", lambda record: record.pictures, done):
            store.note(record)
            fresh.append(record)
    records = sorted([*before.values(), *fresh], key=lambda record: record.number)
    store.write_manifest({**job, "shards": [asdict(record) for record in records]})
    return _summary(records, fresh, started)


def _work_off(
    store: Store, start: Callable[[], Engine], done: Mapping[int, Record]
) -> Generator[Record, None, None]:
    """The records of the shards that are left; where none is, no engine is started."""
    left = (shard for shard in store.shards() if shard.number not in done)
    first = next(left, None)
    if first is not None:
        yield from run(start(), chain([first], left), store)


def _begin(
    names: Sequence[str], store: Store, config: JobConfig, metadata: ModelMetadata, column: str | None
) -> dict[str, Any]:
    """The manifest: as it was begun, or a new one, with the plan.

    Raises:
        DataError: the folder is of another job, or there are no pictures.
    """
    wanted: dict[str, Any] = {
        "format": FORMAT,
        "pipnet": pipnet.__version__,
        "model": {
            "name": metadata.name,
            "sha256": config.model_checksum(),
            "license": metadata.license,
            "scheme": json.loads(json.dumps(metadata.scheme.to_dict())),  # as it is read back
        },
        "settings": config.to_dict(),
        "inputs": [os.path.abspath(name) for name in names],  # noqa: PTH100  (links stay)
        "column": column,
    }
    begun = store.manifest()
    if begun is not None:
        _check_same(begun, wanted, str(store.folder))
        if "shards" in begun or store.has_plan():
            return begun
    else:
        store.forget()
    sources = find_sources(names)
    base = common_folder(sources)
    pictures = track(find_pictures(sources, base, column), None, "listing pictures")
    count, checksum = store.write_plan(pictures, config.shard_size)
    if not count:
        raise DataError(f"{', '.join(names):.200}: no pictures")
    job = {**wanted, "base": str(base), "pictures": count, "plan": checksum}
    if begun is not None:
        # Somebody took the plan away. The same pictures make the same one.
        _check_same(begun, job, str(store.folder))
    store.write_manifest(job)
    return job


def _check_same(begun: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Refuse to mix the labels of two jobs in one folder.

    Raises:
        DataError: they differ; the first difference is named.
    """
    for key, value in wanted.items():
        old = begun.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            _check_same(old, value, where)
        elif old != value:
            raise DataError(
                f"{where}: begun with {key} {_short(old)}, not {_short(value)}: take the same, or another -o"
            )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text:.100}"


def _summary(records: Sequence[Record], fresh: Sequence[Record], started: float) -> Summary:
    return Summary(
        pictures=sum(record.pictures for record in records),
        faces=sum(record.faces for record in records),
        errors=sum(record.errors for record in records),
        new_pictures=sum(record.pictures for record in fresh),
        new_faces=sum(record.faces for record in fresh),
        seconds=time.monotonic() - started,
    )
