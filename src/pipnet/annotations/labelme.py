"""LabelMe: one JSON file an image, next to it or in a folder of their own.

::

    {"imagePath": "a.jpg", "imageHeight": 480, "imageWidth": 640, "imageData": null, "shapes": [
      {"label": "left_eye", "shape_type": "point", "points": [[12.5, 30]], "group_id": 1, "flags": {}},
      {"label": "face", "shape_type": "rectangle", "points": [[5, 9], [80, 95]], "group_id": 1}]}

A landmark is a point. Points with the same ``group_id`` are a face, and the rectangle of the group is its
box. An image whose points have no group is one face. A landmark that a face lacks is unknown; one with the
flag ``hidden`` or ``occluded`` is hidden.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipnet.annotations.annotation_set import Annotations, in_order
from pipnet.annotations.checked_values import (
    as_id,
    as_list,
    as_numbers,
    as_object,
    as_text,
    objects,
    quoted,
    read_json,
)
from pipnet.annotations.face_collector import FaceCollector
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box
from pipnet.io.atomic import write_text
from pipnet.io.discovery import files_below
from pipnet.io.image import image_size
from pipnet.io.text import relative_name

_ORDER = "landmarks"
"""Key of our own in a file: all landmark names in order, which the shapes do not tell."""
_VERSION = "5.5.0"
"""A version of LabelMe with this format; it refuses files without one."""


class _Face(NamedTuple):
    """A face of an image."""

    image: str
    where: str
    points: dict[str, tuple[float, float]]
    hidden: set[str]
    box: Box | None


def is_labelme(content: object) -> bool:
    """Return whether the content of a JSON file is of LabelMe."""
    return isinstance(content, dict) and "shapes" in content


def labelme_files(folder: Path) -> Iterator[Path]:
    """Yield the LabelMe files below a folder; other JSON files are left out.

    Raises:
        DataError: a JSON file cannot be read.
    """
    for path in files_below(folder):
        if path.suffix.lower() == ".json" and is_labelme(read_json(path)):
            yield path


def read_labelme(files: Sequence[Path], where: str, finder: ImageFinder) -> Annotations:
    """Return the faces of LabelMe files.

    Args:
        files: the files, in order.
        where: the folder or file, for error messages.
        finder: finds the images.

    Raises:
        DataError: a file is invalid; file and place are named.
    """
    faces: list[_Face] = []
    orders: set[tuple[str, ...]] = set()
    for path in files:
        table = as_object(read_json(path), str(path))
        faces += _faces(table, path, finder)
        order = table.get(_ORDER)
        orders.add(tuple(v for v in order if isinstance(v, str)) if isinstance(order, list) else ())
    labels = in_order(label for face in faces for label in face.points)
    order = next(iter(orders)) if len(orders) == 1 else ()
    names = order if set(labels) <= set(order) else labels
    states_visibility = any(face.hidden for face in faces)
    collector = FaceCollector(finder)
    for face in faces:
        points = np.array([face.points.get(name, (np.nan, np.nan)) for name in names], np.float32)
        visible = np.array([name not in face.hidden for name in names]) if states_visibility else None
        collector.add(finder.find(face.image, face.where), points, face.where, box=face.box, visible=visible)
    return collector.finish(where, names)


def _faces(table: Mapping[str, object], path: Path, finder: ImageFinder) -> list[_Face]:
    """Return the faces of a file: its points, grouped."""
    shapes = list(objects(table.get("shapes"), str(path), "shapes", "shape"))
    points = [(place, shape) for place, shape in shapes if shape.get("shape_type") == "point"]
    groups: dict[str, _Face] = {}
    keys = {_group(shape, place) for place, shape in points}
    if not points:
        return []
    if len(keys) > 1 and "" in keys:
        raise DataError(f"{path}: a point without group_id among points with one: give each face a group_id")
    image = _image_name(table, path, finder)
    for place, shape in points:
        label = as_text(shape.get("label"), f"{place}: label")
        key = _group(shape, place)
        face = groups.setdefault(key, _Face(image, f"{path}: face {len(groups) + 1}", {}, set(), None))
        if label in face.points:
            raise DataError(f"{place}: a second {quoted(label)}; several faces need a group_id each")
        (face.points[label],) = _corners(shape, place, 1)
        flags = as_object(shape.get("flags") or {}, f"{place}: flags")
        if flags.get("hidden") or flags.get("occluded"):
            face.hidden.add(label)
    for place, shape in shapes:
        if shape.get("shape_type") == "rectangle" and _group(shape, place) in groups:
            corners = np.array(_corners(shape, place, 2), np.float32)
            box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
            groups[_group(shape, place)] = groups[_group(shape, place)]._replace(box=box)
    return list(groups.values())


def _group(shape: Mapping[str, object], where: str) -> str:
    return "" if shape.get("group_id") is None else str(as_id(shape["group_id"], f"{where}: group_id"))


def _corners(shape: Mapping[str, object], where: str, count: int) -> list[tuple[float, float]]:
    pairs = [
        as_numbers(pair, f"{where}: points") for pair in as_list(shape.get("points"), f"{where}: points")
    ]
    if len(pairs) != count or any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{where}: points: expected {count} x [x, y]")
    return [(pair[0], pair[1]) for pair in pairs]


def _image_name(table: Mapping[str, object], path: Path, finder: ImageFinder) -> str:
    """Return the image of a file as seen from the finder's root: its name is relative to the file."""
    name = as_text(table.get("imagePath"), f"{path}: imagePath").replace("\\", "/")
    beside = path.parent / name
    return finder.relative(Path(os.path.normpath(beside))) if beside.is_file() else name


