"""Decoded faces, kept on disk so that no epoch waits for JPEG.

The cache is invisible: it holds what the pictures hold, is rebuilt when it is missing or when a picture
or label changes, stays below a limit (the sets not used for longest go first), and may be deleted at any
time. Parts of pictures are cut at whole pixels and shrunk only by whole factors, so that what the model
sees is one bilinear warp away from the photo, with or without the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipnet.data.samples import FaceSample
from pipnet.errors import PipnetError
from pipnet.geometry import Image, Points, tight_box
from pipnet.hub import cache_folder
from pipnet.images import read_image

_VERSION = 1
_LIMIT = int(os.environ.get("PIPNET_CACHE_LIMIT_GB", "8")) * 2**30


class FaceCrops:
    """The surroundings of each labelled face, decoded.

    ``crops[i]`` is ``(image, points)``: the part of picture i within ``reach`` times its landmark box,
    and its landmarks in pixels of that part. A part much larger than ``resolution`` pixels a landmark
    box is shrunk by a whole factor.

    Raises:
        PipnetError: a picture cannot be read. All such pictures are named at once.
    """

    def __init__(self, samples: Sequence[FaceSample], reach: float, resolution: int) -> None:
        self.samples = list(samples)
        self.reach = reach
        self.resolution = resolution
        self._folder = cache_folder() / "crops" / self._key()
        if not (self._folder / "index.json").is_file():
            self._build()
        else:
            os.utime(self._folder)
        self._index: list[dict[str, Any]] = json.loads((self._folder / "index.json").read_text())
        self._pixels = np.memmap(self._folder / "pixels.bin", np.uint8, "r")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Image, Points]:
        entry = self._index[i]
        height, width, start = entry["height"], entry["width"], entry["start"]
        image = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        origin, shrink = np.array(entry["origin"]), entry["shrink"]
        points = (self.samples[i].points - origin - (shrink - 1) / 2) / shrink
        return np.asarray(image), points.astype(np.float32)

    def _key(self) -> str:
        """A digest of all that the cached pixels depend on."""
        digest = hashlib.sha256(f"{_VERSION} {self.reach} {self.resolution}".encode())
        for s in self.samples:
            try:
                stat = s.image.stat()
            except OSError:
                continue  # named by `_build`, which reads every picture
            digest.update(f"{s.image.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode())
            digest.update(s.points.tobytes())
        return digest.hexdigest()[:24]

    def _build(self) -> None:
        parent = self._folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        building = parent / f"building-{os.getpid()}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            index, bad, start = [], [], 0
            with (building / "pixels.bin").open("wb") as file, ThreadPoolExecutor(2) as pool:
                for part in pool.map(self._cut, self.samples):
                    if isinstance(part, PipnetError):
                        bad.append(str(part))
                        continue
                    image, origin, shrink = part
                    height, width = image.shape[:2]
                    entry = {"start": start, "height": height, "width": width}
                    index.append({**entry, "origin": origin, "shrink": shrink})
                    file.write(image.tobytes())
                    start += image.size
            if bad:
                raise PipnetError(f"{len(bad)} pictures cannot be used: {'; '.join(bad)}")
            (building / "index.json").write_text(json.dumps(index))
            if not self._folder.exists():
                building.rename(self._folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        _evict(parent, keep=self._folder)

    def _cut(self, sample: FaceSample) -> tuple[Image, list[int], int] | PipnetError:
        try:
            image = read_image(sample.image)
            box = tight_box(sample.points)
        except PipnetError as error:
            return error
        centre, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
        low = np.floor(centre - side * self.reach / 2).astype(int).clip(0)
        high = np.ceil(centre + side * self.reach / 2).astype(int) + 1
        part = image[low[1] : high[1], low[0] : high[0]]
        if not part.size:
            return PipnetError(f"{sample.name}: the landmarks lie outside {sample.image}")
        shrink = max(int(side / self.resolution), 1)
        if shrink > 1:
            height, width = (n - n % shrink for n in part.shape[:2])
            small = (width // shrink, height // shrink)
            part = cv2.resize(part[:height, :width], small, interpolation=cv2.INTER_AREA)
        return np.asarray(part, dtype=np.uint8), [int(v) for v in low], shrink


def _evict(parent: Path, keep: Path) -> None:
    """Delete the sets not used for longest until the cache is below its limit."""
    sets = sorted((p for p in parent.iterdir() if p != keep), key=lambda p: p.stat().st_mtime)
    sizes = {p: sum(f.stat().st_size for f in p.iterdir()) for p in [*sets, keep]}
    while sets and sum(sizes[p] for p in [*sets, keep]) > _LIMIT:
        shutil.rmtree(sets.pop(0), ignore_errors=True)
