"""The faces that a job found, read back: what training learns from and the gallery shows."""

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
from pipnet.scheme import LandmarkScheme

_COLUMNS = ["image", "face", "points", "scores", "vote_std", "tta_std", "quality"]
_WITHIN = re.compile(r"(.*\.tar)/.|(.*\.parquet)#\d+$", re.IGNORECASE | re.DOTALL)
"""A picture inside another file, as `Reference.key` calls it."""


class AnnotatedFace(NamedTuple):
    """A face of a job."""

    label: PseudoLabel
    """Where it is, its landmarks, and what they are worth."""
    quality: float | None
    """Mean confidence of its landmarks in [0, 1]; None where the model is not calibrated."""


class AnnotatedFaces:
    """The faces of a job's folder, or of one of its shards. ``len`` is their number."""

    def __init__(self, path: Path, images: Path | None = None) -> None:
        """Find the shards and count their faces; nothing else is read yet.

        Args:
            path: the folder, with its manifest, or a shard in it.
            images: the folder that pictures are named from; as the manifest says if None.

        Raises:
            DataError: no job, a job without a finished shard, or a damaged one.
            MissingExtraError: pyarrow is not installed.
        """
        self.path = path
        one = not path.is_dir()
        store = Store(path.absolute().parent.parent if one else path)
        job = store.manifest()
        if job is None:
            raise DataError(f"{store.manifest_file}: not there: it says where the pictures of {path} lie")
        try:
            self.base = images or Path(job["base"])
            self.scheme = LandmarkScheme.from_dict(job["model"]["scheme"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{store.manifest_file}: not a manifest: {error!r}") from None
        self.scheme.check(str(store.manifest_file))
        records = None if one else store.finished()
        self.finished = one or records is not None
        """Whether these are all that the job is to find."""
        written = sorted((store.folder / "shards").glob("*.parquet"), key=lambda p: (len(p.name), p.name))
        self.files = [path] if one else [store.shard_file(r.number) for r in records or ()] or written
        self._counts, self.unreadable = [], 0
        """Pictures that the job could not read: they have no faces."""
        for file in self.files:
            table = read_shard(file, ["face", "error"])
            self._counts.append(len(table) - table["face"].null_count)
            self.unreadable += len(table) - table["error"].null_count
        if not sum(self._counts):
            raise DataError(f"{path}: no faces in its {len(self.files)} shards")

    def __len__(self) -> int:
        return sum(self._counts)

    def read(self, wanted: Sequence[int] | None = None) -> Iterator[AnnotatedFace]:
        """The faces, shard by shard; one shard is held at a time.

        Args:
            wanted: their numbers, ascending; all of them if None.

        Raises:
            DataError: a shard is damaged, or a picture lies inside another file.
        """
        numbers = np.arange(len(self)) if wanted is None else np.asarray(wanted, np.int64)
        ends = np.cumsum(self._counts)
        for file, count, end in zip(self.files, self._counts, ends.tolist(), strict=True):
            first, last = np.searchsorted(numbers, [end - count, end]).tolist()
            if first < last:
                yield from self._faces(file, numbers[first:last] - (end - count))

    def _faces(self, file: Path, numbers: np.ndarray) -> Iterator[AnnotatedFace]:
        table = read_shard(file, _COLUMNS)
        table = table.filter(table["face"].is_valid()).take(numbers)
        try:
            points, scores, vote_std, tta_std = (
                table[name]
                .combine_chunks()
                .flatten()
                .to_numpy()
                .reshape(len(table), self.scheme.landmarks, -1)
                for name in ("points", "scores", "vote_std", "tta_std")
            )
        except ValueError:
            raise DataError(f"{file}: not of {self.scheme.landmarks} landmarks a face") from None
        means = [part.mean(axis=(1, 2)).tolist() for part in (scores, vote_std, tta_std)]
        keys, places, qualities = (table[name].to_pylist() for name in ("image", "face", "quality"))
        for i, (key, place, quality) in enumerate(zip(keys, places, qualities, strict=True)):
            within = _WITHIN.match(key)
            if within and (self.base / (within[1] or within[2])).is_file():
                raise DataError(
                    f"{file}: {key} lies inside another file: unpack the pictures, annotate those"
                )
            name = f"{key}#{place + 1}" if place else key
            face = FaceSample(self.base / key, points[i].astype(np.float32), name, key)
            score, apart, views = (mean[i] for mean in means)
            yield AnnotatedFace(PseudoLabel(face, score, 100 * apart, 100 * views), quality)


def is_annotated(path: Path) -> bool:
    """Whether a path is the folder of a job, or one of its shards."""
    job = (path / "manifest.json").is_file() and (path / "shards").is_dir()
    return job or path.suffix.lower() == ".parquet"
