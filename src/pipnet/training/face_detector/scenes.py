"""Scenes for the training of a face detector: photos of faces, at all sizes and angles, on other images.

Every scene depends on (seed, epoch, index) alone.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
from jaxtyping import Bool, Float32

from pipnet.geometry import Affine, Box, Image, affine, compose, invert
from pipnet.io.image import read_image
from pipnet.training.face_detector.labels import LabeledPhoto
from pipnet.training.face_detector.recipe import SceneConfig
from pipnet.warp import reduce, resize, transform

_MAX_TILES = 3
"""Maximum number of tiles along a side of a background."""
_BLACK = 12
"""Maximum value of a black border, with the noise of its compression."""
_NO_FACES = np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, bool)
_MIRRORED = [1, 0, 2, 4, 3]
"""The five points of a mirrored face."""


class Scene(NamedTuple):
    """An image and its faces; see `LabeledPhoto`."""

    image: Image
    boxes: Float32[np.ndarray, "faces 4"]
    points: Float32[np.ndarray, "faces 5 2"]
    ignored: Bool[np.ndarray, " faces"]


class SceneComposer:
    """Composes scenes from labeled photos and backgrounds."""

    def __init__(
        self, photos: Sequence[LabeledPhoto], backgrounds: Sequence[Image], config: SceneConfig, seed: int
    ) -> None:
        """Take the photos that have a certain face.

        A group of photos is drawn in proportion to the square root of its size, so that a large one of easy
        faces does not outweigh small ones of hard faces.

        Args:
            photos: labeled photos.
            backgrounds: images without a face.
            config: how scenes are composed.
            seed: of all random choices.
        """
        self.photos = [photo for photo in photos if (~photo.ignored).any()]
        self.backgrounds, self.config, self.seed = backgrounds, config, seed
        sizes = Counter(photo.group for photo in self.photos)
        self._shares = np.cumsum([1 / np.sqrt(sizes[photo.group]) for photo in self.photos])

    def scene(self, epoch: int, index: int) -> Scene:
        """Return one scene of an epoch."""
        c, rng = self.config, np.random.default_rng((self.seed, epoch, index))
        canvas = self._background(rng)
        boxes, points, ignored = _NO_FACES
        visible = np.zeros(0)
        if rng.random() >= c.no_faces:
            count = int(rng.integers(1, c.max_photos + 1))
            sides = np.exp(rng.uniform(np.log(c.min_face), np.log(c.max_face), count))
            for side in np.sort(sides)[::-1]:  # the smallest last, so that large photos do not cover them
                photo = self._photo(rng)
                pasted = self._paste(canvas, photo, float(side), rng)
                visible = visible * (1 - _covered(boxes, pasted.mask))
                boxes = np.concatenate([boxes, pasted.boxes])
                points = np.concatenate([points, pasted.points])
                ignored = np.concatenate([ignored, pasted.ignored])
                visible = np.concatenate([visible, np.ones(len(pasted.boxes))])
        visible = visible * _inside(boxes, c.size)
        sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1))
        ignored = ignored | (visible < 0.65) | (sides < c.min_face * 0.9)
        kept = visible > 0.1
        return Scene(self._colors(canvas, rng), boxes[kept], points[kept], ignored[kept])

    def _photo(self, rng: np.random.Generator) -> LabeledPhoto:
        """Return a random photo."""
        return self.photos[int(np.searchsorted(self._shares, rng.random() * self._shares[-1]))]

    def _background(self, rng: np.random.Generator) -> Image:
        """Return a canvas: one color, or a mosaic of parts of images and photos without a face."""
        size = self.config.size
        if rng.random() < 0.1:
            return np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)
        count = int(rng.integers(1, _MAX_TILES + 1))
        edges = np.linspace(0, size, count + 1).round().astype(int)
        canvas = np.empty((size, size, 3), np.uint8)
        photo = self._photo(rng)
        image = read_image(photo.image)
        for top, bottom in itertools.pairwise(edges):
            for left, right in itertools.pairwise(edges):
                if rng.random() < 0.4 and self.backgrounds:
                    part = _random_part(self.backgrounds[int(rng.integers(len(self.backgrounds)))], rng)
                else:
                    part = _faceless_part(image, photo.boxes, rng)
                part = np.rot90(part, int(rng.integers(4))) if rng.random() < 0.5 else part
                tile = resize(np.ascontiguousarray(part), int(right - left), int(bottom - top))
                canvas[top:bottom, left:right] = tile
        return canvas

    def _paste(self, canvas: Image, photo: LabeledPhoto, side: float, rng: np.random.Generator) -> _Pasted:
        """Paste a photo, one of its faces at this size and anywhere, rotated and perhaps mirrored."""
        image, c = read_image(photo.image), self.config
        target = int(rng.choice(np.flatnonzero(~photo.ignored)))
        placement = self._place(photo.boxes[target], side, rng)
        shrink = int(1 / np.sqrt(abs(np.linalg.det(placement.matrix[:, :2]))))
        if shrink < 2:
            mask = _warp_onto(canvas, image, placement.matrix)
        else:  # average first, so that small faces do not alias
            offset = shrink / 2 - 0.5
            enlarge = np.array([[shrink, 0.0, offset], [0, shrink, offset]])
            mask = _warp_onto(canvas, reduce(image, shrink), compose(enlarge, placement.matrix))
        if placement.is_upside_down:
            return _Pasted(mask, *_NO_FACES)
        boxes, points = _moved(photo.boxes, photo.points, placement)
        if rng.random() < c.occlude and self.backgrounds:
            _occlude(canvas, boxes[target], self.backgrounds[int(rng.integers(len(self.backgrounds)))], rng)
        return _Pasted(mask, boxes, points, photo.ignored)

    def _place(self, box: Box, side: float, rng: np.random.Generator) -> _Placement:
        """Return where a photo goes, so that a face of it has this side."""
        c = self.config
        scale = side / np.sqrt((box[2:] - box[:2]).prod())
        angle = np.deg2rad(rng.uniform(-45, 45) if rng.random() < c.turned else rng.normal(0, 8))
        is_upside_down, is_mirrored = rng.random() < c.upside_down, rng.random() < 0.5
        if is_upside_down:
            angle += np.pi
        margin = min((0.15 if rng.random() < c.cut else 0.5) * side, 0.5 * c.size)
        place = rng.uniform(margin, c.size - margin, 2)
        linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if is_mirrored:
            linear = linear @ np.diag([-1.0, 1.0])
        shift = place - linear @ ((box[:2] + box[2:]) / 2)
        return _Placement(np.hstack([linear, shift[:, None]]), float(angle), is_mirrored, is_upside_down)

    def _colors(self, image: Image, rng: np.random.Generator) -> Image:
        """Return the scene in other light, blurred, noisy or compressed."""
        c, scene = self.config, PIL.Image.fromarray(image)
        if rng.random() < c.color_jitter:
            gain = rng.uniform(0.7, 1.35) * rng.uniform(0.85, 1.15, 3)
            table = (np.arange(256)[:, None] - 128) * gain + 128 + rng.uniform(-35, 35)
            scene = scene.point(table.clip(0, 255).astype(np.uint8).T.ravel().tolist())
        if rng.random() < c.dark:
            table = 255 * (np.arange(256) / 255) ** rng.uniform(1.3, 3) * rng.uniform(0.15, 0.8)
            noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 10))
            values = np.asarray(scene.point(table.astype(np.uint8).tolist() * 3)) + noise
            scene = PIL.Image.fromarray(values.clip(0, 255).astype(np.uint8))
        if rng.random() < c.grayscale:
            scene = scene.convert("L").convert("RGB")
        if rng.random() < c.blur:
            scene = scene.filter(PIL.ImageFilter.GaussianBlur(rng.uniform(0.4, 2.2)))
        if rng.random() < c.compress:
            file = io.BytesIO()
            scene.save(file, "JPEG", quality=int(rng.integers(15, 90)))
            scene = PIL.Image.open(file)
        return np.array(scene)


class _Placement(NamedTuple):
    """Where a photo is pasted."""

    matrix: Affine
    """From pixels of the photo to pixels of the canvas."""
    angle: float
    """Rotation in radians."""
    is_mirrored: bool
    is_upside_down: bool


class _Pasted(NamedTuple):
    """The pixels that a pasted photo covers, and its faces on the canvas."""

    mask: Bool[np.ndarray, "size size"]
    boxes: Float32[np.ndarray, "faces 4"]
    points: Float32[np.ndarray, "faces 5 2"]
    ignored: Bool[np.ndarray, " faces"]


def _warp_onto(canvas: Image, image: Image, matrix: Affine) -> Bool[np.ndarray, "size size"]:
    """Warp a photo onto the canvas, without the black border of a crop, and return which pixels it covers."""
    rows = np.flatnonzero(image.reshape(len(image), -1).max(axis=1) > _BLACK)
    columns = np.flatnonzero(image.max(axis=0).max(axis=1) > _BLACK)
    mask = PIL.Image.new("1", canvas.shape[1::-1])
    if not len(rows):
        return np.array(mask)
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1], rows[-1]
    corners = affine(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64), matrix)
    PIL.ImageDraw.Draw(mask).polygon([(x, y) for x, y in corners.tolist()], fill=1)
    covered = np.array(mask)
    low = np.floor(corners.min(axis=0)).astype(int).clip(0, len(canvas) - 1)
    high = np.ceil(corners.max(axis=0)).astype(int).clip(low + 1, len(canvas))
    part = (slice(low[1], high[1]), slice(low[0], high[0]))
    inverse = invert(compose(matrix, np.array([[1.0, 0, -low[0]], [0, 1, -low[1]]])))
    warped = transform(PIL.Image.fromarray(image), inverse, tuple((high - low).tolist()))
    canvas[part][covered[part]] = np.asarray(warped)[covered[part]]
    return covered


def _occlude(canvas: Image, box: Box, cover: Image, rng: np.random.Generator) -> None:
    """Cover up to 40 % of a face by an image; it stays a face."""
    low, side = box[:2], box[2:] - box[:2]
    part = side * rng.uniform(0.25, 0.63, 2)
    corner = low + rng.uniform(0, 1, 2) * (side - part)
    left, top = corner.astype(int).clip(0, len(canvas) - 1)
    right, bottom = (corner + part).astype(int).clip([left + 1, top + 1], len(canvas))
    canvas[top:bottom, left:right] = resize(cover, int(right - left), int(bottom - top))


def _faceless_part(image: Image, boxes: Float32[np.ndarray, "faces 4"], rng: np.random.Generator) -> Image:
    """Return a square part of a photo that holds no face, certain or not: hair, hands, clothes, walls."""
    height, width = image.shape[:2]
    margin = 0.08 * (boxes[:, 2:] - boxes[:, :2])
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    for _ in range(30):
        side = int(rng.integers(24, max(min(height, width) // 2, 25)))
        corner = np.array([rng.integers(0, max(room, 1)) for room in (width - side, height - side)])
        if not ((low < corner + side) & (high > corner)).all(axis=1).any():
            x, y = corner
            return image[y : y + side, x : x + side]
    return np.zeros((8, 8, 3), np.uint8)


def _random_part(image: Image, rng: np.random.Generator) -> Image:
    """Return a random square of an image."""
    height, width = image.shape[:2]
    side = int(max(min(height, width) * rng.uniform(0.3, 1), 8))
    y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    return image[y : y + side, x : x + side]


def _moved(
    boxes: Float32[np.ndarray, "faces 4"],
    points: Float32[np.ndarray, "faces 5 2"],
    placement: _Placement,
) -> tuple[Float32[np.ndarray, "faces 4"], Float32[np.ndarray, "faces 5 2"]]:
    """Return boxes and points on the canvas.

    The box of a rotated face keeps its center and area, and turns towards a square, as people draw it.
    """
    matrix, angle = placement.matrix, placement.angle
    centers = affine(((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float64), matrix)
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    sides = (boxes[:, 2:] - boxes[:, :2]) * scale
    cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
    turned = np.sqrt((sides * cos) ** 2 + (sides[:, ::-1] * sin) ** 2)
    moved = np.concatenate([centers - turned / 2, centers + turned / 2], axis=1)
    shape = affine(points.reshape(-1, 2).astype(np.float64), matrix).reshape(-1, 5, 2)
    if placement.is_mirrored:
        shape = shape[:, _MIRRORED]
    return moved.astype(np.float32), shape.astype(np.float32)


def _covered(boxes: Float32[np.ndarray, "faces 4"], mask: Bool[np.ndarray, "size size"]) -> np.ndarray:
    """Return which share of each box a mask covers."""
    size = len(mask)
    shares = np.zeros(len(boxes))
    for i, (x0, y0, x1, y1) in enumerate(boxes.clip(0, size).astype(int)):
        part = mask[y0:y1, x0:x1]
        shares[i] = part.mean() if part.size else 0
    return shares


def _inside(boxes: Float32[np.ndarray, "faces 4"], size: int) -> np.ndarray:
    """Return which share of each box lies on the canvas."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    inner = boxes.clip(0, size)
    return np.asarray((inner[:, 2:] - inner[:, :2]).prod(axis=1) / np.maximum(area, 1e-6))
