"""The page of a contact sheet: plain HTML, opened from disk, and a folder of small pictures beside it.

The pictures are files and not part of the page, so that a browser loads those that are looked at and no more:
2,000 faces inside the page would be some 60 MB to read before the first one shows. Landmarks are drawn by
the browser over the pictures, so that they can be taken away, and stay sharp when a face is enlarged.
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

from pipnet.errors import DataError, PipnetError
from pipnet.evaluation.gallery.faces import ShownFace, Value, with_model
from pipnet.geometry import Box, CropConfig, Points, crop, tight_box, to_fraction
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import atomic_write
from pipnet.io.image import read_image, write_image
from pipnet.progress import track
from pipnet.scheme import LandmarkScheme

INDEX = "index.html"
_PICTURES = "faces"
_AROUND = CropConfig(scale=1.5)
"""What is shown of a picture: the square of 1.5 times the face."""
_LARGEST = 400
"""Longest side of the pictures in pixels; a smaller face is not enlarged."""
_GRID = 1000
"""Landmarks are drawn to this fraction of what is shown."""


class _Column(NamedTuple):
    """How a value is shown and sorted."""

    title: str
    text: str
    largest_first: bool
    """Whether large values are the doubtful ones, which come first."""


_COLUMNS: dict[Value, _Column] = {
    "nme": _Column("NME", "{:.2f} %", True),
    "confidence": _Column("confidence", "{:.2f}", False),
    "score": _Column("score", "{:.2f}", False),
    "vote_std": _Column("vote_std", "{:.2f} %", True),
    "tta_std": _Column("disagreement of views", "{:.2f} %", True),
}


@dataclass(frozen=True)
class Heading:
    """What the page says of the set."""

    title: str
    total: int
    """How many faces the set has, shown or not."""
    unreadable: int = 0
    """Pictures without faces, because they could not be read when the set was annotated."""


def write_sheet(
    folder: Path,
    faces: Sequence[ShownFace],
    scheme: LandmarkScheme,
    heading: Heading,
    landmarker: FaceLandmarker | None = None,
) -> list[str]:
    """Write a page and its pictures; the folder appears whole or not at all.

    Args:
        folder: the folder to make; it may be there if it is empty.
        faces: the faces to show.
        scheme: what to draw.
        heading: what the page says of the set.
        landmarker: a model whose landmarks are drawn too, on the same scheme.

    Returns:
        A line for each face that could not be shown.

    Raises:
        DataError: not one could be shown.
        WriteError: the folder cannot be written.
    """
    with atomic_write(folder) as building:
        (building / _PICTURES).mkdir(parents=True)
        tiles, shown, bad = [], [], []
        for number, face in enumerate(track(faces, len(faces), "drawing"), start=1):
            try:
                image = read_image(face.sample.image)
                looked = with_model(face, image, landmarker) if landmarker else face
            except PipnetError as error:
                bad.append(f"{face.sample.name}: {error}")
                continue
            height, width = image.shape[:2]
            box = _AROUND(tight_box(face.sample.points), width, height)
            side = int(np.clip(np.ceil(box[2] - box[0]), 1, _LARGEST))
            picture = f"{_PICTURES}/{number:05d}.jpg"
            write_image(building / picture, crop(image, box, side))
            tiles.append(_tile(looked, box, scheme, picture, number))
            shown.append(looked)
        if not tiles:
            raise DataError(f"nothing to show: {bad[0]}" if bad else "nothing to show")
        page = _page(tiles, shown, heading, landmarker, len(bad))
        (building / INDEX).write_text(page, encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
    return bad


def _page(
    tiles: Sequence[str],
    shown: Sequence[ShownFace],
    heading: Heading,
    landmarker: FaceLandmarker | None,
    bad: int,
) -> str:
    template = Template((resources.files("pipnet.gallery") / "page.html").read_text(encoding="utf-8"))
    present = [key for key in _COLUMNS if any(key in face.values for face in shown)]
    sorts = [_sort(key, _COLUMNS[key]) for key in present]
    layers = {"labels": "label", "model": "found"} if landmarker else {"labels": "label"}
    toggles = [
        f'<label class="{layer}"><input type="checkbox" data-layer="{layer}" checked> {title}</label>'
        for title, layer in layers.items()
    ]
    return template.substitute(
        title=escape(heading.title),
        facts=" ".join(f"<span>{escape(fact)}</span>" for fact in _facts(shown, heading, landmarker, bad)),
        sorts="\n".join(sorts),
        toggles="\n".join(toggles),
        tiles="\n".join(tiles),
    )


def _sort(key: Value, column: _Column) -> str:
    return f'<option value="{key}" data-largest="{int(column.largest_first)}">{column.title}</option>'


def _facts(
    shown: Sequence[ShownFace], heading: Heading, landmarker: FaceLandmarker | None, bad: int
) -> list[str]:
    """What is on the page, and what is not."""
    left_out = heading.total - len(shown) - bad
    facts = [f"{len(shown):,} faces: all there are."]
    if left_out or bad:
        facts = [f"{len(shown):,} of {heading.total:,} faces."]
    if left_out:
        facts.append(f"{left_out:,} are left out; those shown are evenly spread over the set, not chosen.")
    if bad:
        facts.append(f"{bad:,} could not be shown.")
    if heading.unreadable:
        facts.append(f"{heading.unreadable:,} pictures could not be read when they were annotated.")
    if landmarker is not None:
        errors = [face.values["nme"] for face in shown if "nme" in face.values]
        mean = f" Mean NME of the faces here: {np.mean(errors):.2f} %." if errors else ""
        facts.append(f"Model: {landmarker.model.metadata.name}, shown the labels' own boxes.{mean}")
    return facts


def _tile(face: ShownFace, box: Box, scheme: LandmarkScheme, picture: str, number: int) -> str:
    """A face as HTML. Names come from anywhere, so they are escaped."""
    name = escape(face.sample.name)
    data = [f'data-order="{number}"', *(f'data-{key}="{value:.4f}"' for key, value in face.values.items())]
    values = [
        f"<span>{column.title} <b>{column.text.format(face.values[key])}</b></span>"
        for key, column in _COLUMNS.items()
        if key in face.values
    ]
    layers = _layer("label", face.sample.points, box, scheme)
    if face.found is not None:
        layers += _layer("found", face.found, box, scheme)
    return (
        f'<figure {" ".join(data)}><button type="button" class="face">'
        f'<img src="{picture}" loading="lazy" decoding="async" alt="">'
        f'<svg viewBox="0 0 {_GRID} {_GRID}">{layers}</svg></button>'
        f'<figcaption><span class="name" title="{name}">{name}</span>{"".join(values)}</figcaption></figure>'
    )


def _layer(name: str, points: Points, box: Box, scheme: LandmarkScheme) -> str:
    """Edges and points as two SVG paths. A line of no length with a round end is a dot."""
    places = _GRID * to_fraction(points, box)
    known = np.isfinite(places).all(axis=1)
    x, y = np.where(known[:, None], places, 0).round().astype(int).T.tolist()
    lines = []
    for chain in scheme.edges:
        pen = "M"
        for i in chain:
            if known[i]:
                lines.append(f"{pen}{x[i]} {y[i]}")
            pen = "L" if known[i] else "M"
    dots = [f"M{x[i]} {y[i]}h0" for i in np.flatnonzero(known)]
    return f'<g class="{name}"><path d="{"".join(lines)}"/><path class="dots" d="{"".join(dots)}"/></g>'
