"""Label Studio's JSON export: a list of tasks, each an image with regions in percent of its sides.

::

    [{"data": {"image": "/data/local-files/?d=a.jpg"},
      "annotations": [{"result": [
        {"id": "f1", "type": "rectanglelabels", "original_width": 640, "original_height": 480,
         "value": {"x": 10, "y": 10, "width": 50, "height": 60, "rectanglelabels": ["face"]}},
        {"id": "p1", "type": "keypointlabels", "original_width": 640, "original_height": 480,
         "parentID": "f1", "value": {"x": 25, "y": 40, "width": 0.5, "keypointlabels": ["left_eye"]}}]}]}]

A landmark is a region. Landmarks with the same parent are a face, and the rectangle of the parent is its box.
A task without parents is one face. A landmark that a face lacks is unknown.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pipnet.annotations.annotation_set import Annotations, in_order
from pipnet.annotations.checked_values import as_id, as_list, as_number, as_object, as_text, objects, quoted
from pipnet.annotations.face_collector import FaceCollector
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box, tight_box, xywh_to_xyxy
from pipnet.io.atomic import write_text
from pipnet.io.image import IMAGE_SUFFIXES, image_size
from pipnet.io.text import relative_name

_Region = Mapping[str, object]
_ORDER = "landmarks"
"""Key of our own in the data of a task: all landmark names in order, which the regions do not tell."""
_BOX_TOLERANCE = 0.05
"""Difference of equal boxes, in pixels: percentages are rounded."""


class _Face(NamedTuple):
    """A face of a task."""

    image: str
    where: str
    points: dict[str, tuple[float, float]]
    """Pixels of each landmark by its label."""
    box: Box | None


def read_label_studio(path: Path, content: object, finder: ImageFinder) -> Annotations:
    """Return the faces of a Label Studio export.

    Args:
        path: the file, for error messages.
        content: its JSON content.
        finder: finds the images.

    Raises:
        DataError: the content is invalid; the place is named.
    """
    faces: list[_Face] = []
    orders: set[tuple[str, ...]] = set()
    for where, task in objects(content, str(path), "tasks", "task"):
        data = as_object(task.get("data"), f"{where}: data (is this the JSON export?)")
        regions = _regions(task, where)
        if regions:
            faces += _faces(regions, _image_name(data, where), where)
            order = data.get(_ORDER)
            orders.add(tuple(v for v in order if isinstance(v, str)) if isinstance(order, list) else ())
    labels = in_order(label for face in faces for label in face.points)
    order = next(iter(orders)) if len(orders) == 1 else ()
    names = order if set(labels) <= set(order) else labels
    collector = FaceCollector(finder)
    for face in faces:
        points = np.array([face.points.get(name, (np.nan, np.nan)) for name in names], np.float32)
        # A rectangle that is tight around the landmarks only groups them, like that of our writer.
        is_tight = face.box is not None and np.abs(face.box - tight_box(points)).max() < _BOX_TOLERANCE
        image = finder.find(face.image, face.where)
        collector.add(image, points, face.where, box=None if is_tight else face.box)
    return collector.finish(str(path), names)


def _image_name(data: Mapping[str, object], where: str) -> str:
    """Return the image of a task: the value of ``image``, or the only one with the suffix of an image."""
    if "image" in data:
        return as_text(data["image"], f"{where}: image")
    texts = [value for value in data.values() if isinstance(value, str)]
    names = [t for t in texts if PurePosixPath(t.partition("#")[0]).suffix.lower() in IMAGE_SUFFIXES]
    if len(names) != 1:
        raise DataError(f"{where}: {len(names)} values of its data are names of images, expected one")
    return names[0]


def _regions(task: Mapping[str, object], where: str) -> list[tuple[str, _Region]]:
    """Return the regions of a task's annotation: the ground truth if several people labeled it."""
    annotations = [a for _, a in objects(task.get("annotations"), where, "annotations", "annotation")]
    annotations = [a for a in annotations if not a.get("was_cancelled") and a.get("result")]
    annotations = [a for a in annotations if a.get("ground_truth")] or annotations
    if len(annotations) > 1:
        raise DataError(f"{where}: {len(annotations)} annotations: mark one of them as ground truth")
    return [r for a in annotations for r in objects(a["result"], where, "result", "region")]


