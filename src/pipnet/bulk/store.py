"""A job's folder: the plan, the progress, the labels and the lock.

::

    LABELS/manifest.json         model, settings, inputs; of a finished job, each shard with its SHA-256
    LABELS/shards/00000.parquet  the labels, written atomically
    LABELS/.work/                until the job is finished: lock, plan, progress, crash journals

Files are written to a temporary file, synced to the disk and renamed, so that a kill or a power cut at any
moment leaves no partial file.
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
from typing import Any, get_args

from pipnet.bulk.crash_journal import CrashJournal
from pipnet.bulk.inputs import ImageReference, ReferenceKind
from pipnet.bulk.shard_labeler import Shard
from pipnet.errors import DataError, MissingExtraError, WriteError, one_line
from pipnet.io.atomic import atomic_write
from pipnet.io.regular_file import open_file, read_file

FORMAT = 3
"""Version of the manifest and the shards."""


@dataclass(frozen=True)
class ShardRecord:
    """The manifest's entry of a finished shard."""

    number: int
    """Index of the shard in the plan."""
    images: int
    """Number of images."""
    faces: int
    """Number of faces in them."""
    errors: int
    """Number of images that could not be read."""
    rows: int
    """Number of rows of the file."""
    sha256: str
    """SHA-256 of the file."""
    low_quality: int = 0
    """Number of faces with a quality below `LOW_QUALITY`; 0 if the model is not calibrated."""


_MANIFEST_TYPES = {"format": int, "model": dict, "settings": dict, "inputs": list, "base": str} | {
    "images": int,
    "plan": str,
    "shards": list,
}
"""Types of a manifest's values."""


def _record(values: Any, file: Path) -> ShardRecord:
    """Return the record of plain data.

    Raises:
        DataError: it is no record; ``file`` is named.
    """
    try:
        record = ShardRecord(**values)
    except TypeError as error:
        raise DataError(f"{file}: not a record of a shard: {one_line(error)}") from None
    counts = [value for name, value in vars(record).items() if name != "sha256"]
    if (
        not all(type(count) is int and 0 <= count < 2**63 for count in counts)
        or type(record.sha256) is not str
    ):
        raise DataError(f"{file}: not a record of a shard: {values!s:.80}")
    return record


def _reference(values: Any) -> ImageReference:
    """Return the reference of plain data.

    Raises:
        ValueError, TypeError: it is none.
    """
    reference = ImageReference(*values)
    types = [type(value) for value in reference]
    is_known = types == [str, str, str, int, int] and reference.kind in get_args(ReferenceKind)
    if not is_known or min(reference.start, reference.size) < 0:
        raise ValueError(f"not a reference to an image: {values!s:.80}")
    return reference


def _is_work_file(path: Path) -> bool:
    return path.name in {"lock", "plan.jsonl", "done.jsonl"} or path.suffix in {".journal", ".partial"}


