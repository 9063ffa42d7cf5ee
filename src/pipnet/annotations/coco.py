"""COCO key points: one JSON of pictures, categories with landmark names, and faces.

::

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
     "categories": [{"id": 1, "name": "face", "keypoints": ["left_eye", ...]}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [x, y, w, h],
                      "keypoints": [x, y, v, ...]}]}

v is 0 for an unknown landmark, 1 for one that is hidden, 2 for one that can be seen. Files that never
say 2 (WFLW and AFLW as they go round) mean nothing by 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.base import Annotations
from pipnet.annotations.collector import FaceCollector
from pipnet.annotations.fields import identity, number, rows, shown, table, words
from pipnet.annotations.files import relative_name
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box, tight_box, xywh_to_xyxy
from pipnet.io.atomic import write_text
from pipnet.io.image import image_size

_Row = Mapping[str, object]
_Id = int | float | str


def read_coco(path: Path, content: object, finder: ImageFinder) -> Annotations:
    """The faces of a COCO table.

    Args:
        path: its file, for errors.
        content: the JSON.
        finder: finds its pictures.

    Raises:
        DataError: something in it is not what it should be; the place is named.
    """
    content = table(content, str(path))
    if not {"images", "annotations"} <= content.keys():
        raise DataError(f"{path}: neither COCO (images, annotations) nor a Label Studio export (a list)")
    pictures = _file_names(content, path)
    faces = _rows_with_keypoints(content, path)
    keypoints = [_keypoints(row, where) for where, row in faces]
    says_visible = any((values[:, 2] == 2).any() for values in keypoints)
    collector = FaceCollector(finder)
    for (where, row), values in zip(faces, keypoints, strict=True):
        image = identity(row.get("image_id"), f"{where}: image_id")
        if image not in pictures:
            raise DataError(f"{where}: image {shown(image)} is not among the images")
        collector.add(
            finder.find(pictures[image], where),
            np.where(values[:, 2:] > 0, values[:, :2], np.float32(np.nan)),
            where,
            box=None if row.get("bbox_of") == "landmarks" else _box(row, where),
            visible=values[:, 2] == 2 if says_visible else None,
            name=row.get("name"),
            group=row.get("group"),
            attributes=_attributes(row),
        )
    return collector.annotations(str(path), _names(content, faces, path))


def _file_names(content: _Row, path: Path) -> dict[_Id, str]:
    """The name of each picture by its id."""
    names: dict[_Id, str] = {}
    for i, value in enumerate(rows(content.get("images"), f"{path}: images")):
        where = f"{path}: image {i + 1}"
        row = table(value, where)
        key = identity(row.get("id"), f"{where}: id")
        if key in names:
            raise DataError(f"{where}: two images have the id {shown(key)}")
        names[key] = words(row.get("file_name"), f"{where}: file_name")
    return names


def _rows_with_keypoints(content: _Row, path: Path) -> list[tuple[str, _Row]]:
    """The annotations that are of landmarks, each with its place; others are boxes or outlines."""
    found = []
    for i, value in enumerate(rows(content.get("annotations"), f"{path}: annotations")):
        where = f"{path}: annotation {i + 1}"
        row = table(value, where)
        if row.get("keypoints") not in (None, []):
            found.append((where, row))
    return found


def _keypoints(row: _Row, where: str) -> Float32[np.ndarray, "landmarks 3"]:
    """x, y, v of each landmark."""
    where = f"{where}: keypoints"
    values = np.array([number(v, where) for v in rows(row["keypoints"], where)], np.float32)
    if values.size % 3:
        raise DataError(f"{where}: {values.size} numbers, which are not x, y, v of each landmark")
    values = values.reshape(-1, 3)
    if not np.isin(values[:, 2], (0, 1, 2)).all():
        raise DataError(f"{where}: the third number of a landmark is 0, 1 or 2")
    return values


def _box(row: _Row, where: str) -> Box | None:
    if row.get("bbox") in (None, []):
        return None
    values = [number(v, f"{where}: bbox") for v in rows(row["bbox"], f"{where}: bbox")]
    if len(values) != 4:
        raise DataError(f"{where}: bbox: expected x, y, width, height")
    return xywh_to_xyxy(values)


def _attributes(row: _Row) -> list[str]:
    """The subsets, as our writer puts them; other tools have tables of their own there."""
    value = row.get("attributes")
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _names(content: _Row, faces: list[tuple[str, _Row]], path: Path) -> tuple[str, ...] | None:
    """The landmark names of the categories that have faces, which must agree."""
    categories: dict[_Id, tuple[str, ...]] = {}
    for i, value in enumerate(rows(content.get("categories", []), f"{path}: categories")):
        where = f"{path}: category {i + 1}"
        row = table(value, where)
        names = rows(row.get("keypoints") or [], f"{where}: keypoints")
        key = identity(row.get("id"), f"{where}: id")
        categories[key] = tuple(words(name, f"{where}: keypoints") for name in names)
    if not categories:
        return None
    used: set[tuple[str, ...]] = set()
    for where, row in faces:
        key = identity(row.get("category_id"), f"{where}: category_id")
        if key not in categories:
            raise DataError(f"{where}: category {shown(key)} is not among the categories")
        used.add(categories[key])
    if len(used) > 1:
        raise DataError(f"{path}: categories with different landmarks; keep the faces of one")
    return next(iter(used), ()) or None


def write_coco(path: Path, annotations: Annotations) -> None:
    """Write faces as COCO key points; pictures are named by their way from the file's folder.

    Raises:
        WriteError: it cannot be written.
        ImageError: a picture cannot be opened to see its size.
    """
    images: dict[Path, dict[str, object]] = {}
    for sample in annotations.samples:
        if sample.image not in images:
            width, height = image_size(sample.image)
            name = relative_name(sample.image, path.parent)
            images[sample.image] = {
                "id": len(images) + 1,
                "file_name": name,
                "width": width,
                "height": height,
            }
    category = {"id": 1, "name": "face", "keypoints": list(annotations.landmark_names), "skeleton": []}
    faces = [
        {"id": i, "image_id": images[sample.image]["id"], "category_id": 1, **_face(sample)}
        for i, sample in enumerate(annotations.samples, start=1)
    ]
    content = {"images": list(images.values()), "annotations": faces, "categories": [category]}
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")


def _face(sample: FaceSample) -> dict[str, object]:
    known = np.isfinite(sample.points).all(axis=1)
    seen = np.ones(len(known), bool) if sample.visible is None else sample.visible
    flags = np.where(known, 1 + seen, 0)
    values = np.concatenate([np.where(known[:, None], sample.points, 0), flags[:, None]], axis=1)
    x0, y0, x1, y1 = (float(v) for v in (tight_box(sample.points) if sample.box is None else sample.box))
    # COCO wants a box. Where nobody gave one, it is the landmarks' and says so, for our reader.
    ours: dict[str, object] = {"bbox_of": "landmarks"} if sample.box is None else {}
    return {
        **ours,
        "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
        "area": round((x1 - x0) * (y1 - y0), 3),
        "iscrowd": 0,
        "num_keypoints": int(known.sum()),
        "keypoints": [round(v, 3) for v in values.ravel().tolist()],
        "name": sample.name,
        "group": sample.group,
        "attributes": sorted(sample.attributes),
    }
