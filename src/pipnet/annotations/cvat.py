"""CVAT's own XML, "CVAT for images 1.1".

::

    <annotations>
      <image id="0" name="a.jpg" width="640" height="480">
        <points label="face" occluded="0" points="12.5,30;40,31.25"/>
        <skeleton label="face">
          <points label="left_eye" outside="0" occluded="1" points="12.5,30"/>
        </skeleton>
      </image>
    </annotations>

A face is one ``points`` shape with all its landmarks, or one skeleton. In a skeleton, ``occluded`` marks a
hidden landmark and ``outside`` an unknown one. The ``occluded`` flag of a ``points`` shape describes the
whole face and is ignored.
"""

from __future__ import annotations

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
from pipnet.geometry import Points
from pipnet.io.image import image_size
from pipnet.io.text import relative_name

_LABEL = "face"


class _Shape(NamedTuple):
    """A ``points`` shape or a skeleton."""

    element: ET.Element
    image: str
    where: str


def read_cvat(path: Path, root: ET.Element, finder: ImageFinder) -> Annotations:
    """Return the faces of a CVAT file.

    Args:
        path: the file, for error messages.
        root: its content.
        finder: finds the images.

    Raises:
        DataError: the content is invalid; the place is named.
    """
    if root.find("track") is not None:
        raise DataError(f'{path}: tracks of a video: export it from CVAT as "CVAT for images 1.1"')
    shapes = _shapes(root, path)
    tags = {shape.element.tag for shape in shapes}
    if len(tags) > 1:
        raise DataError(f"{path}: some faces are points, some are skeletons: keep the faces of one type")
    collector = FaceCollector(finder)
    if tags != {"skeleton"}:
        labels = sorted({shape.element.get("label", "") for shape in shapes})
        if len(labels) > 1:
            raise DataError(
                f"{path}: points shapes with several labels, {quoted(', '.join(labels))}: draw each face as "
                "one shape with all points, or as a skeleton; if all shapes are faces, give them one label"
            )
        for shape in shapes:
            collector.add(finder.find(shape.image, shape.where), _face_points(shape), shape.where)
        return collector.finish(str(path), None)
    skeletons = [_landmarks(shape) for shape in shapes]
    names = in_order(name for landmarks in skeletons for name in landmarks)
    for shape, landmarks in zip(shapes, skeletons, strict=True):
        missing = next((name for name in names if name not in landmarks), None)
        if missing is not None:
            raise DataError(f"{shape.where}: no landmark {quoted(missing)}, which another skeleton has")
        image = finder.find(shape.image, shape.where)
        points = np.concatenate([_skeleton_point(landmarks[name], shape.where) for name in names])
        visible = np.array([landmarks[name].get("occluded") != "1" for name in names])
        collector.add(image, points, shape.where, visible=visible)
    return collector.finish(str(path), names)


def _shapes(root: ET.Element, path: Path) -> list[_Shape]:
    shapes = []
    for i, image in enumerate(root.findall("image"), start=1):
        name = as_text(image.get("name"), f"{path}: image {i}: name")
        elements = [child for child in image if child.tag in {"points", "skeleton"}]
        for number, element in enumerate(elements, start=1):
            shapes.append(_Shape(element, name, f"{path}: image {quoted(name)}, face {number}"))
    return shapes


def _face_points(shape: _Shape) -> Points:
    points = _points(shape.element, shape.where)
    if len(points) == 1:
        raise DataError(
            f"{shape.where}: one point: draw a face as one shape with all points, or as a skeleton"
        )
    return points


def _landmarks(shape: _Shape) -> dict[str, ET.Element]:
    """Return the landmarks of a skeleton by name."""
    landmarks: dict[str, ET.Element] = {}
    for element in shape.element.findall("points"):
        name = as_text(element.get("label"), f"{shape.where}: label")
        if name in landmarks:
            raise DataError(f"{shape.where}: two landmarks are called {quoted(name)}")
        landmarks[name] = element
    if not landmarks:
        raise DataError(f"{shape.where}: a skeleton without points")
    return landmarks


def _skeleton_point(element: ET.Element, where: str) -> Points:
    if element.get("outside") == "1":
        return np.full((1, 2), np.nan, np.float32)
    where = f"{where}: landmark {quoted(element.get('label'))}"
    points = _points(element, where)
    if len(points) != 1:
        raise DataError(f"{where} has {len(points)} points")
    return points


def _points(element: ET.Element, where: str) -> Points:
    """Return ``x,y;x,y`` as an array."""
    where = f"{where}: points"
    pairs = [pair.split(",") for pair in as_text(element.get("points"), where).split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{where}: expected x,y;x,y")
    return np.array([[parse_number(value, where) for value in pair] for pair in pairs], np.float32)


def write_cvat(path: Path, annotations: Annotations) -> None:
    """Write faces as CVAT XML; images are named relative to the file's folder.

    Faces are written as ``points`` shapes, or as skeletons if landmarks have names, are unknown or hidden.

    Raises:
        DataError: a name has a character that XML does not allow.
        WriteError: the file cannot be written.
        ImageError: an image cannot be opened to read its size.
    """
    unknown = any(np.isnan(sample.points).any() for sample in annotations.samples)
    hidden = any(sample.visible is not None for sample in annotations.samples)
    names = annotations.landmark_names if annotations.names or unknown or hidden else None
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    images: dict[Path, ET.Element] = {}
    for sample in annotations.samples:
        if sample.image not in images:
            width, height = image_size(sample.image)
            attributes = {"id": str(len(images)), "name": relative_name(sample.image, path.parent)}
            attributes |= {"width": str(width), "height": str(height)}
            images[sample.image] = ET.SubElement(root, "image", attributes)
        images[sample.image].append(_face(sample, names))
    write_xml(path, root)


def _face(sample: FaceSample, names: tuple[str, ...] | None) -> ET.Element:
    flags = {"label": _LABEL, "source": "manual", "occluded": "0", "z_order": "0"}
    pairs = [f"{x:.3f},{y:.3f}" for x, y in np.nan_to_num(sample.points).tolist()]
    if names is None:
        return ET.Element("points", flags, points=";".join(pairs))
    skeleton = ET.Element("skeleton", flags)
    unknown = np.isnan(sample.points).any(axis=1)
    hidden = np.zeros(len(names), bool) if sample.visible is None else ~sample.visible & ~unknown
    for name, pair, is_unknown, is_hidden in zip(names, pairs, unknown, hidden, strict=True):
        state = {"outside": str(int(is_unknown)), "occluded": str(int(is_hidden))}
        ET.SubElement(skeleton, "points", {"label": name, **state, "points": pair})
    return skeleton
