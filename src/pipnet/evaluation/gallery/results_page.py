"""The results of ``pipnet detect`` as one HTML file to send to others: thumbnails with the landmarks drawn.

The file contains everything: it opens offline, loads nothing, and its thumbnails have no EXIF data, such as
where a photo was taken.
"""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
import PIL.Image

import pipnet
from pipnet.annotations.samples import evenly_spaced
from pipnet.confidence import LOW_QUALITY
from pipnet.errors import PipnetError, printable
from pipnet.evaluation.gallery.html_page import PageContent, Sort, caption, layer, render_page
from pipnet.geometry import Box, Image
from pipnet.inference.results import FaceLandmarks
from pipnet.io.atomic import check_writable, write_text
from pipnet.io.text import counted
from pipnet.metadata import ModelMetadata
from pipnet.warp import resize

MAX_IMAGES = 1000
"""Maximum number of images on a page; of more, evenly spaced ones are shown."""
_PIXELS = 1e8
"""Pixels of all thumbnails together, at about 0.15 bytes each."""
_MAX_SIDE = 1280
"""Maximum side of a thumbnail in pixels."""
_GRID = 4000
"""Landmarks are drawn to this fraction of the longer side of the image."""
_SORTS = (Sort("quality", "quality"), Sort("faces", "number of faces", largest_first=True))


class ResultsPage:
    """Collects images with their faces, and writes them as one page."""

    def __init__(self, path: Path, total: int, metadata: ModelMetadata) -> None:
        """Check the name, and create the folder.

        Args:
            path: the ``.html`` file.
            total: the number of images that will be added.
            metadata: of the model.

        Raises:
            PipnetError: the name does not end in ``.html``.
            WriteError: it cannot be written.
        """
        if path.suffix.lower() not in (".html", ".htm"):
            raise PipnetError(f"--html {path!s:.80}: expected the name of a file that ends in .html")
        check_writable(path)
        self.path, self._total, self._metadata = path, total, metadata
        self._side = min(_MAX_SIDE, int((_PIXELS / max(min(total, MAX_IMAGES), 1)) ** 0.5))
        self._shown = set(evenly_spaced(range(total), MAX_IMAGES))
        self._tiles: list[str] = []
        self._added = self._faces = self._failed = 0

    def add(self, name: str, faces: FaceLandmarks) -> None:
        """Add an image with its faces."""
        self._faces += len(faces)
        if self._added in self._shown:
            self._add_tile(name, _thumbnail(faces.image, self._side), _drawing(faces), _values(faces))
        self._added += 1

    def add_error(self, name: str, error: str) -> None:
        """Add an image that could not be read."""
        self._failed += 1
        if self._added in self._shown:
            self._add_tile(name, f'<span class="error">{escape(printable(error))}</span>', "", {})
        self._added += 1

    def _add_tile(self, name: str, image: str, drawing: str, values: dict[str, str]) -> None:
        numbers = {key: text.partition(" ")[0] for key, text in values.items()}
        numbers["order"] = str(self._added)
        data = " ".join(f'data-{key}="{text}"' for key, text in numbers.items())
        label = escape(", ".join([printable(name), *(f"{key} {text}" for key, text in values.items())]))
        facts = "".join(f"<span>{key} <b>{text}</b></span>" for key, text in values.items())
        self._tiles.append(
            f'<figure {data}><button type="button" class="face photo" aria-label="{label}">{image}{drawing}'
            f"</button><figcaption>{caption(name)}{facts}</figcaption></figure>"
        )

    def write(self) -> None:
        """Write the page atomically.

        Raises:
            WriteError: it cannot be written; the previous version is kept.
        """
        images = counted(self._total, "image")
        facts = [
            f"{images}, {counted(self._faces, 'face')}, found by pipnet {pipnet.__version__} with the model"
        ]
        facts[0] += f" {self._metadata.name}."
        if self._failed:
            facts.append(f"{counted(self._failed, 'image')} could not be read.")
        if self._added < self._total:
            facts.append(f"Interrupted after {counted(self._added, 'image')}.")
        if self._added > len(self._tiles):
            facts.append(f"{len(self._tiles):,} of the images are shown, evenly spaced, not selected.")
        facts.append(
            f"Faces of a quality below {LOW_QUALITY} are red. This file loads nothing from other places."
        )
        layers = {"landmarks": "label", "boxes": "box"}
        content = PageContent(
            f"Faces in {images}",
            facts,
            _SORTS,
            layers,
            self._tiles,
            is_self_contained=True,
            has_quality_filter=True,
        )
        write_text(self.path, render_page(content))


def _thumbnail(image: Image, side: int) -> str:
    """Return a reduced image as HTML that contains it."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(width, height))
    if scale < 1:
        image = resize(image, max(round(width * scale), 1), max(round(height * scale), 1))
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "WEBP", quality=75)
    content = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/webp;base64,{content}" decoding="async" alt="">'


def _drawing(faces: FaceLandmarks) -> str:
    """Return landmarks and boxes as an SVG drawing of the shape of the image."""
    height, width = faces.image.shape[:2]
    scale = _GRID / max(width, height)
    parts = []
    for face in faces:
        low = " low" if face.quality < LOW_QUALITY else ""
        parts.append(_box(f"box{low}", scale * (face.box + 0.5)))
        parts.append(layer(f"label{low}", scale * (face.points + 0.5), faces.scheme))
    shape = f"0 0 {round(width * scale)} {round(height * scale)}"
    return f'<svg viewBox="{shape}" aria-hidden="true">{"".join(parts)}</svg>'


def _box(name: str, box: Box) -> str:
    x0, y0, x1, y1 = box.round().astype(int).tolist()
    return f'<g class="{name}"><path d="M{x0} {y0}H{x1}V{y1}H{x0}z"/></g>'


def _values(faces: FaceLandmarks) -> dict[str, str]:
    """Return what the caption states; the first number of each is what the page sorts by."""
    values = {"faces": str(len(faces))}
    quality = np.sort(faces.quality)
    if len(quality) and np.isfinite(quality[0]):
        values["quality"] = f"{quality[0]:.2f}" + (f" to {quality[-1]:.2f}" if len(quality) > 1 else "")
    return values
