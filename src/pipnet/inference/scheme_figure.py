"""The numbered figure of a landmark scheme."""

from __future__ import annotations

import tomllib
from importlib import resources

import numpy as np
from jaxtyping import Float64
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from pipnet.geometry import Image, tight_box
from pipnet.scheme import LandmarkScheme

_COLORS = (
    *("#4c78a8", "#e45756", "#2ca02c", "#b279a2", "#f58518"),
    *("#17becf", "#8c564b", "#d6337c", "#6b6ecf", "#7f7f7f"),
)
"""Colors of the regions, in order."""
_LINE_COLOR, _MIRROR_COLOR, _TEXT_COLOR = "#c8c8c8", "#bed7f0", "#303030"
_OVERSAMPLING = 2
"""Pillow draws without antialiasing: the figure is drawn larger and reduced."""


def mean_face(scheme: LandmarkScheme) -> Float64[np.ndarray, "landmarks 2"] | None:
    """Return the mean face of a built-in scheme's dataset, as fractions of its crop; None if unknown.

    It is for figures only: a model has the mean face of its own training.
    """
    text = (resources.files("pipnet.schemes") / "mean_faces.toml").read_text(encoding="utf-8")
    points = tomllib.loads(text).get(scheme.name, {}).get("points")
    return np.array(points, np.float64) if points and len(points) == scheme.landmarks else None


def draw_scheme(
    scheme: LandmarkScheme,
    points: Float64[np.ndarray, "landmarks 2"],
    size: int = 1000,
    mirror_lines: bool = False,
) -> Image:
    """Return a figure of a scheme: points in the color of their region, numbers, lines and a legend.

    Args:
        scheme: the landmark scheme.
        points: a face to draw, such as the mean face, in any frame with y downwards.
        size: side of the figure in pixels, without the legend.
        mirror_lines: draw a line between the landmarks of each mirror pair.
    """
    unit = size * _OVERSAMPLING / 100
    font = ImageFont.load_default(1.9 * unit)
    regions = list(scheme.regions) if len(scheme.regions) > 1 else []
    rows = -(-len(regions) // 4)
    pixels = _fit(points, unit)
    bottom = float(pixels[:, 1].max()) + 6 * unit
    canvas = PillowImage.new("RGB", (round(100 * unit), round(bottom + 4 * rows * unit)), "white")
    draw = ImageDraw.Draw(canvas)
    if mirror_lines:
        for pair in scheme.flip:
            draw.line([tuple(pixels[i]) for i in pair], _MIRROR_COLOR, round(0.2 * unit))
    for chain in scheme.edges:
        draw.line([tuple(pixels[i]) for i in chain], _LINE_COLOR, round(0.3 * unit))
    colors = dict.fromkeys(range(scheme.landmarks), _COLORS[0])
    for index, (region, members) in enumerate(scheme.regions.items()):
        colors |= dict.fromkeys(members, _COLORS[index % len(_COLORS)])
        if region in regions:
            x, y = (4 + 24 * (index % 4)) * unit, bottom + 4 * (index // 4) * unit
            draw.circle((x, y), 0.8 * unit, _COLORS[index % len(_COLORS)])
            draw.text((x + 1.6 * unit, y), region, _TEXT_COLOR, font, anchor="lm")
    for i, (x, y) in enumerate(pixels):
        draw.circle((x, y), 0.5 * unit, colors[i])
    for i, place in enumerate(_number_places(pixels, unit)):
        draw.text(tuple(place), str(i), _TEXT_COLOR, font, anchor="mm")
    figure: Image = np.asarray(canvas.reduce(_OVERSAMPLING), np.uint8)
    return figure


def _fit(points: Float64[np.ndarray, "n 2"], unit: float) -> Float64[np.ndarray, "n 2"]:
    """Return the points below the top of a figure that is 100 units wide."""
    box = tight_box(points)
    extent = box[2:] - box[:2]
    scale = 88 * unit / (float(extent.max()) or 1.0)
    return np.asarray((points - box[:2]) * scale + [50 * unit - extent[0] * scale / 2, 6 * unit])


def _number_places(pixels: Float64[np.ndarray, "n 2"], unit: float) -> Float64[np.ndarray, "n 2"]:
    """Return the center of each number: beside its point where there is space, rather on the outside."""
    angles = np.deg2rad(np.arange(0, 360, 22.5))
    directions = np.stack([np.sin(angles), -np.cos(angles)], axis=1)
    offsets = directions * [1.9 * unit, 1.5 * unit]
    center = pixels.mean(axis=0)
    taken = [*pixels]
    places = []
    for i, point in enumerate(pixels):
        candidates = point + offsets
        others = np.array([*taken[:i], *taken[i + 1 :]] or [point + 1e6])
        distance = np.linalg.norm(candidates[:, None] - others[None], axis=2).min(axis=1).clip(max=4 * unit)
        outward = directions @ (point - center) / (np.linalg.norm(point - center) + 1e-9)
        places.append(candidates[(distance + 0.15 * unit * outward).argmax()])
        taken.append(places[-1])
    return np.array(places)
