"""COCO keypoints: one JSON file with images, categories with landmark names, and faces.

::

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
     "categories": [{"id": 1, "name": "face", "keypoints": ["left_eye", ...]}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [x, y, w, h],
                      "keypoints": [x, y, v, ...]}]}

v is 0 for an unknown landmark, 1 for a hidden one, 2 for a visible one. In files that never use 2, such as
the common versions of WFLW and AFLW, 1 does not mean hidden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pipnet.annotations.annotation_set import Annotations
from pipnet.annotations.checked_values import as_id, as_list, as_numbers, as_object, as_text, objects, quoted
from pipnet.annotations.face_collector import FaceCollector
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box, tight_box, xywh_to_xyxy
from pipnet.io.atomic import write_text
from pipnet.io.image import image_size
from pipnet.io.text import relative_name

_Row = Mapping[str, object]
_Id = int | float | str


def read_coco(path: Path, content: object, finder: ImageFinder) -> Annotations:
    """Return the faces of a COCO file.

    Args:
        path: the file, for error messages.
        content: its JSON content.
        finder: finds the images.

    Raises:
        DataError: the content is invalid; the place is named.
    """
    table = as_object(content, str(path))
    if not {"images", "annotations"} <= table.keys():
        raise DataError(f"{path}: neither COCO (images, annotations) nor a Label Studio export (a list)")
    file_names = _file_names(table, path)
    faces = [  # other annotations are boxes or outlines
        (where, row)
        for where, row in objects(table["annotations"], str(path), "annotations", "annotation")
        if row.get("keypoints") not in (None, [])
    ]
    keypoints = [_keypoints(row, f"{where}: keypoints") for where, row in faces]
    states_visibility = any((values[:, 2] == 2).any() for values in keypoints)
    collector = FaceCollector(finder)
    for (where, row), values in zip(faces, keypoints, strict=True):
        image_id = as_id(row.get("image_id"), f"{where}: image_id")
        if image_id not in file_names:
            raise DataError(f"{where}: image {quoted(image_id)} is not among the images")
        attributes = row.get("attributes")  # a list in files of our writer; other tools have objects
        collector.add(
            finder.find(file_names[image_id], where),
            np.where(values[:, 2:] > 0, values[:, :2], np.float32(np.nan)),
            where,
            box=None if row.get("bbox_of") == "landmarks" else _box(row, f"{where}: bbox"),
            visible=values[:, 2] == 2 if states_visibility else None,
            name=row.get("name"),
            group=row.get("group"),
            attributes=[a for a in attributes if isinstance(a, str)] if isinstance(attributes, list) else (),
        )
    return collector.finish(str(path), _landmark_names(table, faces, path))


def _file_names(table: _Row, path: Path) -> dict[_Id, str]:
    """Return the file name of each image by its ID."""
    names: dict[_Id, str] = {}
    for where, row in objects(table["images"], str(path), "images", "image"):
        key = as_id(row.get("id"), f"{where}: id")
        if key in names:
            raise DataError(f"{where}: two images have the id {quoted(key)}")
        names[key] = as_text(row.get("file_name"), f"{where}: file_name")
    return names


def _keypoints(row: _Row, where: str) -> Float32[np.ndarray, "landmarks 3"]:
    """Return x, y, v of each landmark."""
    values = np.array(as_numbers(row["keypoints"], where), np.float32)
    if values.size % 3:
        raise DataError(f"{where}: {values.size} numbers, expected x, y, v of each landmark")
    values = values.reshape(-1, 3)
    if not np.isin(values[:, 2], (0, 1, 2)).all():
        raise DataError(f"{where}: the third number of a landmark must be 0, 1 or 2")
    return values


def _box(row: _Row, where: str) -> Box | None:
    if row.get("bbox") in (None, []):
        return None
    values = as_numbers(row["bbox"], where)
    if len(values) != 4:
        raise DataError(f"{where}: expected x, y, width, height")
    return xywh_to_xyxy(values)


def _landmark_names(table: _Row, faces: list[tuple[str, _Row]], path: Path) -> tuple[str, ...] | None:
    """Return the landmark names of the categories that have faces, which must agree."""
    categories: dict[_Id, tuple[str, ...]] = {}
    for where, row in objects(table.get("categories", []), str(path), "categories", "category"):
        names = as_list(row.get("keypoints") or [], f"{where}: keypoints")
        key = as_id(row.get("id"), f"{where}: id")
        categories[key] = tuple(as_text(name, f"{where}: keypoints") for name in names)
    if not categories:
        return None
    used: set[tuple[str, ...]] = set()
    for where, row in faces:
        key = as_id(row.get("category_id"), f"{where}: category_id")
        if key not in categories:
            raise DataError(f"{where}: category {quoted(key)} is not among the categories")
        used.add(categories[key])
    if len(used) > 1:
        raise DataError(f"{path}: categories with different landmarks: keep the faces of one category")
    return next(iter(used), ()) or None


def write_coco(path: Path, annotations: Annotations) -> None:
    """Write faces as COCO keypoints; images are named relative to the file's folder.

    Raises:
        WriteError: the file cannot be written.
        ImageError: an image cannot be opened to read its size.
    """
    images: dict[Path, dict[str, object]] = {}
    for sample in annotations.samples:
        if sample.image not in images:
            width, height = image_size(sample.image)
            name = relative_name(sample.image, path.parent)
            row = {"id": len(images) + 1, "file_name": name, "width": width, "height": height}
            images[sample.image] = row
    category = {"id": 1, "name": "face", "keypoints": list(annotations.landmark_names), "skeleton": []}
    faces = [
        {"id": i, "image_id": images[sample.image]["id"], "category_id": 1, **_face(sample)}
        for i, sample in enumerate(annotations.samples, start=1)
    ]
    content = {"images": list(images.values()), "annotations": faces, "categories": [category]}
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")


def _face(sample: FaceSample) -> dict[str, object]:
    known = np.isfinite(sample.points).all(axis=1)
    visible = np.ones(len(known), bool) if sample.visible is None else sample.visible
    flags = np.where(known, 1 + visible, 0)
    values = np.concatenate([np.where(known[:, None], sample.points, 0), flags[:, None]], axis=1)
    x0, y0, x1, y1 = (float(v) for v in (tight_box(sample.points) if sample.box is None else sample.box))
    # COCO requires a box. For a face without one, it is that of the landmarks and marked so for our reader.
    marker: dict[str, object] = {"bbox_of": "landmarks"} if sample.box is None else {}
    return {
        **marker,
        "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
        "area": round((x1 - x0) * (y1 - y0), 3),
        "iscrowd": 0,
        "num_keypoints": int(known.sum()),
        "keypoints": [round(v, 3) for v in values.ravel().tolist()],
        "name": sample.name,
        "group": sample.group,
        "attributes": sorted(sample.attributes),
    }
