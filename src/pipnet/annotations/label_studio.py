"""Label Studio's JSON export: a list of tasks, each a picture with regions in percent of its sides.

::

    [{"data": {"image": "/data/local-files/?d=a.jpg"},
      "annotations": [{"result": [
        {"id": "f1", "type": "rectanglelabels", "original_width": 640, "original_height": 480,
         "value": {"x": 10, "y": 10, "width": 50, "height": 60, "rectanglelabels": ["face"]}},
        {"id": "p1", "type": "keypointlabels", "original_width": 640, "original_height": 480,
         "parentID": "f1", "value": {"x": 25, "y": 40, "width": 0.5, "keypointlabels": ["left_eye"]}}]}]}]

A landmark is a region. Those with the same parent are a face, and the parent's rectangle is its box;
without parents a task is one face. A landmark that a face lacks is unknown.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pipnet.annotations.base import Annotations, in_order
from pipnet.annotations.collector import FaceCollector
from pipnet.annotations.fields import identity, number, rows, shown, table, words
from pipnet.annotations.files import relative_name
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box, tight_box, xywh_to_xyxy
from pipnet.io.atomic import write_text
from pipnet.io.image import IMAGE_SUFFIXES, image_size

_Region = Mapping[str, object]
_ORDER = "landmarks"
"""Our own column of a task: all landmark names in order, as no region says them."""


_SAME = 0.05
"""Pixels between boxes that are the same: percentages are rounded."""


@dataclass(frozen=True)
class _Face:
    """The landmarks of a face by label, in pixels."""

    picture: str
    where: str
    points: dict[str, tuple[float, float]]
    box: Box | None


def read_label_studio(path: Path, content: object, finder: ImageFinder) -> Annotations:
    """The faces of a Label Studio export.

    Args:
        path: its file, for errors.
        content: the JSON.
        finder: finds its pictures.

    Raises:
        DataError: something in it is not what it should be; the place is named.
    """
    faces: list[_Face] = []
    orders: set[tuple[str, ...]] = set()
    for i, value in enumerate(rows(content, str(path))):
        where = f"{path}: task {i + 1}"
        task = table(value, where)
        data = table(task.get("data"), f"{where}: data (is this the JSON export?)")
        result = _result(task, where)
        if result:
            faces += _faces(result, _picture(data, where), where)
            orders.add(_order(data))
    labels = in_order(label for face in faces for label in face.points)
    order = next(iter(orders)) if len(orders) == 1 else ()
    names = order if set(labels) <= set(order) else labels
    collector = FaceCollector(finder)
    for face in faces:
        points = np.array([face.points.get(name, (np.nan, np.nan)) for name in names], np.float32)
        # A rectangle tight around the landmarks only holds them together, as our writer's does.
        tight = face.box is not None and np.abs(face.box - tight_box(points)).max() < _SAME
        box = None if tight else face.box
        collector.add(finder.find(face.picture, face.where), points, face.where, box=box)
    return collector.annotations(str(path), names)


def _order(data: Mapping[str, object]) -> tuple[str, ...]:
    value = data.get(_ORDER)
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _picture(data: Mapping[str, object], where: str) -> str:
    """The picture of a task: its column ``image``, or the only one that looks like a picture."""
    if "image" in data:
        return words(data["image"], f"{where}: image")
    named = [v for v in data.values() if isinstance(v, str)]
    found = [v for v in named if PurePosixPath(v.partition("#")[0]).suffix.lower() in IMAGE_SUFFIXES]
    if len(found) != 1:
        raise DataError(f"{where}: {len(found)} of its data look like a picture, expected one")
    return found[0]


def _result(task: Mapping[str, object], where: str) -> list[_Region]:
    """The regions of a task's annotation: the ground truth where several people labeled it."""
    done = [table(a, f"{where}: annotations") for a in rows(task.get("annotations"), f"{where}: annotations")]
    done = [a for a in done if not a.get("was_cancelled") and a.get("result")]
    best = [a for a in done if a.get("ground_truth")] or done
    if len(best) > 1:
        raise DataError(f"{where}: {len(best)} annotations: mark one of them as ground truth")
    found = rows(best[0]["result"], f"{where}: result") if best else []
    return [table(region, f"{where}: region {i + 1}") for i, region in enumerate(found)]