def write_labelme(folder: Path, annotations: Annotations) -> None:
    """Write one JSON file an image, in the same subfolders as the images.

    Raises:
        DataError: two images would have the same file.
        WriteError: a file cannot be written.
        ImageError: an image cannot be opened to read its size.
    """
    faces: dict[Path, list[FaceSample]] = {}
    for sample in annotations.samples:
        faces.setdefault(Path(os.path.abspath(sample.image)), []).append(sample)  # noqa: PTH100
    try:
        root = os.path.commonpath([image.parent for image in faces])
    except ValueError:  # several drives of Windows
        raise DataError(f"{folder}: the images have no folder in common") from None
    texts: dict[str, tuple[Path, str]] = {}
    for image, samples in faces.items():
        file = folder / image.relative_to(root).with_suffix(".json")
        if str(file).casefold() in texts:  # some disks ignore case
            raise DataError(f"{file}: is the file of two images: rename {image.name}")
        texts[str(file).casefold()] = file, _text(file, image, samples, annotations.landmark_names)
    for file, text in texts.values():
        write_text(file, text)


def _text(file: Path, image: Path, samples: Sequence[FaceSample], names: tuple[str, ...]) -> str:
    width, height = image_size(image)
    shapes = [shape for i, sample in enumerate(samples, start=1) for shape in _shapes(sample, names, i)]
    content: dict[str, object] = {"version": _VERSION, "flags": {}, "shapes": shapes, _ORDER: names}
    content |= {"imagePath": relative_name(image, file.parent), "imageData": None}
    content |= {"imageHeight": height, "imageWidth": width}
    return json.dumps(content, ensure_ascii=False) + "\n"


def _shapes(sample: FaceSample, names: tuple[str, ...], group: int) -> list[dict[str, object]]:
    """Return a face as points, and its box, if any, as a rectangle."""
    common = {"group_id": group, "description": ""}
    shapes: list[dict[str, object]] = []
    if sample.box is not None:
        corners = np.round(sample.box.reshape(2, 2).astype(float), 3).tolist()
        shapes.append({"label": "face", "points": corners, "shape_type": "rectangle", "flags": {}, **common})
    for i, (name, point) in enumerate(zip(names, sample.points, strict=True)):
        if np.isfinite(point).all():
            is_hidden = sample.visible is not None and not sample.visible[i]
            flags = {"hidden": True} if is_hidden else {}
            place = [np.round(point.astype(float), 3).tolist()]
            shapes.append({"label": name, "points": place, "shape_type": "point", "flags": flags, **common})
    return shapes
