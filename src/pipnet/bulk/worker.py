"""What each process of a job does, whichever engine started it: shards in, files and records out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import PIL.Image

from pipnet.bulk.config import JobConfig
from pipnet.bulk.crash_journal import Attempt
from pipnet.bulk.reader import ImageReader
from pipnet.bulk.rows import to_parquet
from pipnet.bulk.shard import Shard, ShardLabels
from pipnet.bulk.store import Record, Store
from pipnet.errors import DataError, PipnetError, WriteError
from pipnet.inference.landmarker import FaceLandmarker


@dataclass(frozen=True)
class Work:
    """What a process must know. It travels to other processes, and with Ray to other machines."""

    config: JobConfig
    """What the labels depend on."""
    model_sha256: str
    """The model's checksum: another machine may have another one by the same name."""
    base: Path
    """The folder that references start from."""
    labels: Path
    """The job's folder."""
    threads: int
    """Threads of each process."""
    timeout: float
    """Seconds that one picture may take."""


class Worker:
    """Annotates shards. The model is loaded when the first one comes."""

    def __init__(self, work: Work) -> None:
        self._work, self._store = work, Store(work.labels)
        self._landmarker: FaceLandmarker | None = None

    def annotate(self, shard: Shard) -> Record | str:
        """Label a shard and write its file.

        Returns:
            What was done; or, as text, why the job cannot go on.
        """
        try:
            return self._annotate(shard)
        except PipnetError as error:
            return str(error)
        except MemoryError:
            # As if the system had ended it: tried again in a fresh process, given up the third time.
            os._exit(1)
        except Exception as error:
            return f"shard {shard.number}: unexpected {type(error).__name__}: {error}"

    def _annotate(self, shard: Shard) -> Record:
        landmarker = self._loaded()
        reader = ImageReader(self._work.base)
        try:
            with Attempt(self._store.marks_file(shard.number), self._work.timeout) as attempt:
                pictures = ShardLabels(landmarker, shard, reader, attempt).find()
        except OSError as error:
            where = error.filename or self._work.labels
            raise WriteError(f"{where}: cannot be written here: {error.strerror or error}") from None
        rows = [row for picture in pictures for row in picture]
        return Record(
            number=shard.number,
            pictures=len(pictures),
            faces=sum("face" in row for row in rows),
            errors=sum("error" in row for row in rows),
            rows=len(rows),
            sha256=self._store.write_shard(shard.number, to_parquet(rows)),
        )

    def _loaded(self) -> FaceLandmarker:
        if self._landmarker is None:
            PIL.Image.MAX_IMAGE_PIXELS = None  # this process is ours, and max_pixels is checked instead
            cv2.setNumThreads(self._work.threads)
            config = self._work.config
            if config.model_checksum() != self._work.model_sha256:
                raise DataError(
                    f"{config.landmarker.model}: another model here than where the job was started"
                )
            self._landmarker = config.load(self._work.threads)
        return self._landmarker
