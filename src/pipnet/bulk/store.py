"""A job's folder: what is to be done, what is done, and who may write.

::

    LABELS/manifest.json         the model, the settings, the input; at the end every shard with its checksum
    LABELS/shards/00000.parquet  the labels; each is there whole or not at all
    LABELS/.work/                until the job is finished: lock, plan, what is done, marks

Files are written beside their place, brought to the disk, and renamed, so that a kill or a power cut at any
moment leaves none in pieces.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipnet.bulk.crash_journal import Marks
from pipnet.bulk.inputs import Reference
from pipnet.bulk.shard import Shard
from pipnet.errors import DataError, MissingExtraError, WriteError
from pipnet.io.atomic import atomic_write

FORMAT = 2
"""Version of the manifest and the shards."""


@dataclass(frozen=True)
class Record:
    """What the manifest says of a finished shard."""

    number: int
    """Its place among all."""
    pictures: int
    """How many it has."""
    faces: int
    """How many were found in them."""
    errors: int
    """Pictures that could not be read."""
    rows: int
    """Rows of its file."""
    sha256: str
    """The file's checksum."""


def _is_of_a_job(path: Path) -> bool:
    return path.name in {"lock", "plan.jsonl", "done.jsonl"} or path.suffix in {".marks", ".partial"}


