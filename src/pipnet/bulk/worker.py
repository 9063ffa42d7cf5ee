"""The worker of a job, which every engine runs: it takes shards, writes their files and returns records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from pipnet.bulk.crash_journal import MAX_FAILURES, Attempt
from pipnet.bulk.image_reader import ImageReader
from pipnet.bulk.job_config import JobConfig
from pipnet.bulk.rows import to_parquet
from pipnet.bulk.shard_labeler import Shard, ShardLabeler
from pipnet.bulk.store import ShardRecord, Store
from pipnet.confidence import LOW_QUALITY
from pipnet.errors import DataError, PipnetError, WriteError
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import ignore_pillow_warnings


def _is_low(quality: float | None) -> bool:
    return quality is not None and quality < LOW_QUALITY


@dataclass(frozen=True)
class WorkerConfig:
    """Everything that a worker needs. It is pickled for other processes and, with Ray, other machines."""

    config: JobConfig
    """The settings that the labels depend on."""
    sha256: str
    """`JobConfig.checksum`: another machine may have other files of the same names."""
    base: Path
    """The folder that references are relative to."""
    folder: Path
    """The job's folder."""
    threads: int
    """Threads of each worker."""
    timeout: float
    """Seconds that one image may take."""


class Worker:
    """Annotates shards. The model is loaded for the first one."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config, self._store = config, Store(config.folder)
        self._landmarker: FaceLandmarker | None = None

    def annotate(self, shard: Shard) -> ShardRecord | str:
        """Annotate a shard and write its file.

        Returns:
            The record of the shard; or, as a text, why the job cannot continue.
        """
        try:
            return self._annotate(shard)
        except PipnetError as error:
            return str(error)
        except MemoryError:
            # The process exits as if the system had killed it: the journal counts it as a failure.
            os._exit(1)
        except Exception as error:
            return f"shard {shard.number}: unexpected {type(error).__name__}: {error}"

    def _annotate(self, shard: Shard) -> ShardRecord:
        landmarker = self._load()
        reader = ImageReader(self._config.base)
        journal = self._store.journal(shard.number)
        try:
            with Attempt(journal.path, self._config.timeout) as attempt:
                rows_by_image = ShardLabeler(landmarker, shard, reader, attempt).label()
                rows = [row for image_rows in rows_by_image for row in image_rows]
                if not attempt.start_step("write", len(rows_by_image)):
                    raise DataError(
                        f"shard {shard.number} cannot be written: its worker died {MAX_FAILURES} times: start"
                        " anew with a smaller --shard-size"
                    )
                checksum = self._store.write_shard(shard.number, to_parquet(rows))
        except OSError as error:
            place = error.filename or self._config.folder
            raise WriteError(f"{place}: cannot be written here: {error.strerror or error}") from None
        return ShardRecord(
            number=shard.number,
            images=len(rows_by_image),
            faces=sum("face" in row for row in rows),
            errors=sum("error" in row for row in rows),
            rows=len(rows),
            sha256=checksum,
            low_quality=sum(_is_low(row.get("quality")) for row in rows),
        )

    def _load(self) -> FaceLandmarker:
        if self._landmarker is None:
            ignore_pillow_warnings()
            PIL.Image.MAX_IMAGE_PIXELS = None  # the process is our own, and max_pixels is checked instead
            config = self._config.config
            if config.checksum() != self._config.sha256:
                raise DataError(
                    f"{config.landmarker.model}: its file, or the detector's, differs from that of the job"
                )
            self._landmarker = config.load(self._config.threads)
        return self._landmarker
