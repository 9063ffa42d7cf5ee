"""Writing bundles: chosen faces of a dataset in one file, cut out and reduced, to train on another machine.

The content is described in `pipnet.datasets.bundle`. Images are smaller than in the dataset, so a known label
offset, which is a number of pixels, is stored for each face in pixels of its image.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from pipnet.annotations.annotation_set import Annotations
from pipnet.annotations.formats import write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.datasets.bundle import FACES, LABEL_OFFSETS, PREPARED, UNLABELED
from pipnet.datasets.unlabeled import BOXES, UnlabeledFace, write_boxes
from pipnet.errors import DataError
from pipnet.geometry import Box, Image, tight_box
from pipnet.io.atomic import atomic_write
from pipnet.io.image import read_image
from pipnet.progress import show_progress
from pipnet.warp import resize


@dataclass(frozen=True)
class BundleConfig:
    """How the faces of a bundle are cut out."""

    size: int = 160
    """Maximum longer side of a face's box in pixels; larger faces are reduced, smaller ones are kept."""
    margin: float = 2.0
    """Side of the part that is cut out, in longer sides of the face's box. A training with crops of 1.1 times
    the box, shifts and rotations needs 2.0."""
    quality: int = 80
    """Quality of the WebP images, 1 to 100."""

    def __post_init__(self) -> None:
        if self.size < 32 or not 1 <= self.margin <= 10 or not 1 <= self.quality <= 100:
            raise DataError(
                "a bundle has a size of at least 32 pixels, a margin of 1 to 10 and a quality of 1 to 100,"
                f" not {self.size}, {self.margin:g} and {self.quality}"
            )


class _Cut(NamedTuple):
    """A part of an image, reduced."""

    image: Image
    corner: np.ndarray
    """x, y of its first pixel in the image."""
    scale: np.ndarray
    """Its width and height, over those of the part in the image."""

    def points(self, points: np.ndarray) -> np.ndarray:
        """Return points in pixels of the part, of points in pixels of the image."""
        return np.asarray((points - self.corner + 0.5) * self.scale - 0.5, np.float32)


def write_bundle(
    target: Path,
    name: str | None,
    subsets: Mapping[str, Sequence[FaceSample]],
    landmark_names: tuple[str, ...],
    unlabeled: Sequence[UnlabeledFace] = (),
    config: BundleConfig | None = None,
) -> None:
    """Write a bundle, atomically. A face that is in several subsets is stored once.

    Args:
        target: the file to write.
        name: the name of the dataset, see `DATASETS`; None for own annotations, which have one subset.
        subsets: the faces of each subset, with their known label offset.
        landmark_names: the names of their landmarks.
        unlabeled: faces without landmarks.
        config: how they are cut out.

    Raises:
        DataError: a face lies outside of its image.
        ImageError: an image cannot be read.
        WriteError: the file cannot be written.
    """
    config = config or BundleConfig()
    with tempfile.TemporaryDirectory() as temporary:
        folder, cut = Path(temporary), dict[str, FaceSample]()
        (folder / "images").mkdir()
        for sample in show_progress([s for part in subsets.values() for s in part], None, "cutting faces"):
            if sample.name not in cut:
                cut[sample.name] = _write_face(sample, folder / "images" / f"{len(cut):06}.webp", config)
        for subset, samples in subsets.items():
            annotations = Annotations([cut[sample.name] for sample in samples], landmark_names)
            write_annotations(folder / (FACES if name is None else f"{subset}.json"), annotations, "coco")
        offsets = {sample.name: sample.label_offset for sample in cut.values()}
        (folder / LABEL_OFFSETS).write_text(json.dumps(offsets) + "\n")
        if name is not None:
            counts = {subset: len(samples) for subset, samples in subsets.items()}
            description = {"dataset": name, "source": "bundle", "faces": counts}
            (folder / PREPARED).write_text(json.dumps(description, indent=1) + "\n")
        if unlabeled:
            _write_unlabeled(unlabeled, folder / UNLABELED, config)
        _zip(folder, target)


def _write_face(sample: FaceSample, path: Path, config: BundleConfig) -> FaceSample:
    """Write the image of a face and return the face in it."""
    boxes = [tight_box(sample.points), *([] if sample.box is None else [sample.box])]
    around = np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])
    cut = _cut(read_image(sample.image), around, sample.name, config)
    _write_webp(path, cut.image, config)
    x, y = (np.array(sample.label_offset) * cut.scale).tolist()
    return replace(
        sample,
        image=path,
        points=cut.points(sample.points),
        box=None if sample.box is None else cut.points(sample.box.reshape(2, 2)).ravel(),
        label_offset=(x, y),
    )


def _write_unlabeled(faces: Sequence[UnlabeledFace], folder: Path, config: BundleConfig) -> None:
    """Write the images of unlabeled faces and their table; without a box the image is kept whole."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, face in enumerate(show_progress(faces, len(faces), "cutting unlabeled faces")):
        path = folder / "images" / f"{number:06}.webp"
        image = read_image(face.image)
        height, width = image.shape[:2]
        whole = np.array([-0.5, -0.5, width - 0.5, height - 0.5], np.float32)
        around = whole if face.box is None else face.box
        # An image without a box shows the face at any size: it is kept four times as large.
        limit = config if face.box is not None else replace(config, size=4 * config.size, margin=1.0)
        cut = _cut(image, around, face.name, limit)
        _write_webp(path, cut.image, config)
        box = None if face.box is None else cut.points(face.box.reshape(2, 2)).ravel()
        rows.append(replace(face, image=path, box=box))
    write_boxes(folder / BOXES, rows)


def _cut(image: Image, box: Box, name: str, config: BundleConfig) -> _Cut:
    """Return the part around a box, with all of its pixels where the image ends first."""
    center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
    low = np.floor(center - side * config.margin / 2).astype(int).clip(0)
    high = (np.ceil(center + side * config.margin / 2).astype(int) + 1).clip(0)
    part = image[low[1] : high[1], low[0] : high[0]]
    if not part.size:
        raise DataError(f"{name}: the face is outside of its image")
    sides = np.array(part.shape[1::-1])
    new = np.maximum((sides * min(config.size / side, 1)).round().astype(int), 1)
    if (new < sides).any():
        part = resize(part, int(new[0]), int(new[1]))
    return _Cut(part, low, new / sides)


def _write_webp(path: Path, image: Image, config: BundleConfig) -> None:
    content = io.BytesIO()
    PIL.Image.fromarray(image).save(content, "WEBP", quality=config.quality, method=6)
    path.write_bytes(content.getvalue())


def _zip(folder: Path, target: Path) -> None:
    """Pack a folder; images are compressed already."""
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            method = zipfile.ZIP_STORED if path.suffix == ".webp" else zipfile.ZIP_DEFLATED
            archive.write(path, path.relative_to(folder).as_posix(), method)
