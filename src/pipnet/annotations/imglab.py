"""The XML of dlib and its tool imglab.

::

    <dataset>
      <comment>landmarks: ["left_eye", "nose"]</comment>
      <images>
        <image file="a.jpg" width="640" height="480">
          <box top="30" left="10" width="200" height="210">
            <part name="left_eye" x="60" y="90"/>
          </box>
        </image>
      </images>
    </dataset>

A face is a box with parts. A part that a face lacks is unknown. dlib reads whole pixels only, sorts parts by
their names, and counts the last row and column of a box in. Boxes without parts and ignored ones are skipped.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipnet.annotations.annotation_set import Annotations, in_order
from pipnet.annotations.checked_values import as_text, parse_number, quoted
from pipnet.annotations.face_collector import FaceCollector
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.annotations.xml_file import write_xml
from pipnet.errors import DataError
from pipnet.geometry import Box, tight_box, xywh_to_xyxy
from pipnet.io.image import image_size
from pipnet.io.text import relative_name

_ORDER = "landmarks: "
"""Start of the comment with all landmark names in order, which the parts do not tell. Our own addition."""


class _Face(NamedTuple):
    image: str
    where: str
    box: Box
    points: dict[str, tuple[float, float]]


def read_imglab(path: Path, root: ET.Element, finder: ImageFinder) -> Annotations:
    """Return the faces of an imglab file.

    Args:
        path: the file, for error messages.
        root: its content.
        finder: finds the images.

    Raises:
        DataError: the content is invalid; the place is named.
    """
    faces = _faces(root, path)
    labels = in_order(label for face in faces for label in face.points)
    order = _order(root)
    names = order if set(labels) <= set(order) else labels
    collector = FaceCollector(finder)
    for face in faces:
        points = np.array([face.points.get(name, (np.nan, np.nan)) for name in names], np.float32)
        image = finder.find(face.image, face.where)
        collector.add(image, points, face.where, box=None if _is_around(face.box, points) else face.box)
    is_numbered = names == _numbers(len(names))
    return collector.finish(str(path), None if is_numbered else names)


def _faces(root: ET.Element, path: Path) -> list[_Face]:
    faces = []
    for i, image in enumerate(root.findall("images/image"), start=1):
        name = as_text(image.get("file"), f"{path}: image {i}: file")
        for number, element in enumerate(image.findall("box"), start=1):
            where = f"{path}: image {quoted(name)}, box {number}"
            points = _parts(element, where)
            if points and element.get("ignore", "0") in {"0", "false"}:
                faces.append(_Face(name, where, _box(element, where), points))
    return faces


def _parts(element: ET.Element, where: str) -> dict[str, tuple[float, float]]:
    points: dict[str, tuple[float, float]] = {}
    for part in element.findall("part"):
        name = as_text(part.get("name"), f"{where}: name of a part")
        if name in points:
            raise DataError(f"{where}: two parts are called {quoted(name)}")
        place = f"{where}: part {quoted(name)}"
        x, y = (parse_number(as_text(part.get(key), f"{place}: {key}"), place) for key in ("x", "y"))
        points[name] = (x, y)
    return points


def _box(element: ET.Element, where: str) -> Box:
    values = (as_text(element.get(key), f"{where}: {key}") for key in ("left", "top", "width", "height"))
    x, y, width, height = (parse_number(value, where) for value in values)
    return xywh_to_xyxy([x, y, width - 1, height - 1])


def _order(root: ET.Element) -> tuple[str, ...]:
    """Return the names in the comment, if it is one of our writer's."""
    text = (root.findtext("comment") or "").strip()
    try:
        names = json.loads(text.removeprefix(_ORDER)) if text.startswith(_ORDER) else []
    except (ValueError, RecursionError):
        return ()
    return tuple(n for n in names if isinstance(n, str)) if isinstance(names, list) else ()


def _is_around(box: Box, points: np.ndarray) -> bool:
    """Return whether a box is that of the landmarks in whole pixels, such as our writer's without a box."""
    return bool(np.isfinite(points).any() and np.abs(box - np.round(tight_box(points))).max() < 0.01)


def _numbers(count: int) -> tuple[str, ...]:
    """Return numbers as names, as long as each other: dlib sorts names as texts."""
    width = max(len(str(count - 1)), 2)
    return tuple(f"{i:0{width}d}" for i in range(count))


def write_imglab(path: Path, annotations: Annotations) -> None:
    """Write faces as imglab XML, in whole pixels; images are named relative to the file's folder.

    The box of a face without one is that of its landmarks.

    Raises:
        DataError: a name has a character that XML does not allow.
        WriteError: the file cannot be written.
        ImageError: an image cannot be opened to read its size.
    """
    names = annotations.names or _numbers(len(annotations.samples[0].points))
    root = ET.Element("dataset")
    ET.SubElement(root, "name").text = "faces"
    ET.SubElement(root, "comment").text = _ORDER + json.dumps(names)
    images: dict[Path, ET.Element] = {}
    parent = ET.SubElement(root, "images")
    for sample in annotations.samples:
        if sample.image not in images:
            width, height = image_size(sample.image)
            attributes = {"file": relative_name(sample.image, path.parent)}
            attributes |= {"width": str(width), "height": str(height)}
            images[sample.image] = ET.SubElement(parent, "image", attributes)
        images[sample.image].append(_element(sample, names))
    write_xml(path, root)


def _element(sample: FaceSample, names: tuple[str, ...]) -> ET.Element:
    corners = np.round(tight_box(sample.points) if sample.box is None else sample.box)
    left, top, right, bottom = corners.astype(int).tolist()
    sides = {"top": top, "left": left, "width": right - left + 1, "height": bottom - top + 1}
    element = ET.Element("box", {key: str(value) for key, value in sides.items()})
    for name, point in zip(names, sample.points, strict=True):
        if np.isfinite(point).all():
            x, y = np.round(point).astype(int).tolist()
            ET.SubElement(element, "part", name=name, x=str(x), y=str(y))
    return element
