"""The page of the gallery: plain HTML that opens from disk, and a folder of face images next to it.

The images are files instead of a part of the page, so that a browser loads only those that are visible: 2,000
faces inside the page would be about 60 MB to read before the first one shows. The browser draws the landmarks
over the images, so that they can be hidden, and stay sharp when a face is enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipnet.errors import DataError, PipnetError, printable
from pipnet.evaluation.gallery.faces import GalleryFace, Value, with_prediction
from pipnet.evaluation.gallery.html_page import PageContent, Sort, caption, layer, render_page
from pipnet.geometry import Box, CropConfig, tight_box, to_fraction
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.atomic import atomic_write
from pipnet.io.image import read_image, write_image
from pipnet.io.text import counted
from pipnet.progress import show_progress
from pipnet.scheme import LandmarkScheme
from pipnet.warp import crop

INDEX = "index.html"
_IMAGES = "faces"
_CROP = CropConfig(scale=1.5)
_MAX_SIDE = 400
"""Maximum side of a face image in pixels. Smaller faces are not enlarged."""
_GRID = 1000
"""Landmarks are drawn to this fraction of the face image."""


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
    sorts = [
        Sort(key, column.title, column.largest_first)
        for key, column in _COLUMNS.items()
        if any(key in face.values for face in shown)
    ]
    layers = {"labels": "label", "model": "predicted"} if landmarker else {"labels": "label"}
    facts = _facts(shown, heading, landmarker, failed)
    return render_page(PageContent(heading.title, facts, sorts, layers, tiles))


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
    layers = layer("label", _GRID * to_fraction(face.sample.points, box), scheme)
    if face.predicted is not None:
        layers += layer("predicted", _GRID * to_fraction(face.predicted, box), scheme)
    label = escape(printable(face.sample.name))
    return (
        f'<figure {" ".join(data)}><button type="button" class="face" aria-label="{label}">'
        f'<img src="{file}" loading="lazy" decoding="async" alt="">'
        f'<svg viewBox="0 0 {_GRID} {_GRID}">{layers}</svg></button>'
        f"<figcaption>{caption(face.sample.name)}{''.join(values)}</figcaption></figure>"
    )
