"""YOLO-pose of Ultralytics: a folder with ``data.yaml``, images and one text file of labels an image.

::

    data.yaml                 train: images/train, val: images/val, kpt_shape: [68, 3], names
    images/train/a.jpg
    labels/train/a.txt        a line a face: class, box as x y w h (center), then x y v of each landmark

All numbers are fractions of the image's width and height. v is 0 for an unknown landmark, 1 for a hidden
one, 2 for a visible one; with ``kpt_shape: [68, 2]`` there is no v, and negative numbers are unknown.
Landmarks outside the image cannot be expressed: Ultralytics leaves out the labels of such an image.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.annotation_set import Annotations
from pipnet.annotations.checked_values import as_list, as_object, as_text, parse_number, quoted
from pipnet.annotations.face_collector import FaceCollector
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box, Points, tight_box
from pipnet.io.atomic import atomic_write, make_folder, write_text
from pipnet.io.discovery import images_below
from pipnet.io.image import image_size
from pipnet.io.regular_file import read_file, typed_errors
from pipnet.io.text import is_file, is_folder, read_text
from pipnet.io.yaml_file import load_yaml
from pipnet.scheme import MAX_LANDMARKS

CONFIG = "data.yaml"
"""Name of the file that describes a dataset."""
SPLITS = ("train", "val", "test")
"""The subsets that the format knows."""
_BOX_TOLERANCE = 0.05
"""Difference of equal boxes, in pixels: fractions are rounded."""
_LOG = logging.getLogger(__name__)


class _Config(NamedTuple):
    """What ``data.yaml`` says."""

    landmarks: int
    has_visibility: bool
    names: tuple[str, ...] | None
    parts: dict[Path, frozenset[str]]
    """The subsets of the faces in a folder or list of images."""


def read_yolo_pose(path: Path, finder: ImageFinder) -> Annotations:
    """Return the faces of a dataset.

    Args:
        path: the ``data.yaml``.
        finder: names the images relative to its root.

    Raises:
        DataError: a file is invalid; file and place are named.
        MissingExtraError: PyYAML is not installed.
    """
    config = _read_config(path)
    collector = FaceCollector(finder)
    faces = []
    for part, attributes in config.parts.items():
        for image in _images(part):
            labels = _label_file(image)
            if is_file(labels):
                faces += [(image, attributes, *face) for face in _faces(labels, image, config)]
    states_visibility = any((values[:, 2] == 2).any() for *_, values, _ in faces)
    for image, attributes, where, values, box in faces:
        points: Points = np.where(values[:, 2:] > 0, values[:, :2], np.float32(np.nan))
        is_around = np.isfinite(points).any() and np.abs(box - _clipped(points, image)).max() < _BOX_TOLERANCE
        collector.add(
            image,
            points,
            where,
            box=None if is_around else box,
            visible=values[:, 2] == 2 if config.has_visibility and states_visibility else None,
            attributes=attributes,
        )
    return collector.finish(str(path), config.names)


def _read_config(path: Path) -> _Config:
    text = read_text(path)
    with typed_errors(DataError, str(path)):
        table = as_object(load_yaml(text, "data"), str(path))
    shape = as_list(table.get("kpt_shape"), f"{path}: kpt_shape")
    if len(shape) != 2 or not all(type(n) is int for n in shape) or shape[1] not in (2, 3):
        raise DataError(f"{path}: kpt_shape: expected [landmarks, 2 or 3], not {shape!s:.80}")
    landmarks = int(str(shape[0]))
    if not 0 < landmarks <= MAX_LANDMARKS:
        raise DataError(f"{path}: kpt_shape: {landmarks} landmarks, not 1 to {MAX_LANDMARKS:,}")
    return _Config(landmarks, shape[1] == 3, _landmark_names(table, path), _parts(table, path))


def _landmark_names(table: Mapping[str, object], path: Path) -> tuple[str, ...] | None:
    """Return the landmark names of the classes, which must agree."""
    named = table.get("kpt_names")
    if named is None:
        return None
    lists = list(named.values()) if isinstance(named, dict) else [named]
    where = f"{path}: kpt_names"
    names = {tuple(as_text(n, where) for n in as_list(names, where)) for names in lists}
    if len(names) > 1:
        raise DataError(f"{where}: classes with different landmarks")
    return next(iter(names), None)


def _parts(table: Mapping[str, object], path: Path) -> dict[Path, frozenset[str]]:
    """Return the folders and lists of images with their subsets; one that is also for training has none."""
    root = path.parent
    if isinstance(table.get("path"), str) and is_folder(root / str(table["path"])):
        root /= str(table["path"])
    keys: dict[Path, list[str]] = {}
    for key in SPLITS:
        entries = table.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            part = root / as_text(entry, f"{path}: {key}")
            if not is_folder(part) and not is_file(part):
                raise DataError(f"{path}: {key}: no such folder or list of images: {quoted(str(part))}")
            keys.setdefault(part, []).append(key)
    if not keys:
        raise DataError(f"{path}: none of train, val and test")
    is_one = len(keys) == 1 and "train" in next(iter(keys.values()))
    return {
        part: frozenset() if is_one or (len(names) > 1 and "train" in names) else frozenset(names[-1:])
        for part, names in keys.items()
    }


def _images(part: Path) -> Iterator[Path]:
    """Yield the images of a folder, or of a list with a path in each line."""
    if is_folder(part):
        yield from sorted(images_below(part))
        return
    for number, line in enumerate(read_text(part).splitlines(), start=1):
        if line.strip():
            image = part.parent / line.strip()
            if not is_file(image):
                raise DataError(f"{part}:{number}: no image {quoted(line.strip())}")
            yield image


def _label_file(image: Path) -> Path:
    """Return the labels of an image: the last folder ``images`` of its path is called ``labels``."""
    parts = list(image.parts)
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _faces(
    labels: Path, image: Path, config: _Config
) -> Iterator[tuple[str, Float32[np.ndarray, "landmarks 3"], Box]]:
    """Yield the place, the landmarks as x, y, v and the box of each face of an image, in pixels."""
    text = read_file(labels)
    if not text.strip():
        return  # an image without faces
    size = np.array(image_size(image), np.float64)
    width = 2 + config.has_visibility
    for number, line in enumerate(read_text(labels).splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        where = f"{labels}:{number}"
        count = 5 + width * config.landmarks
        if len(cells) != count:
            raise DataError(f"{where}: {len(cells)} numbers, but kpt_shape of {CONFIG} needs {count}")
        numbers = np.array([parse_number(cell, where) for cell in cells])
        center, extent = numbers[1:3] * size, numbers[3:5] * size
        values = numbers[5:].reshape(-1, width)
        flags = values[:, 2:] if config.has_visibility else np.where((values < 0).any(axis=1), 0, 2)[:, None]
        if not np.isin(flags, (0, 1, 2)).all():
            raise DataError(f"{where}: the third number of a landmark must be 0, 1 or 2")
        box = np.concatenate([center - extent / 2, center + extent / 2])
        yield where, np.hstack([values[:, :2] * size, flags]).astype(np.float32), box.astype(np.float32)


def _clipped(points: Points, image: Path) -> Box:
    """Return the tight box of the landmarks, within the image."""
    width, height = image_size(image)
    box: Box = tight_box(points).clip(0, np.array([width, height, width, height], np.float32))
    return box


def write_yolo_pose(folder: Path, annotations: Annotations) -> None:
    """Write a dataset: ``data.yaml``, text files of labels, and links to the images (copies without links).

    Faces with the subset ``val`` or ``test`` are written to the folder of that name, others to ``train``. A
    set without these subsets is one folder, named as training and validation images alike. The box of a face
    without one is that of its landmarks.

    Raises:
        DataError: an image is in two subsets, or two images would have the same name.
        WriteError: a file cannot be written.
        ImageError: an image cannot be opened to read its size.
    """
    faces: dict[Path, list[FaceSample]] = {}
    for sample in annotations.samples:
        faces.setdefault(Path(os.path.abspath(sample.image)), []).append(sample)  # noqa: PTH100
    splits = {image: _split(image, samples) for image, samples in faces.items()}
    places = _places(folder, splits)
    texts = {image: [_line(sample, image) for sample in samples] for image, samples in faces.items()}
    outside = sum(left_out for lines in texts.values() for _, left_out in lines)
    for image, place in places.items():
        _link(image, place)
        write_text(_label_file(place), "".join(f"{line}\n" for line, _ in texts[image]))
    if outside:
        _LOG.warning("%s: %d landmarks outside their image are written as unknown", folder, outside)
    write_text(folder / CONFIG, _config_text(annotations, set(splits.values())))


def _split(image: Path, samples: list[FaceSample]) -> str:
    subsets = {
        next((name for name in SPLITS[1:] if name in sample.attributes), "train") for sample in samples
    }
    if len(subsets) > 1:
        raise DataError(f"{image}: has faces of several subsets: {', '.join(sorted(subsets))}")
    return subsets.pop()


def _places(folder: Path, splits: Mapping[Path, str]) -> dict[Path, Path]:
    """Return where each image is linked: in the folder of its subset, in the same subfolders."""
    try:
        root = os.path.commonpath([image.parent for image in splits])
    except ValueError:  # several drives of Windows
        raise DataError(f"{folder}: the images have no folder in common") from None
    places: dict[Path, Path] = {}
    stems: dict[str, Path] = {}
    for image, split in splits.items():
        # An inner folder called images would be renamed instead of the outer one.
        inner = Path(*("images_" if part == "images" else part for part in image.relative_to(root).parts))
        places[image] = folder / "images" / split / inner
        other = stems.setdefault(str(places[image].with_suffix("")).casefold(), image)  # some ignore case
        if other != image:
            raise DataError(f"{folder}: {other} and {image} would have the same labels: rename one")
    return places


def _link(image: Path, place: Path) -> None:
    make_folder(place.parent)
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        raise DataError(f"{place}: exists already: write to a new folder")
    try:
        place.symlink_to(image)
    except (OSError, NotImplementedError):  # Windows without the right to make links
        with atomic_write(place) as temporary:
            shutil.copyfile(image, temporary)


def _line(sample: FaceSample, image: Path) -> tuple[str, int]:
    """Return the line of a face, and how many landmarks are outside the image."""
    size = np.array(image_size(image), np.float64)
    known = np.isfinite(sample.points).all(axis=1)
    inside = known & ((sample.points >= 0) & (sample.points <= size)).all(axis=1)
    visible = np.ones(len(known), bool) if sample.visible is None else sample.visible
    flags = np.where(inside, 1 + visible, 0)
    points = np.where(inside[:, None], sample.points / size, 0)
    box = tight_box(sample.points[inside if inside.any() else known]) if sample.box is None else sample.box
    start, end = (np.clip(corner, 0, size) / size for corner in box.astype(np.float64).reshape(2, 2))
    numbers = [f"{v:.6f}" for v in (*(start + end) / 2, *(end - start))]
    for (x, y), flag in zip(points, flags, strict=True):
        numbers += [f"{x:.6f}", f"{y:.6f}", str(flag)]
    return " ".join(["0", *numbers]), int((known & ~inside).sum())


def _config_text(annotations: Annotations, splits: set[str]) -> str:
    """Return ``data.yaml``. JSON is YAML too, so each value is written as JSON."""
    names = [split for split in SPLITS if split in splits]
    places = {split: f"images/{split}" for split in names}
    # Ultralytics needs both.
    places = {"train": f"images/{names[0]}", "val": f"images/{names[-1]}"} | places
    # Without the key path, Ultralytics takes the folder of this file.
    table: dict[str, object] = {
        **places,
        "kpt_shape": [len(annotations.samples[0].points), 3],
        "names": ["face"],
    }
    if annotations.names:
        table["kpt_names"] = {"0": annotations.names}
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