def _faces(result: Sequence[_Region], picture: str, where: str) -> list[_Face]:
    """The key points of a task, by their parents."""
    points = [
        (f"{where}, region {i + 1}", r) for i, r in enumerate(result) if r.get("type") == "keypointlabels"
    ]
    parents = {_id(region, "parentID", place) for place, region in points} - {""}
    grouped: dict[str, list[tuple[str, _Region]]] = {}
    for place, region in points:
        key = _id(region, "parentID", place) or _id(region, "id", place)  # a landmark may be the parent
        if parents and key not in parents:
            raise DataError(f"{place}: a point without parent among points with one; give it its face")
        grouped.setdefault(key if parents else "", []).append((place, region))
    boxes = {_id(region, "id", where): region for region in result if region.get("type") == "rectanglelabels"}
    faces = []
    for n, (key, members) in enumerate(grouped.items()):
        labeled: dict[str, tuple[float, float]] = {}
        for place, region in members:
            label, point = _point(region, place)
            if label in labeled:
                raise DataError(f"{place}: a second {shown(label)}; several faces need a parent region each")
            labeled[label] = point
        at = f"{where}, face {n + 1}"
        box = _box(boxes[key], at) if key and key in boxes else None
        faces.append(_Face(picture, at, labeled, box))
    return faces


def _id(region: _Region, key: str, where: str) -> str:
    """The region's own name or its parent's; empty if it has none."""
    return "" if region.get(key) is None else str(identity(region[key], f"{where}: {key}"))


def _point(region: _Region, where: str) -> tuple[str, tuple[float, float]]:
    """Label and pixels of a key point."""
    value = table(region.get("value"), f"{where}: value")
    labels = rows(value.get("keypointlabels"), f"{where}: keypointlabels")
    if len(labels) != 1:
        raise DataError(f"{where}: {len(labels)} labels, expected one")
    x, y = _pixels(region, value, ("x", "y"), where)
    return words(labels[0], f"{where}: keypointlabels"), (x, y)


def _box(region: _Region, where: str) -> Box | None:
    value = table(region.get("value"), f"{where}: box")
    if value.get("rotation"):
        return None  # no box of ours
    return xywh_to_xyxy(_pixels(region, value, ("x", "y", "width", "height"), f"{where}: box"))


def _pixels(region: _Region, value: Mapping[str, object], keys: Sequence[str], where: str) -> list[float]:
    """Percent of the picture's sides in turn -> pixels."""
    if region.get("image_rotation"):
        raise DataError(f"{where}: the picture was turned in Label Studio; turn the picture itself")
    sides = [
        number(region.get(f"original_{side}"), f"{where}: original_{side}") for side in ("width", "height")
    ]
    if min(sides) <= 0:
        raise DataError(f"{where}: original_width and original_height must be positive")
    return [number(value.get(key), f"{where}: {key}") / 100 * sides[i % 2] for i, key in enumerate(keys)]


def write_label_studio(path: Path, annotations: Annotations) -> None:
    """Write faces as a Label Studio export.

    Pictures are addressed as files that Label Studio serves itself, with the file's folder as its root
    (``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``).

    Raises:
        WriteError: it cannot be written.
        ImageError: a picture cannot be opened to see its size.
    """
    names = annotations.landmark_names
    faces: dict[Path, list[FaceSample]] = {}
    for sample in annotations.samples:
        faces.setdefault(sample.image, []).append(sample)
    tasks: list[dict[str, object]] = []
    for picture, samples in faces.items():
        address = "/data/local-files/?d=" + urllib.parse.quote(relative_name(picture, path.parent))
        size = image_size(picture)
        result = [
            region for n, face in enumerate(samples) for region in _regions(face, names, size, f"face{n + 1}")
        ]
        data = {"image": address, _ORDER: names}
        tasks.append({"id": len(tasks) + 1, "data": data, "annotations": [{"result": result}]})
    write_text(path, json.dumps(tasks, ensure_ascii=False) + "\n")


def _regions(
    face: FaceSample, names: tuple[str, ...], size: tuple[int, int], key: str
) -> list[dict[str, object]]:
    """A face as a rectangle and, as its children, the landmarks that are known."""
    percent = 100 / np.array(size)
    common = {"original_width": size[0], "original_height": size[1], "image_rotation": 0, "to_name": "image"}
    box = tight_box(face.points) if face.box is None else face.box
    (x, y), (w, h) = (box[:2] * percent).tolist(), ((box[2:] - box[:2]) * percent).tolist()
    value: dict[str, object] = {
        "x": x,
        "y": y,
        "width": w,
        "height": h,
        "rotation": 0,
        "rectanglelabels": ["face"],
    }
    regions = [{"id": key, "type": "rectanglelabels", "from_name": "face", **common, "value": value}]
    for i, (name, point) in enumerate(zip(names, face.points, strict=True)):
        if np.isfinite(point).all():
            x, y = (point * percent).tolist()
            value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [name]}
            about = {"id": f"{key}-{i}", "type": "keypointlabels", "from_name": "landmark", "parentID": key}
            regions.append({**about, **common, "value": value})
    return regions
