"""The faces of a job, read back for training and for the gallery."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.bulk.rows import read_shard
from pipnet.bulk.store import Store
from pipnet.datasets.pseudo_labels import PseudoLabel
from pipnet.errors import DataError
from pipnet.io.regular_file import typed_errors
from pipnet.scheme import LandmarkScheme

_ARRAYS = ["points", "scores", "vote_std", "tta_std"]
_INSIDE_CONTAINER = re.compile(r"(.*\.tar)/.|(.*\.parquet)#\d+$", re.IGNORECASE | re.DOTALL)
"""`ImageReference.key` of an image inside another file."""


class AnnotatedFace(NamedTuple):
    """A face of a job."""

    label: PseudoLabel
    """Its image and landmarks, and their estimated quality."""
    quality: float | None
    """Mean confidence of its landmarks in [0, 1]; None if the model is not calibrated."""


class AnnotatedFaces:
    """The faces in a job's folder, or in one of its shards. ``len`` is their number."""

    def __init__(self, path: Path, images: Path | None = None) -> None:
        """Find the shards and count their faces; nothing else is read yet.

        Args:
            path: the folder with its manifest, or a shard in it.
            images: the folder that image names are relative to; that of the manifest if None.

        Raises:
            DataError: not a job, a job without faces, or a damaged one.
            MissingExtraError: pyarrow is not installed.
        """
        self.path = path
        is_folder = path.is_dir()
        store = Store(path if is_folder else path.absolute().parent.parent)
        job = store.manifest()
        if job is None:
            raise DataError(f"{store.manifest_file}: missing; it has the image folder and scheme of {path}")
        with typed_errors(DataError, f"{store.manifest_file}: not a manifest"):
            self.base = images or Path(job["base"])
            self.scheme = LandmarkScheme.from_dict(job["model"]["scheme"])
            self.license = str(job["model"].get("license", "unknown"))
            """License of the model that labeled the faces."""
        self.scheme.check(str(store.manifest_file))
        self.files, self.finished = [path], True
        """The shards, and whether the job has finished them all."""
        if is_folder:
            records = store.final_records()
            self.finished = records is not None
            self.files = (
                sorted(store.folder.glob("shards/*.parquet"), key=lambda file: (len(file.name), file.name))
                if records is None
                else [store.shard_file(record.number) for record in records]
            )
        tables = [read_shard(file, ["face", "error"]) for file in self.files]
        self._counts = [len(table) - table["face"].null_count for table in tables]
        self.unreadable = sum(len(table) - table["error"].null_count for table in tables)
        """Number of images that could not be read."""
        if not sum(self._counts):
            raise DataError(f"{path}: no faces in its {len(self.files)} shards")

    def __len__(self) -> int:
        return sum(self._counts)

    def read(self, indices: Sequence[int] | None = None) -> Iterator[AnnotatedFace]:
        """Yield faces, with one shard in memory at a time.

        Args:
            indices: which faces, ascending; all of them if None.

        Raises:
            DataError: a shard is damaged, or an image is inside another file.
        """
        requested = np.arange(len(self)) if indices is None else np.asarray(indices, np.int64)
        ends = np.cumsum(self._counts)
        for file, count, end in zip(self.files, self._counts, ends.tolist(), strict=True):
            first, last = np.searchsorted(requested, [end - count, end]).tolist()
            if first < last:
                yield from self._read_shard(file, requested[first:last] - (end - count))

    def _read_shard(self, file: Path, indices: np.ndarray) -> Iterator[AnnotatedFace]:
        table = read_shard(file, ["image", "face", "quality", *_ARRAYS])
        table = table.filter(table["face"].is_valid()).take(indices)
        shape = len(table), self.scheme.landmarks, -1
        with typed_errors(DataError, f"{file}: not {self.scheme.landmarks} landmarks per face"):
            points, *qualities = (
                table[name].combine_chunks().flatten().to_numpy().reshape(shape) for name in _ARRAYS
            )
            columns = [table[name].to_pylist() for name in ("image", "face", "quality")]
        scores, vote_std, tta_std = (values.mean(axis=(1, 2)).tolist() for values in qualities)
        landmark_std = 100 * np.maximum(*qualities[1:])[..., 0].astype(np.float32)
        for i, (key, face, quality) in enumerate(zip(*columns, strict=True)):
            container = _INSIDE_CONTAINER.match(key)
            if container and (self.base / (container[1] or container[2])).is_file():
                raise DataError(
                    f"{file}: {key} is inside another file: unpack the images and annotate the unpacked ones"
                )
            name = f"{key}#{face + 1}" if face else key
            sample = FaceSample(self.base / key, points[i].astype(np.float32), name, key)
            label = PseudoLabel(
                sample, scores[i], 100 * vote_std[i], 100 * tta_std[i], landmark_std=landmark_std[i]
            )
            yield AnnotatedFace(label, quality)


def is_annotated(path: Path) -> bool:
    """Return whether a path is the folder of a job, or one of its shards."""
    is_job = (path / "manifest.json").is_file() and (path / "shards").is_dir()
    return is_job or path.suffix.lower() == ".parquet"
