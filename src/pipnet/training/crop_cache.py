"""Decoded faces, kept on disk so that no epoch waits for JPEG.

The cache is invisible: it holds what the pictures hold, is rebuilt when it is missing or when a picture
or label changes, stays below a limit (the sets not used for longest go first), and may be deleted at any
time. Where it cannot be kept, because the set is larger than the limit or the disk is full, faces are
decoded each time. Parts of pictures are cut at whole pixels and shrunk only by whole factors, so that what
the model sees is one bilinear warp away from the photo, with or without the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError, PipnetError
from pipnet.geometry import Box, CropConfig, Image, Points
from pipnet.hub import cache_folder
from pipnet.io.image import read_image

_VERSION = 1
_LIMIT_GB = 8.0
_STALE = 3600
"""Seconds after which a build that nobody finished is deleted."""
_AT_ONCE = 256
"""Faces decoded ahead of being written."""


class Part(NamedTuple):
    """The surroundings of a face: a part of its picture, perhaps shrunk by a whole factor."""

    image: Image
    left: int
    top: int
    shrink: int


class FaceCrop(NamedTuple):
    """The surroundings of a labeled face, with its labels in pixels of it."""

    image: Image
    points: Points
    face_box: Box
    """Of the face, which crops are cut around, see `CropConfig.face_box`."""


class FaceCrops:
    """The surroundings of each labeled face, decoded.

    ``crops[i]`` is the part of picture i within ``reach`` times its face's box (see `CropConfig.box`). A part
    much larger than ``resolution`` pixels a box is shrunk by a whole factor.

    Raises:
        DataError: a picture cannot be read. All such pictures are named at once.
    """

    def __init__(
        self,
        samples: Sequence[FaceSample],
        reach: float,
        resolution: int,
        box: Literal["landmarks", "dataset"] = "landmarks",
    ) -> None:
        self.samples = list(samples)
        self.around = CropConfig(box=box)
        self.reach = reach
        self.resolution = resolution
        self._folder = cache_folder() / "crops" / self._key()
        self._index, self._pixels = self._open()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> FaceCrop:
        return self._labeled(i, self._part(i))

    def crop_box(self, i: int, rule: CropConfig) -> Box:
        """The crop of face i in pixels of its picture, cut at the picture's border where the rule says so.

        The part reaches beyond every crop, so that only the picture's border can cut it.
        """
        part = self._part(i)
        height, width = part.image.shape[:2]
        box = rule(self._labeled(i, part).face_box, width, height)
        corner = np.tile([part.left, part.top], 2).astype(np.float32)
        return box * part.shrink + (part.shrink - 1) / 2 + corner

    def _labeled(self, i: int, part: Part) -> FaceCrop:
        """A part with the labels of its face."""
        points, given = _in_part(part, self.samples[i].points), self.samples[i].box
        given = None if given is None else _in_part(part, given.reshape(2, 2)).ravel()
        return FaceCrop(part.image, points, self.around.face_box(points, given))

    def __getstate__(self) -> dict[str, Any]:
        """Without the pixels: a worker process opens them itself instead of getting a copy."""
        return {**self.__dict__, "_pixels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._index is not None:
            self._index, self._pixels = self._open()

    def _part(self, i: int) -> Part:
        if self._index is None or self._pixels is None:
            return self._cut(i)
        start, height, width, left, top, shrink = self._index[i]
        flat = self._pixels[start : start + height * width * 3]
        return Part(np.asarray(flat).reshape(height, width, 3), left, top, shrink)

    def _cut(self, i: int) -> Part:
        sample = self.samples[i]
        image = read_image(sample.image)
        box = self.around.face_box(sample.points, sample.box)
        center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
        low = np.floor(center - side * self.reach / 2).astype(int).clip(0)
        high = (np.ceil(center + side * self.reach / 2).astype(int) + 1).clip(0)
        part = image[low[1] : high[1], low[0] : high[0]]
        if not part.size:
            raise DataError(f"{sample.name}: the landmarks lie outside {sample.image}")
        shrink = min(max(int(side / self.resolution), 1), *part.shape[:2])
        if shrink > 1:
            height, width = (n - n % shrink for n in part.shape[:2])
            small = (width // shrink, height // shrink)
            part = cv2.resize(part[:height, :width], small, interpolation=cv2.INTER_AREA)
        return Part(np.ascontiguousarray(part, dtype=np.uint8), int(low[0]), int(low[1]), shrink)

    # -- the cache ---------------------------------------------------------------------------------

    def _key(self) -> str:
        """A digest of all that the cached pixels depend on."""
        digest = hashlib.sha256(f"{_VERSION} {self.reach} {self.resolution}".encode())
        for s in self.samples:
            try:
                stat = s.image.stat()
            except OSError:
                continue  # named by `_build`, which reads every picture
            name = f"{s.image.resolve()} {stat.st_size} {stat.st_mtime_ns}"
            digest.update(name.encode("utf-8", "surrogateescape"))
            digest.update(self.around.face_box(s.points, s.box).tobytes() + s.points.tobytes())
        return digest.hexdigest()[:24]

    def _open(self) -> tuple[list[list[int]] | None, np.memmap | None]:
        """Index and pixels, built where they are missing or damaged; None twice where they cannot be kept."""
        reason = "it is damaged as soon as it is written"
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
                    os.utime(self._folder)
                    return index, pixels
            except (OSError, ValueError, LookupError):
                pass
            shutil.rmtree(self._folder, ignore_errors=True)
        text = f"faces are decoded anew each time: nothing can be kept in {cache_folder()}: {reason}"
        print(text, file=sys.stderr)  # noqa: T201
        return None, None

    def _build(self) -> None:
        """Decode all faces into the folder, which appears whole or not at all.

        Raises:
            DataError: a picture cannot be read.
            OSError: it cannot be kept.
        """
        parent = self._folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix="building-", dir=parent))
        try:
            index = self._write_pixels(building / "pixels.bin")
            (building / "index.json").write_text(json.dumps(index))
            with contextlib.suppress(OSError):  # another process deletes sets too
                _evict(parent, keep=building)
            with contextlib.suppress(OSError):  # another process was faster: its folder is as good
                building.rename(self._folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _write_pixels(self, path: Path) -> list[list[int]]:
        index, bad, start = [], [], 0
        with path.open("wb") as file, ThreadPoolExecutor(2) as pool:
            for first in range(0, len(self), _AT_ONCE):
                for part in pool.map(self._try_cut, range(first, min(first + _AT_ONCE, len(self)))):
                    if isinstance(part, PipnetError):
                        bad.append(str(part))
                        continue
                    height, width = part.image.shape[:2]
                    index.append([start, height, width, part.left, part.top, part.shrink])
                    file.write(part.image.data)
                    start += part.image.size
                    if start > _limit():
                        raise OSError(f"larger than the limit of the cache, {_limit()} bytes")
        if bad:
            raise DataError(f"{len(bad)} pictures cannot be used: {'; '.join(bad)}")
        return index

    def _try_cut(self, i: int) -> Part | PipnetError:
        try:
            return self._cut(i)
        except PipnetError as error:
            return error


def _in_part(part: Part, points: Points) -> Points:
    """Pixels of the picture -> pixels of a part of it."""
    corner = np.array([part.left, part.top])
    return np.asarray((points - corner - (part.shrink - 1) / 2) / part.shrink, dtype=np.float32)


def _evict(parent: Path, keep: Path) -> None:
    """Delete what kills left behind, then the sets not used for longest until the rest fits the limit."""
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
    """Bytes; ``$PIPNET_CACHE_GB`` sets another number of gigabytes."""
    given = os.environ.get("PIPNET_CACHE_GB", str(_LIMIT_GB))
    try:
        return float(given) * 2**30
    except ValueError:
        raise PipnetError(f"PIPNET_CACHE_GB is a number of gigabytes, not {given!r}") from None
