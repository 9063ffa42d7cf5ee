"""Drawing of boxes and landmarks on images, with smooth edges and sizes that scale with the face."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import Float, Float32

from pipnet.confidence import LOW_QUALITY
from pipnet.errors import PipnetError
from pipnet.geometry import Image
from pipnet.scheme import LandmarkScheme

Color = str | tuple[int, int, int]
"""A name or code of Pillow such as ``"red"`` or ``"#ff8800"``, or red, green and blue from 0 to 255."""
_BOX_COLOR, _EDGE_COLOR, _POINT_COLOR = (255, 200, 0), (70, 170, 255), (120, 255, 120)
_LOW_COLOR, _RIM_COLOR = (255, 90, 70), (20, 40, 20)
_SAMPLES = 3
"""Thin marks are drawn this many times larger and reduced, so that their edges are smooth."""
_MAX_THICKNESS = 100
"""Maximum thickness of lines in pixels."""
_LARGE = 600
"""From this side in pixels on, marks are drawn twice as large only, which takes half the time."""
_MAX_DASHES = 500
"""Maximum number of dashes of a line."""


@dataclass(frozen=True)
class DrawStyle:
    """What is drawn, and how."""

    color: Color | None = None
    """Color of the landmarks and edges; green and blue if None. Faces of low quality keep their own color."""
    thickness: float | None = None
    """Thickness of the lines in pixels; 1/250 of the face, at least 1, if None."""
    boxes: bool = True
    """Draw the boxes."""
    numbers: bool = False
    """Write the index of each landmark beside it."""

    def __post_init__(self) -> None:
        if self.thickness is not None and not 0 < self.thickness <= _MAX_THICKNESS:
            raise PipnetError(f"thickness is above 0 and at most {_MAX_THICKNESS}, not {self.thickness}")
        if self.color is not None:
            parse_color(self.color)


def parse_color(color: Color) -> tuple[int, int, int]:
    """Return a color as red, green and blue.

    Raises:
        PipnetError: no such color.
    """
    try:
        rgb = PIL.ImageColor.getrgb(color)[:3] if isinstance(color, str) else tuple(int(v) for v in color)
    except (ValueError, TypeError):
        rgb = ()
    if len(rgb) != 3 or not all(0 <= v <= 255 for v in rgb):
        raise PipnetError(f"no color {color!r:.80}: use a name, '#rrggbb' or three numbers from 0 to 255")
    return rgb[0], rgb[1], rgb[2]


def draw_faces(
    image: Image,
    points: Float32[np.ndarray, "faces landmarks 2"],
    boxes: Float32[np.ndarray, "boxes 4"],
    scheme: LandmarkScheme,
    quality: Float32[np.ndarray, " faces"] | None = None,
    style: DrawStyle = DrawStyle(),
) -> PIL.Image.Image:
    """Return a copy of the image with boxes, edges and points.

    Args:
        image: the image.
        points: landmarks in pixels of the image.
        boxes: one for each face, or none, xyxy in pixels of the image.
        scheme: the landmark scheme.
        quality: of each face; those below `LOW_QUALITY` are dashed and have another color.
        style: what is drawn, and how.
    """
    canvas = PIL.Image.fromarray(image)
    low = np.zeros(len(points), bool) if quality is None else quality < LOW_QUALITY
    for i, box in enumerate(boxes if style.boxes else ()):
        thickness = _thickness(_longer_side(box), style)
        outline = box[[0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(5, 2)
        is_low = i < len(low) and bool(low[i])
        mask = _Mask(canvas, outline, thickness)
        mask.lines(_dashes([outline], 6 * thickness) if is_low else [outline], thickness)
        mask.paint(_LOW_COLOR if is_low else _BOX_COLOR)
    for face, is_low in zip(points, low.tolist(), strict=True):
        _draw_face(canvas, face, scheme, is_low, style)
    return canvas


def _draw_face(
    canvas: PIL.Image.Image,
    face: Float32[np.ndarray, "landmarks 2"],
    scheme: LandmarkScheme,
    is_low: bool,
    style: DrawStyle,
) -> None:
    """Draw one face: edges below, points above, each point with a thin dark rim if it is large enough."""
    side = _longer_side(np.concatenate([face.min(axis=0), face.max(axis=0)]))
    thickness = _thickness(side, style)
    radius = min(max(side / 110, 1.2, thickness * 1.2), 99)
    chosen = None if style.color is None else parse_color(style.color)
    edges = [face[list(chain)] for chain in scheme.edges]
    mask = _Mask(canvas, face, thickness)
    mask.lines(_dashes(edges, 3 * thickness) if is_low else edges, thickness)
    mask.paint(_LOW_COLOR if is_low else chosen or _EDGE_COLOR)
    has_rim = radius >= 2.5
    for size, color in (
        *([(radius, _RIM_COLOR)] if has_rim else []),
        (0.75 * radius if has_rim else radius, _LOW_COLOR if is_low else chosen or _POINT_COLOR),
    ):
        mask = _Mask(canvas, face, radius)
        mask.disks(face, size)
        mask.paint(color)
    if style.numbers:
        _write_numbers(canvas, face, radius, side)


def draw_labels(
    canvas: PIL.Image.Image, boxes: Float32[np.ndarray, "boxes 4"], labels: Sequence[str]
) -> None:
    """Write a label above each box, into the image itself."""
    draw = PIL.ImageDraw.Draw(canvas)
    for box, label in zip(boxes, labels, strict=True):
        size = int(np.clip(_longer_side(box) / 8, 11, 400))
        x, y = (float(v) for v in box[:2].clip(-1e5, 1e5))
        draw.text(
            (x, max(y - size / 5, size)),
            label,
            _BOX_COLOR,
            _font(size),
            anchor="ls",
            stroke_width=max(size // 12, 1),
            stroke_fill=(0, 0, 0),
        )


def _write_numbers(
    canvas: PIL.Image.Image, face: Float32[np.ndarray, "landmarks 2"], radius: float, side: float
) -> None:
    draw, size = PIL.ImageDraw.Draw(canvas), int(np.clip(side / 40, 8, 200))
    for i, (x, y) in enumerate(face.clip(-1e5, 1e5).tolist()):
        place = (x + radius, y - radius)
        draw.text(
            place, str(i), (255, 255, 255), _font(size), anchor="lb", stroke_width=1, stroke_fill=(0, 0, 0)
        )


@functools.lru_cache(maxsize=32)
def _font(size: int) -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    return PIL.ImageFont.load_default(size)


class _Mask:
    """Marks that are painted on an image in one color.

    They are drawn larger than the image and then reduced, so that their edges are smooth. Only the part of
    the image around them is touched.
    """

    def __init__(self, canvas: PIL.Image.Image, points: Float[np.ndarray, "n 2"], margin: float) -> None:
        """Cover the points, with a margin in pixels around them."""
        limit = np.array(canvas.size)
        self.low = np.floor(points.min(axis=0) - margin - 2).clip(0, limit).astype(int)
        size = np.ceil(points.max(axis=0) + margin + 3).clip(0, limit).astype(int) - self.low
        self.canvas, self.samples = canvas, _SAMPLES if size.max() < _LARGE else 2
        self.is_empty = bool((size <= 0).any())
        width, height = (1, 1) if self.is_empty else (size * self.samples).tolist()
        self.mask = PIL.Image.new("L", (width, height))
        self.draw = PIL.ImageDraw.Draw(self.mask)

    def lines(self, chains: Sequence[Float[np.ndarray, "_n 2"]], thickness: float) -> None:
        """Draw chains of straight lines."""
        width = max(round(thickness * self.samples), 1)
        for chain in chains:
            self.draw.line(self._pixels(chain), 255, width, "curve" if width > 2 else None)

    def disks(self, points: Float[np.ndarray, "n 2"], radius: float) -> None:
        """Draw a disk on each point."""
        for x, y in self._pixels(points):
            self.draw.circle((x, y), radius * self.samples, 255)

    def paint(self, color: tuple[int, int, int]) -> None:
        """Paint all marks on the image."""
        if not self.is_empty:
            x, y = self.low.tolist()
            self.canvas.paste(color, (x, y), self.mask.reduce(self.samples))

    def _pixels(self, points: Float[np.ndarray, "n 2"]) -> list[tuple[float, float]]:
        """Return points in pixels of the mask; far ones are clipped to what Pillow can draw."""
        mask = (points.astype(np.float64) - self.low + 0.5) * self.samples - 0.5
        return [(x, y) for x, y in mask.clip(-1e5, 1e5).tolist()]


def _dashes(chains: Sequence[Float[np.ndarray, "_n 2"]], length: float) -> list[Float[np.ndarray, "2 2"]]:
    """Return the dashes of chains of lines, with gaps of the same length."""
    dashes = []
    for chain in chains:
        for start, end in pairwise(chain.astype(np.float64)):
            distance = float(np.linalg.norm(end - start))
            count = 2 * min(int(distance / length / 2), _MAX_DASHES) + 1
            places = np.linspace(0, 1, count + 1)[:, None]
            corners = start + places * (end - start)
            dashes += [corners[i : i + 2] for i in range(0, count, 2)]
    return dashes


def _longer_side(box: Float32[np.ndarray, "4"]) -> float:
    return float((box[2:] - box[:2]).max())


def _thickness(side: float, style: DrawStyle) -> float:
    """Return the thickness of lines in pixels for a face or box with this longer side."""
    return float(np.clip(side / 250, 1, 99)) if style.thickness is None else style.thickness