class Store:
    """A job's folder. As a context manager it locks the folder against other jobs."""

    def __init__(self, folder: Path) -> None:
        """Take the path of the folder; nothing is written yet."""
        self.folder = folder.absolute()
        self.manifest_file = self.folder / "manifest.json"
        self.work = self.folder / ".work"
        self._plan = self.work / "plan.jsonl"
        self._done = self.work / "done.jsonl"

    def __enter__(self) -> Store:
        """Make the folder and lock it.

        Raises:
            WriteError: the folder cannot be written.
            DataError: it contains other files, or another job writes to it.
            MissingExtraError: filelock is not installed.
        """
        try:
            from filelock import FileLock, Timeout
        except ImportError:
            raise MissingExtraError("filelock", "bulk") from None
        try:
            self._check_folder()
            self.work.mkdir(parents=True, exist_ok=True)
            (self.folder / "shards").mkdir(exist_ok=True)
            # The operating system releases the lock if the process dies.
            self._lock = FileLock(self.work / "lock")
            self._lock.acquire(timeout=0)
            for partial in self.work.glob("*.partial"):
                partial.unlink()
        except Timeout:
            raise DataError(f"{self.folder}: another job is writing to this folder") from None
        except OSError as error:
            raise self._write_error(error) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _check_folder(self) -> None:
        """Refuse a folder with other files, before anything is made in it."""
        if self.manifest() is not None:
            return
        is_ours = self.work.is_dir() and all(map(_is_work_file, self.work.iterdir()))
        is_empty = not self.folder.is_dir() or not any(self.folder.iterdir())
        if any(self.folder.glob("shards/*")) or not (is_ours or is_empty):
            raise DataError(f"{self.folder}: not empty, and without the manifest of a job: choose another -o")

    # -- the plan ----------------------------------------------------------------------------------

    def write_plan(self, references: Iterable[ImageReference], shard_size: int) -> tuple[int, str]:
        """Write the plan, a shard a line, and return the number of images and the plan's SHA-256.

        Raises:
            WriteError: it cannot be written.
        """
        count, checksum, remaining = 0, hashlib.sha256(), iter(references)

        def lines() -> Iterator[bytes]:
            nonlocal count
            while shard := list(islice(remaining, shard_size)):
                line = json.dumps(shard).encode() + b"\n"
                checksum.update(line)
                count += len(shard)
                yield line

        self._write(self._plan, lines())
        return count, checksum.hexdigest()

    def has_plan(self) -> bool:
        """Return whether the plan exists."""
        return self._plan.is_file()

    def shards(self) -> Iterator[Shard]:
        """Yield the shards of the plan."""
        try:
            with open_file(self._plan) as lines:
                for number, line in enumerate(lines):
                    yield Shard(number, [_reference(values) for values in json.loads(line)])
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{self._plan}: not the plan of a job: {one_line(error)}") from None

    # -- the progress ------------------------------------------------------------------------------

    def write_shard(self, number: int, content: bytes) -> str:
        """Write the labels of a shard, and return the file's SHA-256.

        Raises:
            WriteError: it cannot be written.
        """
        self._write(self.shard_file(number), [content])
        return hashlib.sha256(content).hexdigest()

    def shard_file(self, number: int) -> Path:
        """Return the path of a shard's labels."""
        return self.folder / "shards" / f"{number:05}.parquet"

    def journal(self, number: int) -> CrashJournal:
        """Return the crash journal of a shard."""
        return CrashJournal(self.work / f"{number:05}.journal")

    def add_record(self, record: ShardRecord) -> None:
        """Record that a shard is finished, and remove its journal.

        Raises:
            WriteError: it cannot be written.
        """
        try:
            with self._done.open("ab+") as file:
                if file.tell():  # a kill may have cut off the last line
                    file.seek(-1, os.SEEK_END)
                    file.write(b"" if file.read() == b"\n" else b"\n")
                file.write(json.dumps(asdict(record)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self.journal(record.number).path.unlink(missing_ok=True)
        except OSError as error:
            raise self._write_error(error) from None

    def records(self) -> dict[int, ShardRecord]:
        """Return the records of the finished shards of an unfinished job, by number.

        A line that was cut off by a kill, or a missing file, only means that the shard is annotated again.

        Raises:
            DataError: a line is no record, though it was not cut off.
        """
        records = {}
        lines = self._done.read_bytes().split(b"\n")[:-1] if self._done.is_file() else []
        for line in lines:
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                continue
            record = _record(values, self._done)
            if self.shard_file(record.number).is_file():
                records[record.number] = record
        return records

    def discard_progress(self) -> None:
        """Remove the progress of an earlier job whose manifest and labels were removed.

        Raises:
            WriteError: a file cannot be removed.
        """
        try:
            for path in (self._done, *self.work.glob("*.journal")):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._write_error(error) from None

    # -- the manifest ------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest; None if there is none.

        Raises:
            DataError: it cannot be read, is damaged, or has another format.
        """
        try:
            content = json.loads(read_file(self.manifest_file))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{self.manifest_file}: not a manifest: {one_line(error)}") from None
        if not isinstance(content, dict):
            raise DataError(f"{self.manifest_file}: not a manifest")
        version = content.get("format", FORMAT)
        for key, kind in _MANIFEST_TYPES.items():
            if key in content and type(content[key]) is not kind:
                raise DataError(f"{self.manifest_file}: not a manifest: {key} is {content[key]!r:.80}")
        if version in range(1, FORMAT):
            raise DataError(
                f"{self.folder}: has the older format {version}; convert it: pipnet migrate {self.folder}"
            )
        if version != FORMAT:
            raise DataError(f"{self.folder}: written by another version of pipnet: choose another -o")
        return content

    def final_records(self) -> list[ShardRecord] | None:
        """Return the records of all shards of a finished job; None for an unfinished one.

        Raises:
            DataError: a shard's file is missing, or the manifest is damaged.
        """
        job = self.manifest()
        if job is None or "shards" not in job:
            return None
        records = [_record(values, self.manifest_file) for values in job["shards"]]
        for record in records:
            path = self.shard_file(record.number)
            if not path.is_file():
                raise DataError(f"{path}: missing, though the job is finished: choose another -o")
        return records

    def write_manifest(self, content: dict[str, Any]) -> None:
        """Write the manifest.

        Raises:
            WriteError: it cannot be written.
        """
        self._write(self.manifest_file, [json.dumps(content, indent=1).encode() + b"\n"])

    def remove_work_files(self) -> None:
        """Remove what only an unfinished job needs."""
        with contextlib.suppress(OSError):  # a folder with other files stays
            for path in filter(_is_work_file, self.work.iterdir()):
                path.unlink()
            self.work.rmdir()

    def write_lines(self, name: str, lines: Iterable[str]) -> Path:
        """Write a text file of any length into the folder, and return its path.

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
            if os.name == "posix":  # the rename is on the disk only when its folder is synced
                folder = os.open(target.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
        except OSError as error:
            raise self._write_error(error) from None

    def _write_error(self, error: OSError) -> WriteError:
        return WriteError(f"{error.filename or self.folder}: cannot be written: {error.strerror or error}")
