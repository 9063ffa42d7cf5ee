"""A cache of decoded faces on disk, so that no epoch waits for JPEG decoding.

The cache never changes results: it is rebuilt when it is missing or when an image or label changes, stays
below a size limit (the least recently used sets of faces are deleted first), and may be deleted at any time.
Where it cannot be written, because the set is larger than the limit or the disk is full, faces are decoded
each time. Parts of images are cut at whole pixels and reduced only by whole factors, so that the model's
input is one bilinear warp away from the photo, with or without the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, PipnetError
from pipnet.geometry import Box, CropConfig, Image, Points
from pipnet.hub import cache_folder
from pipnet.io.image import read_image
from pipnet.io.text import counted
from pipnet.warp import reduce

_VERSION = 2
_LIMIT_GB = 8.0
_STALE = 3600
"""Seconds after which an unfinished build is deleted."""
_BATCH_SIZE = 256
"""Faces decoded before they are written."""
_log = logging.getLogger(__name__)


class Part(NamedTuple):
    """A part of an image around a face, perhaps reduced by a whole factor."""

    image: Image
    left: int
    top: int
    reduction: int


class FaceCrop(NamedTuple):
    """A part of an image around a labeled face; labels and box are in pixels of the part."""

    image: Image
    points: Points
    region: Box
    """The part that the model's crop shows, see `CropConfig.region`."""


