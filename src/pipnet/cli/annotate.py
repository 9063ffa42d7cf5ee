"""``pipnet annotate``: bulk annotation of images, sharded and resumable."""

from __future__ import annotations

from typing import Literal

from pipnet.bulk.engines.base import Engine
from pipnet.bulk.engines.local import LocalEngine
from pipnet.bulk.export import ExportFormat, export
from pipnet.bulk.inputs import parquet
from pipnet.bulk.job import Summary
from pipnet.bulk.job import annotate as run_job
from pipnet.bulk.job_config import JobConfig, resolve
from pipnet.bulk.store import Store
from pipnet.bulk.worker import WorkerConfig
from pipnet.cli import say
from pipnet.cli.hints import say_hint
from pipnet.cli.options import (
    DEFAULT_LANDMARKER,
    DEFAULT_RUNTIME,
    Images,
    LandmarkerFlags,
    Output,
    RuntimeFlags,
)
from pipnet.config import available_cores
from pipnet.errors import PipnetError
from pipnet.io.text import counted

SHARD_SIZE = 256
"""Images in a shard: some seconds of work, which is what a kill costs at most."""


def annotate(
    *images: Images,
    output: Output,
    format: list[ExportFormat] | None = None,  # noqa: A002
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    config: LandmarkerFlags = DEFAULT_LANDMARKER,
    runtime: RuntimeFlags = DEFAULT_RUNTIME,
    column: str | None = None,
    shard_size: int = SHARD_SIZE,
    timeout: float = 300,
) -> int:
    """Find faces and landmarks in any number of images, and write them as Parquet files.

    A stopped job is resumed by a rerun with the same arguments, and ends with the same files. An image that
    cannot be read is a row with an error. The exit code is 1 if no image could be read, else 0.

    Parameters
    ----------
    images
        Folders, .txt lists, .tar files (WebDataset), .parquet tables or images; globs and braces.
    output
        Folder of the job: manifest.json, and shards/*.parquet with a row per face.
    format
        Also write labels.jsonl (jsonl) or labels.coco.json (coco), in this run or in a later one; may be
        given several times.
    workers
        Processes with a model each; if not given, one per processor core, or as many as Ray has room for.
    engine
        local, or ray: a cluster (RAY_ADDRESS) in which all machines see the images and the output folder.
    column
        Column of Parquet tables with the images (bytes) or their paths; image or path if not given.
    shard_size
        Images in an output file. A shard that was not finished is annotated again after a kill.
    timeout
        Seconds that an image may take. After that its process is ended, and after the third time the image
        is quarantined: its row has an error.
    """
    parquet()
    if not 0 < timeout < 1e6:
        raise PipnetError(f"--timeout must be a number of seconds above 0, not {timeout:g}")
    job_config, metadata = resolve(JobConfig(config, runtime, shard_size))
    # One thread each by default: several processes use a machine better than several threads.
    threads = runtime.threads or 1

    def start_engine(worker_config: WorkerConfig) -> Engine:
        if engine == "ray":
            from pipnet.bulk.engines.ray import RayEngine

            return RayEngine(worker_config, workers)
        return LocalEngine(
            worker_config, max(available_cores() // threads, 1) if workers is None else workers
        )

    with Store(output) as store:
        summary = run_job(
            images,
            store,
            job_config,
            metadata,
            start_engine,
            column=column,
            threads=threads,
            timeout=timeout,
        )
        for file_format in dict.fromkeys(format or []):
            say(f"{export(store, metadata, file_format)}: written")
        store.remove_work_files()
    errors = f", {counted(summary.errors, 'image')} with an error" if summary.errors else ""
    images_faces = f"{counted(summary.images, 'image')}, {counted(summary.faces, 'face')}"
    say(f"{output}: {images_faces}{errors}; {_speed(summary)}")
    say_hint(summary.low_quality, summary.faces, config)
    return 1 if summary.errors == summary.images else 0


def _speed(summary: Summary) -> str:
    if not summary.new_images:
        return "all were annotated before (for images that were added since, choose another -o)"
    images, faces = (count / summary.seconds for count in (summary.new_images, summary.new_faces))
    earlier = summary.images - summary.new_images
    was = "was" if earlier == 1 else "were"
    resumed = f", {counted(earlier, 'image')} {was} annotated before" if earlier else ""
    return f"{images:.1f} images and {faces:.1f} faces per second{resumed}"