def _faces(regions: Sequence[tuple[str, _Region]], image: str, where: str) -> list[_Face]:
    """Return the keypoints of a task, grouped by their parents."""
    keypoints = [(place, region) for place, region in regions if region.get("type") == "keypointlabels"]
    parents = {_id(region, "parentID", place) for place, region in keypoints} - {""}
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    for place, region in keypoints:
        key = _id(region, "parentID", place) or _id(region, "id", place)  # a landmark may be the parent
        if parents and key not in parents:
            raise DataError(f"{place}: a point without parent among points with parents: assign it to a face")
        label, point = _point(region, place)
        points = groups.setdefault(key if parents else "", {})
        if label in points:
            raise DataError(f"{place}: a second {quoted(label)}; several faces need a parent region each")
        points[label] = point
    boxes = {_id(r, "id", where): r for _, r in regions if r.get("type") == "rectanglelabels"}
    faces = []
    for number, (key, points) in enumerate(groups.items(), start=1):
        place = f"{where}, face {number}"
        faces.append(_Face(image, place, points, _box(boxes[key], place) if key in boxes and key else None))
    return faces


def _id(region: _Region, key: str, where: str) -> str:
    """Return the ID of a region or of its parent; empty if it has none."""
    return "" if region.get(key) is None else str(as_id(region[key], f"{where}: {key}"))


def _point(region: _Region, where: str) -> tuple[str, tuple[float, float]]:
    """Return the label and the pixels of a keypoint."""
    value = as_object(region.get("value"), f"{where}: value")
    labels = as_list(value.get("keypointlabels"), f"{where}: keypointlabels")
    if len(labels) != 1:
        raise DataError(f"{where}: {len(labels)} labels, expected one")
    x, y = _pixels(region, value, ("x", "y"), where)
    return as_text(labels[0], f"{where}: keypointlabels"), (x, y)


def _box(region: _Region, where: str) -> Box | None:
    value = as_object(region.get("value"), f"{where}: box")
    if value.get("rotation"):
        return None  # our boxes are not rotated
    return xywh_to_xyxy(_pixels(region, value, ("x", "y", "width", "height"), f"{where}: box"))


def _pixels(region: _Region, value: Mapping[str, object], keys: Sequence[str], where: str) -> list[float]:
    """Return values in percent of the image's width and height, alternately, in pixels."""
    if region.get("image_rotation"):
        raise DataError(f"{where}: the image was rotated in Label Studio: rotate the image file instead")
    sides = [as_number(region.get(key), f"{where}: {key}") for key in ("original_width", "original_height")]
    if min(sides) <= 0:
        raise DataError(f"{where}: original_width and original_height must be positive")
    return [as_number(value.get(key), f"{where}: {key}") / 100 * sides[i % 2] for i, key in enumerate(keys)]


def write_label_studio(path: Path, annotations: Annotations) -> None:
    """Write faces as a Label Studio export.

    Images are addressed as files that Label Studio serves itself, with the file's folder as the root
    (``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``).

    Raises:
        WriteError: the file cannot be written.
        ImageError: an image cannot be opened to read its size.
    """
    names = annotations.landmark_names
    faces: dict[Path, list[FaceSample]] = {}
    for sample in annotations.samples:
        faces.setdefault(sample.image, []).append(sample)
    tasks: list[dict[str, object]] = []
    for image, samples in faces.items():
        size = image_size(image)
        url = "/data/local-files/?d=" + urllib.parse.quote(relative_name(image, path.parent))
        regions = [
            r for i, s in enumerate(samples, start=1) for r in _face_regions(s, names, size, f"face{i}")
        ]
        data = {"image": url, _ORDER: names}
        tasks.append({"id": len(tasks) + 1, "data": data, "annotations": [{"result": regions}]})
    write_text(path, json.dumps(tasks, ensure_ascii=False) + "\n")


def _face_regions(
    face: FaceSample, names: tuple[str, ...], size: tuple[int, int], key: str
) -> list[dict[str, object]]:
    """Return a face as a rectangle and its known landmarks, which are the children of the rectangle."""
    percent = 100 / np.array(size)
    common = {"original_width": size[0], "original_height": size[1], "image_rotation": 0, "to_name": "image"}
    box = tight_box(face.points) if face.box is None else face.box
    (x, y), (w, h) = (box[:2] * percent).tolist(), ((box[2:] - box[:2]) * percent).tolist()
    value: dict[str, object] = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
    value["rectanglelabels"] = ["face"]
    regions = [{"id": key, "type": "rectanglelabels", "from_name": "face", **common, "value": value}]
    for i, (name, point) in enumerate(zip(names, face.points, strict=True)):
        if np.isfinite(point).all():
            x, y = (point * percent).tolist()
            value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [name]}
            region = {"id": f"{key}-{i}", "type": "keypointlabels", "from_name": "landmark", "parentID": key}
            regions.append({**region, **common, "value": value})
    return regions
