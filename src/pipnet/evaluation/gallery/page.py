"""The page of the gallery: plain HTML that opens from disk, and a folder of face images next to it.

The images are files instead of a part of the page, so that a browser loads only those that are visible: 2,000
faces inside the page would be about 60 MB to read before the first one shows. The browser draws the landmarks
over the images, so that they can be hidden, and stay sharp when a face is enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from pipnet.errors import DataError, PipnetError, printable
from pipnet.evaluation.gallery.faces import GalleryFace, Value, with_prediction
from pipnet.geometry import Box, CropConfig, Points, crop, tight_box, to_fraction
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import atomic_write
from pipnet.io.image import read_image, write_image
from pipnet.io.text import counted
from pipnet.progress import show_progress
from pipnet.scheme import LandmarkScheme

INDEX = "index.html"
_IMAGES = "faces"
_CROP = CropConfig(scale=1.5)
_MAX_SIDE = 400
"""Maximum side of a face image in pixels. Smaller faces are not enlarged."""
_GRID = 1000
"""Landmarks are drawn to this fraction of the face image."""
_NAME_END = 18
"""Characters at the end of a name that the smallest tile shows."""


class _Column(NamedTuple):
    """How a value is shown and sorted."""

    title: str
    text: str
    largest_first: bool
    """Whether large values are doubtful. Doubtful faces come first."""


_COLUMNS: dict[Value, _Column] = {
    "nme": _Column("NME", "{:.2f} %", True),
    "quality": _Column("quality", "{:.2f}", False),
    "mean_score": _Column("mean score", "{:.2f}", False),
    "vote_std": _Column("vote std", "{:.2f} %", True),
    "label_std": _Column("label std", "{:.2f} %", True),
}


@dataclass(frozen=True)
class Heading:
    """The description of the dataset on the page."""

    title: str
    total: int
    """Number of faces of the dataset, shown or not."""
    unreadable: int = 0
    """Number of images that could not be read when the dataset was annotated."""
    selection: str = "evenly spaced over the dataset, not selected"
    """How the shown faces were chosen, if not all are shown."""


def write_gallery(
    folder: Path,
    faces: Sequence[GalleryFace],
    scheme: LandmarkScheme,
    heading: Heading,
    landmarker: FaceLandmarker | None = None,
) -> list[str]:
    """Write the page and its images atomically, and return an error for each face that could not be shown.

    Args:
        folder: the folder to make; it may exist if it is empty.
        faces: the faces to show.
        scheme: the scheme of the landmarks.
        heading: the description of the dataset.
        landmarker: a model of the same scheme, if its landmarks are shown too.

    Raises:
        DataError: no face could be shown.
        WriteError: the folder cannot be written.
    """
    with atomic_write(folder) as building:
        (building / _IMAGES).mkdir(parents=True)
        tiles, shown, errors = [], [], []
        for number, labeled in enumerate(show_progress(faces, len(faces), "drawing"), start=1):
            try:
                image = read_image(labeled.sample.image)
                face = with_prediction(labeled, image, landmarker) if landmarker else labeled
            except PipnetError as error:
                errors.append(f"{labeled.sample.name}: {error}")
                continue
            height, width = image.shape[:2]
            box = _CROP.region(tight_box(face.sample.points), width, height)
            side = int(np.clip(np.ceil(box[2] - box[0]), 1, _MAX_SIDE))
            file = f"{_IMAGES}/{number:05d}.jpg"
            write_image(building / file, crop(image, box, side))
            tiles.append(_tile(face, box, scheme, file, number))
            shown.append(face)
        if not tiles:
            raise DataError(f"nothing to show: {errors[0]}" if errors else "nothing to show")
        page = _page(tiles, shown, heading, landmarker, len(errors))
        (building / INDEX).write_text(page, encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
    return errors


def _page(
    tiles: Sequence[str],
    shown: Sequence[GalleryFace],
    heading: Heading,
    landmarker: FaceLandmarker | None,
    failed: int,
) -> str:
    template = Template((resources.files(__package__) / "page.html").read_text(encoding="utf-8"))
    sorts = [
        f'<option value="{key}" data-largest="{int(column.largest_first)}">{column.title}</option>'
        for key, column in _COLUMNS.items()
        if any(key in face.values for face in shown)
    ]
    layers = {"labels": "label", "model": "predicted"} if landmarker else {"labels": "label"}
    toggles = [
        f'<label class="{layer}"><input type="checkbox" data-layer="{layer}" checked> {title}</label>'
        for title, layer in layers.items()
    ]
    facts = _facts(shown, heading, landmarker, failed)
    return template.substitute(
        title=escape(printable(heading.title)),
        facts=" ".join(f"<span>{escape(printable(fact))}</span>" for fact in facts),
        sorts="\n".join(sorts),
        toggles="\n".join(toggles),
        tiles="\n".join(tiles),
    )


def _facts(
    shown: Sequence[GalleryFace], heading: Heading, landmarker: FaceLandmarker | None, failed: int
) -> list[str]:
    """Return sentences about which faces the page shows and which it does not."""
    left_out = heading.total - len(shown) - failed
    facts = [f"{counted(len(shown), 'face')}: the complete dataset."]
    if left_out or failed:
        facts = [f"{len(shown):,} of {heading.total:,} faces."]
    if left_out:
        are = "is" if left_out == 1 else "are"
        facts.append(f"{left_out:,} {are} left out; those shown are {heading.selection}.")
    if failed:
        facts.append(f"{failed:,} could not be shown.")
    if heading.unreadable:
        they_were = "it was" if heading.unreadable == 1 else "they were"
        facts.append(f"{counted(heading.unreadable, 'image')} could not be read when {they_were} annotated.")
    if landmarker is not None:
        errors = [face.values["nme"] for face in shown if "nme" in face.values]
        mean = f" Mean NME of these faces: {np.mean(errors):.2f} %." if errors else ""
        facts.append(f"Model: {landmarker.metadata.name}, from the labels' own boxes.{mean}")
    return facts


def _tile(face: GalleryFace, box: Box, scheme: LandmarkScheme, file: str, number: int) -> str:
    """Return a face as HTML."""
    data = [f'data-order="{number}"', *(f'data-{key}="{value:.4f}"' for key, value in face.values.items())]
    values = [
        f"<span>{column.title} <b>{column.text.format(face.values[key])}</b></span>"
        for key, column in _COLUMNS.items()
        if key in face.values
    ]
    layers = _layer("label", face.sample.points, box, scheme)
    if face.predicted is not None:
        layers += _layer("predicted", face.predicted, box, scheme)
    return (
        f'<figure {" ".join(data)}><button type="button" class="face">'
        f'<img src="{file}" loading="lazy" decoding="async" alt="">'
        f'<svg viewBox="0 0 {_GRID} {_GRID}">{layers}</svg></button>'
        f"<figcaption>{_caption(face.sample.name)}{''.join(values)}</figcaption></figure>"
    )


def _caption(name: str) -> str:
    """Return a name as HTML, escaped, in two parts: a small tile cuts the first one, and shows the end."""
    name = printable(name)
    start, end = escape(name[:-_NAME_END]), escape(name[-_NAME_END:])
    parts = f'<span class="start">{start}</span><span class="end">{end}</span>'
    return f'<span class="name" title="{escape(name)}">{parts}</span>'


def _layer(name: str, points: Points, box: Box, scheme: LandmarkScheme) -> str:
    """Return edges and points as two SVG paths. A line of length 0 with round ends is a dot."""
    places = _GRID * to_fraction(points, box)
    known = np.isfinite(places).all(axis=1)
    x, y = np.where(known[:, None], places, 0).round().astype(int).T.tolist()
    lines = []
    for chain in scheme.edges:
        command = "M"
        for i in chain:
            if known[i]:
                lines.append(f"{command}{x[i]} {y[i]}")
            command = "L" if known[i] else "M"
    dots = [f"M{x[i]} {y[i]}h0" for i in np.flatnonzero(known)]
    return f'<g class="{name}"><path d="{"".join(lines)}"/><path class="dots" d="{"".join(dots)}"/></g>'