class FaceCrops:
    """The decoded part of the image around each labeled face.

    ``crops[i]`` is the part of image i within ``margin`` times the model's crop. A part in which the crop is
    much larger than ``size`` pixels is reduced by a whole factor.

    Raises:
        DataError: images cannot be read. All of them are named in one message.
    """

    def __init__(
        self, samples: Sequence[FaceSample], crop_config: CropConfig, size: int, margin: float
    ) -> None:
        self.samples, self.crop_config = list(samples), crop_config
        self._reach = round(crop_config.scale * margin, 3)  # in sides of the face's box
        self._resolution = max(int(size / crop_config.scale), 1)  # pixels of the face's box
        self._folder = cache_folder() / "crops" / self._key()
        self._index, self._pixels = self._open()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> FaceCrop:
        return self._labeled(i, self._part(i))

    def crop_region(self, i: int) -> Box:
        """Return the crop of face i, xyxy in pixels of its image, clipped to the image if configured so.

        The part reaches beyond every crop, so only the border of the image can clip it.
        """
        part = self._part(i)
        corner = np.tile([part.left, part.top], 2).astype(np.float32)
        return self._labeled(i, part).region * part.reduction + (part.reduction - 1) / 2 + corner

    def _labeled(self, i: int, part: Part) -> FaceCrop:
        """Return a part with the labels and the crop of its face."""
        sample = self.samples[i]
        box, crop_box = (
            None if box is None else _in_part(part, box.reshape(2, 2)).ravel()
            for box in (sample.box, sample.crop_box)
        )
        sample = replace(sample, points=_in_part(part, sample.points), box=box, crop_box=crop_box)
        return FaceCrop(part.image, sample.points, sample.crop_region(self.crop_config, part.image))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pixels: a worker process opens the file itself instead of receiving a copy."""
        return {**self.__dict__, "_pixels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._index is not None:
            self._index, self._pixels = self._open()

    def _part(self, i: int) -> Part:
        if self._index is None or self._pixels is None:
            return self._cut(i)
        start, height, width, left, top, reduction = self._index[i]
        flat = self._pixels[start : start + height * width * 3]
        return Part(np.asarray(flat).reshape(height, width, 3), left, top, reduction)

    def _cut(self, i: int) -> Part:
        sample = self.samples[i]
        image = read_image(sample.image)
        box = sample.face_box(self.crop_config)
        center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
        low = np.floor(center - side * self._reach / 2).astype(int).clip(0)
        high = (np.ceil(center + side * self._reach / 2).astype(int) + 1).clip(0)
        part = image[low[1] : high[1], low[0] : high[0]]
        if not part.size:
            raise DataError(f"{sample.name}: the landmarks are outside of {sample.image}")
        reduction = min(max(int(side / self._resolution), 1), *part.shape[:2])
        if reduction > 1:
            height, width = (n - n % reduction for n in part.shape[:2])
            part = reduce(part[:height, :width], reduction)
        return Part(np.ascontiguousarray(part, dtype=np.uint8), int(low[0]), int(low[1]), reduction)

    # -- the cache ---------------------------------------------------------------------------------

    def _key(self) -> str:
        """Return a digest of everything that the cached pixels depend on."""
        digest = hashlib.sha256(f"{_VERSION} {self._reach} {self._resolution}".encode())
        for s in self.samples:
            try:
                stat = s.image.stat()
            except OSError:
                continue  # `_build` reads every image and names this one
            name = f"{s.image.resolve()} {stat.st_size} {stat.st_mtime_ns}"
            digest.update(name.encode("utf-8", "surrogateescape"))
            digest.update(s.face_box(self.crop_config).tobytes() + s.points.tobytes())
        return digest.hexdigest()[:24]

    def _open(self) -> tuple[list[list[int]] | None, np.memmap | None]:
        """Return index and pixels, built if missing or damaged; None twice if they cannot be kept."""
        reason = "it is damaged right after it was written"
        for _ in range(2):
            try:
                if not self._folder.exists():
                    self._build()
            except OSError as error:
                reason = error.strerror or str(error)
                break
            try:
                index = json.loads((self._folder / "index.json").read_text())
                pixels = np.memmap(self._folder / "pixels.bin", np.uint8, "r")
                start, height, width = index[-1][:3]
                if len(index) == len(self) and len(pixels) == start + height * width * 3:
                    with contextlib.suppress(OSError):  # a cache that may only be read
                        os.utime(self._folder)
                    return index, pixels
            except (OSError, ValueError, LookupError):
                pass
            shutil.rmtree(self._folder, ignore_errors=True)
        _log.warning(
            "faces are decoded each time: the cache in %s cannot be written: %s", cache_folder(), reason
        )
        return None, None

    def _build(self) -> None:
        """Decode all faces into the folder, atomically; an OSError means that they cannot be kept."""
        parent = self._folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix="building-", dir=parent))
        try:
            index = self._write_pixels(building / "pixels.bin")
            (building / "index.json").write_text(json.dumps(index))
            with contextlib.suppress(OSError):  # another process may delete sets too
                _evict(parent, keep=building)
            with contextlib.suppress(OSError):  # another process finished first: its folder is the same
                building.rename(self._folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _write_pixels(self, path: Path) -> list[list[int]]:
        index, errors, start = [], [], 0
        with path.open("wb") as file, ThreadPoolExecutor(2) as pool:
            for first in range(0, len(self), _BATCH_SIZE):
                for part in pool.map(self._try_cut, range(first, min(first + _BATCH_SIZE, len(self)))):
                    if isinstance(part, PipnetError):
                        errors.append(str(part))
                        continue
                    height, width = part.image.shape[:2]
                    index.append([start, height, width, part.left, part.top, part.reduction])
                    file.write(part.image.data)
                    start += part.image.size
                    if start > _limit():
                        raise OSError(f"the faces exceed the limit of {_limit():.0f} bytes")
        if errors:
            raise DataError(f"{counted(len(errors), 'image')} cannot be used: {'; '.join(errors)}")
        return index

    def _try_cut(self, i: int) -> Part | PipnetError:
        try:
            return self._cut(i)
        except PipnetError as error:
            return error


def _in_part(part: Part, points: Points) -> Points:
    """Return points in pixels of a part, of points in pixels of its image."""
    corner = np.array([part.left, part.top])
    return np.asarray((points - corner - (part.reduction - 1) / 2) / part.reduction, dtype=np.float32)


def _evict(parent: Path, keep: Path) -> None:
    """Delete unfinished builds, then the least recently used sets, until the others fit the limit."""
    old = time.time() - _STALE
    for folder in parent.glob("building-*"):
        if folder != keep and folder.stat().st_mtime < old:
            shutil.rmtree(folder, ignore_errors=True)
    sets = [p for p in parent.iterdir() if p.is_dir() and p != keep and not p.name.startswith("building-")]
    sets.sort(key=lambda p: p.stat().st_mtime)
    sizes = {p: sum(f.stat().st_size for f in p.iterdir()) for p in [*sets, keep]}
    while sets and sum(sizes[p] for p in [*sets, keep]) > _limit():
        shutil.rmtree(sets.pop(0), ignore_errors=True)


def _limit() -> float:
    """Return the size limit in bytes; ``$PIPNET_CACHE_GB`` sets it in gigabytes."""
    gigabytes = os.environ.get("PIPNET_CACHE_GB", str(_LIMIT_GB))
    try:
        return float(gigabytes) * 2**30
    except ValueError:
        raise PipnetError(f"PIPNET_CACHE_GB must be a number of gigabytes, not {gigabytes!r:.80}") from None