class Store:
    """A job's folder. As a context, it keeps other jobs out."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is written yet."""
        self.folder = folder.absolute()
        self.work = self.folder / ".work"
        self._plan = self.work / "plan.jsonl"
        self._done = self.work / "done.jsonl"

    def __enter__(self) -> Store:
        """Make the folder and lock it.

        Raises:
            WriteError: it cannot be written.
            DataError: it holds other things, or another job works in it.
            MissingExtraError: filelock is not installed.
        """
        try:
            from filelock import FileLock, Timeout
        except ImportError:
            raise MissingExtraError("filelock", "bulk") from None
        try:
            self.manifest()  # another program's is an error, before anything is made beside it
            ours = self._is_ours() or self.manifest_file.is_file()
            alone = not self.manifest_file.is_file() and any(self.folder.glob("shards/*"))
            if alone or (not ours and self.folder.is_dir() and any(self.folder.iterdir())):
                raise DataError(
                    f"{self.folder}: not empty, and without the manifest of a job: choose another -o"
                )
            self.work.mkdir(parents=True, exist_ok=True)
            (self.folder / "shards").mkdir(exist_ok=True)
            # The system gives the lock back when its holder dies, however that is.
            self._lock = FileLock(self.work / "lock")
            self._lock.acquire(timeout=0)
            for partial in self.work.glob("*.partial"):
                partial.unlink()
        except Timeout:
            raise DataError(f"{self.folder}: another job is writing there") from None
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _is_ours(self) -> bool:
        """Whether the work folder is there, and holds nothing that is not a job's."""
        return self.work.is_dir() and all(_is_of_a_job(path) for path in self.work.iterdir())

    # -- the plan ----------------------------------------------------------------------------------

    def write_plan(self, pictures: Iterable[Reference], size: int) -> tuple[int, str]:
        """Write down what is to be done: a shard a line.

        Returns:
            How many pictures there are, and the plan's checksum.

        Raises:
            WriteError: it cannot be written.
        """
        count, checksum, rest = 0, hashlib.sha256(), iter(pictures)

        def lines() -> Iterator[bytes]:
            nonlocal count
            while shard := list(islice(rest, size)):
                line = json.dumps(shard).encode() + b"\n"
                checksum.update(line)
                count += len(shard)
                yield line

        self._write(self._plan, lines())
        return count, checksum.hexdigest()

    def forget(self) -> None:
        """Forget what an earlier job did, of which somebody took the manifest and the labels away.

        Raises:
            WriteError: it cannot be written.
        """
        try:
            for path in (self._done, *self.work.glob("*.marks")):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def has_plan(self) -> bool:
        """Whether the work was planned."""
        return self._plan.is_file()

    def shards(self) -> Iterator[Shard]:
        """The whole plan, shard by shard."""
        with self._plan.open("rb") as lines:
            for number, line in enumerate(lines):
                yield Shard(number, [Reference(*values) for values in json.loads(line)])

    # -- what is done ------------------------------------------------------------------------------

    def write_shard(self, number: int, content: bytes) -> str:
        """Write the labels of a shard, whole or not at all.

        Returns:
            The file's checksum.

        Raises:
            WriteError: it cannot be written.
        """
        self._write(self.shard_file(number), [content])
        return hashlib.sha256(content).hexdigest()

    def shard_file(self, number: int) -> Path:
        """Where the labels of a shard are."""
        return self.folder / "shards" / f"{number:05}.parquet"

    def marks(self, number: int) -> Marks:
        """What was begun of a shard."""
        return Marks(self.marks_file(number))

    def marks_file(self, number: int) -> Path:
        """Where the marks of a shard are."""
        return self.work / f"{number:05}.marks"

    def note(self, record: Record) -> None:
        """Note that a shard is finished; its marks are no longer needed.

        Raises:
            WriteError: it cannot be written.
        """
        try:
            with self._done.open("ab") as file:
                file.write(json.dumps(asdict(record)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self.marks_file(record.number).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def done(self) -> dict[int, Record]:
        """The finished shards by number.

        A line that was cut off by a kill, and a file that is gone, only mean that a shard is done again.
        """
        records = {}
        lines = self._done.read_bytes().split(b"\n")[:-1] if self._done.is_file() else []
        for line in lines:
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError):
                continue
            if self.shard_file(record.number).is_file():
                records[record.number] = record
        return records

    # -- the manifest ------------------------------------------------------------------------------

    @property
    def manifest_file(self) -> Path:
        """Where the manifest is."""
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest; None if nothing was begun.

        Raises:
            DataError: it cannot be read, is damaged, or of another version.
        """
        try:
            content = json.loads(self.manifest_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{self.manifest_file}: not a manifest: {error}") from None
        if not isinstance(content, dict):
            raise DataError(f"{self.manifest_file}: not a manifest")
        if content.get("format", FORMAT) != FORMAT:
            raise DataError(f"{self.manifest_file}: of another version of pipnet: annotate into another -o")
        return content

    def finished(self) -> list[Record] | None:
        """Every shard, of a finished job; None for another.

        Raises:
            DataError: a shard's file is gone, or the manifest is damaged.
        """
        job = self.manifest()
        if job is None or "shards" not in job:
            return None
        try:
            records = [Record(**facts) for facts in job["shards"]]
        except TypeError as error:
            raise DataError(f"{self.manifest_file}: damaged: {error}") from None
        for record in records:
            if not self.shard_file(record.number).is_file():
                raise DataError(f"{self.shard_file(record.number)}: gone since it was made: take another -o")
        return records

    def write_manifest(self, content: dict[str, Any]) -> None:
        """Write the manifest.

        Raises:
            WriteError: it cannot be written.
        """
        self._write(self.manifest_file, [json.dumps(content, indent=1).encode() + b"\n"])

    def finish(self) -> None:
        """Take away what only an unfinished job needs."""
        with contextlib.suppress(OSError):  # what is not a job's stays, and its folder with it
            for path in filter(_is_of_a_job, self.work.iterdir()):
                path.unlink()
            self.work.rmdir()

    def write_lines(self, name: str, lines: Iterable[str]) -> Path:
        """Write a text file of any length into the folder, whole or not at all.

        Raises:
            WriteError: it cannot be written.
        """
        target = self.folder / name
        self._write(target, (line.encode() for line in lines))
        return target

    def _write(self, target: Path, parts: Iterable[bytes]) -> None:
        partial = self.work / f"{target.name}.{uuid.uuid4().hex}.partial"
        with atomic_write(target, partial), partial.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        try:
            if os.name == "posix":  # the new name too is on the disk only when its folder is
                folder = os.open(target.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> WriteError:
        return WriteError(f"{error.filename or self.folder}: cannot be written: {error.strerror or error}")
