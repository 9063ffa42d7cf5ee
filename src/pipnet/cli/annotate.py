"""``pipnet annotate``: labels of any number of pictures, resumable, with nothing lost and nothing twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pipnet.bulk.config import JobConfig, resolve
from pipnet.bulk.engines.base import Engine
from pipnet.bulk.engines.local import LocalEngine
from pipnet.bulk.export import Format, export
from pipnet.bulk.inputs import parquet
from pipnet.bulk.job import Summary
from pipnet.bulk.job import annotate as run_job
from pipnet.bulk.store import Store
from pipnet.bulk.worker import Work
from pipnet.cli import say
from pipnet.config import LandmarkerConfig, RuntimeConfig
from pipnet.errors import PipnetError

SHARD_SIZE = 256
"""Pictures in a shard: some seconds of work, which is what a kill costs at most."""


def annotate(
    pictures: list[str],
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    format: list[Format] | None = None,  # noqa: A002
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    finding: Annotated[LandmarkerConfig, Parameter(name="*")] = LandmarkerConfig(),  # noqa: B008  (frozen)
    runtime: Annotated[RuntimeConfig, Parameter(name="*")] = RuntimeConfig(),  # noqa: B008  (frozen)
    column: str | None = None,
    shard_size: int = SHARD_SIZE,
    timeout: float = 300,
) -> int:
    """Find faces and landmarks in any number of pictures, and write them as Parquet files.

    Stopped at any moment and started again with the same words, it goes on, and ends with the same files as
    if never stopped. A picture that cannot be read is a row with an error, and the exit code is 0 all the
    same; it is 1 where not one picture could be read.

    Parameters
    ----------
    pictures
        A folder, a .txt list, .tar files (WebDataset) or .parquet tables, or pictures; globs and braces too.
    output
        Folder of the job: manifest.json, and shards/*.parquet with a row a face.
    format
        Write labels.jsonl or labels.coco.json (coco) too; may be asked for later, and several times.
    workers
        Processes with a model each; one a processor core if not given, or all that Ray has room for.
    engine
        local, or ray: a cluster (RAY_ADDRESS), whose machines all see the pictures and the output.
    column
        Where Parquet tables have the pictures (bytes) or their paths; image or path if not given.
    shard_size
        Pictures in an output file, which is also what is done again after a kill.
    timeout
        Seconds that a picture may take; its process is then ended, and the third time it is given up.
    """
    parquet()
    if not 0 < timeout < 1e6:
        raise PipnetError(f"--timeout is a number of seconds above 0, not {timeout:g}")
    config, metadata = resolve(JobConfig(finding, runtime, shard_size))
    # One thread each: several processes use a machine better than several threads.
    threads = runtime.threads or 1

    def start(work: Work) -> Engine:
        if engine == "ray":
            from pipnet.bulk.engines.ray import RayEngine

            return RayEngine(work, workers)
        return LocalEngine(work, max(_cores() // threads, 1) if workers is None else workers)

    with Store(output) as store:
        done = run_job(
            pictures, store, config, metadata, start, column=column, threads=threads, timeout=timeout
        )
        for kind in dict.fromkeys(format or []):
            say(f"{export(store, metadata, kind)}: written")
        store.finish()
    _report(output, done)
    return 1 if done.errors == done.pictures else 0


def _report(output: Path, done: Summary) -> None:
    """The summary line."""
    unreadable = f", {done.errors} pictures with an error" if done.errors else ""
    say(f"{output}: {done.pictures} pictures, {done.faces} faces{unreadable}; {_speed(done)}")


def _speed(done: Summary) -> str:
    if not done.new_pictures:
        return "all done before (pictures that came later need another -o)"
    pictures, faces = (count / done.seconds for count in (done.new_pictures, done.new_faces))
    earlier = done.pictures - done.new_pictures
    before = f", {earlier} of the pictures done before" if earlier else ""
    return f"{pictures:.1f} pictures and {faces:.1f} faces a second{before}"


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
