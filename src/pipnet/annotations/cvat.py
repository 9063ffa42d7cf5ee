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

A face is one ``points`` shape of all its landmarks, or one skeleton. In a skeleton, ``occluded`` is a
landmark that is hidden and ``outside`` one that is unknown; of a ``points`` shape the flag is about the
face as a whole and says nothing of a landmark.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.annotations.base import Annotations, in_order
from pipnet.annotations.collector import FaceCollector
from pipnet.annotations.fields import number_in_text, shown, words
from pipnet.annotations.files import read_text, relative_name
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Points
from pipnet.io.atomic import write_text
from pipnet.io.image import image_size

_LABEL = "face"
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True)
class _Shape:
    """A points shape or a skeleton, and where it stands."""

    element: ET.Element
    picture: str
    where: str


def read_cvat(path: Path, finder: ImageFinder) -> Annotations:
    """The faces of a CVAT file.

    Raises:
        DataError: something in it is not what it should be; the place is named.
    """
    shapes = _shapes(_parse(path), path)
    if len({shape.element.tag for shape in shapes}) > 1:
        raise DataError(f"{path}: faces as points and faces as skeletons; keep those of one kind")
    collector = FaceCollector(finder)
    if not shapes or shapes[0].element.tag == "points":
        labels = sorted({shape.element.get("label", "") for shape in shapes})
        if len(labels) > 1:
            raise DataError(
                f"{path}: points shapes of several labels, {shown(', '.join(labels))}: draw a face as one "
                "shape of all points, or a skeleton; if all are faces, give them one label"
            )
        for shape in shapes:
            collector.add(finder.find(shape.picture, shape.where), _face_points(shape), shape.where)
        return collector.annotations(str(path), None)
    skeletons = [_landmarks(shape) for shape in shapes]
    names = in_order(name for landmarks in skeletons for name in landmarks)
    for shape, landmarks in zip(shapes, skeletons, strict=True):
        other = next((name for name in names if name not in landmarks), None)
        if other is not None:
            raise DataError(f"{shape.where}: no landmark {shown(other)}, which another skeleton has")
        picture = finder.find(shape.picture, shape.where)
        points = np.concatenate([_skeleton_point(landmarks[name], shape.where) for name in names])
        visible = np.array([landmarks[name].get("occluded") != "1" for name in names])
        collector.add(picture, points, shape.where, visible=visible)
    return collector.annotations(str(path), names)


def _parse(path: Path) -> ET.Element:
    text = read_text(path)
    # Entities can grow without end or name other files. CVAT writes none, so nothing may declare any;
    # as the text has been decoded, no other encoding can hide a declaration from this search.
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise DataError(f"{path}: declares a DOCTYPE or ENTITY, which CVAT does not: not read")
    try:
        root = ET.fromstring(text)  # noqa: S314 (see above)
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"{path}: not XML, or cut off: {error}") from None
    if root.tag != "annotations":
        raise DataError(f"{path}: not of CVAT: the root is <{root.tag[:40]}>, not <annotations>")
    if root.find("track") is not None:
        raise DataError(f'{path}: tracks of a video: export it from CVAT as "CVAT for images 1.1"')
    return root


def _shapes(root: ET.Element, path: Path) -> list[_Shape]:
    shapes = []
    for i, image in enumerate(root.findall("image")):
        name = words(image.get("name"), f"{path}: image {i + 1}: name")
        found = [child for child in image if child.tag in {"points", "skeleton"}]
        for n, element in enumerate(found):
            shapes.append(_Shape(element, name, f"{path}: image {shown(name)}, face {n + 1}"))
    return shapes


def _face_points(shape: _Shape) -> Points:
    points = _points(shape.element, shape.where)
    if len(points) == 1:
        raise DataError(f"{shape.where}: one point; draw a face as one shape of all points, or a skeleton")
    return points


def _landmarks(shape: _Shape) -> dict[str, ET.Element]:
    """The landmarks of a skeleton by name."""
    landmarks: dict[str, ET.Element] = {}
    for element in shape.element.findall("points"):
        name = words(element.get("label"), f"{shape.where}: label")
        if name in landmarks:
            raise DataError(f"{shape.where}: two landmarks are called {shown(name)}")
        landmarks[name] = element
    if not landmarks:
        raise DataError(f"{shape.where}: a skeleton without points")
    return landmarks


def _skeleton_point(element: ET.Element, where: str) -> Points:
    if element.get("outside") == "1":
        return np.full((1, 2), np.nan, np.float32)
    points = _points(element, f"{where}: landmark {shown(element.get('label'))}")
    if len(points) != 1:
        raise DataError(f"{where}: landmark {shown(element.get('label'))} has {len(points)} points")
    return points


def _points(element: ET.Element, where: str) -> Points:
    """``x,y;x,y`` as an array."""
    pairs = [pair.split(",") for pair in words(element.get("points"), f"{where}: points").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{where}: points: expected x,y;x,y")
    return np.array([[number_in_text(v, f"{where}: points") for v in pair] for pair in pairs], np.float32)


def write_cvat(path: Path, annotations: Annotations) -> None:
    """Write faces as CVAT XML; pictures are named by their way from the file's folder.

    They are ``points`` shapes, or skeletons where there is more to say than points: names, unknown or
    hidden landmarks.

    Raises:
        DataError: a name has a character that XML does not allow.
        WriteError: it cannot be written.
        ImageError: a picture cannot be opened to see its size.
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
            about = {"id": str(len(images)), "name": relative_name(sample.image, path.parent)}
            images[sample.image] = ET.SubElement(root, "image", about, width=str(width), height=str(height))
        images[sample.image].append(_face(sample, names))
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    if _NOT_XML.search(text):
        raise DataError(f"{path}: a name has a character which XML does not allow")
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def _face(sample: FaceSample, names: tuple[str, ...] | None) -> ET.Element:
    flags = {"label": _LABEL, "source": "manual", "occluded": "0", "z_order": "0"}
    pairs = [f"{x:.3f},{y:.3f}" for x, y in np.nan_to_num(sample.points).tolist()]
    if names is None:
        return ET.Element("points", flags, points=";".join(pairs))
    skeleton = ET.Element("skeleton", flags)
    seen = np.ones(len(names), bool) if sample.visible is None else sample.visible
    for i, name in enumerate(names):
        known = bool(np.isfinite(sample.points[i]).all())
        ET.SubElement(
            skeleton,
            "points",
            label=name,
            outside=str(int(not known)),
            occluded=str(int(known and not seen[i])),
            points=pairs[i],
        )
    return skeleton
