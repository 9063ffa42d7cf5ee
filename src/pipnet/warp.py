"""Resized, warped and cut images, in the coordinates of `pipnet.geometry`."""

from __future__ import annotations

import numpy as np
import PIL.Image
from jaxtyping import Float32, Int

from pipnet.geometry import Affine, Box, Image, affine, box_to_crop, compose, invert

_MAX_BILINEAR_REDUCTION = 1.45
"""Factor of a reduction above which Pillow's bilinear filter blurs more than its Hamming filter."""


def resize(image: Image, width: int, height: int) -> Image:
    """Resize an image: pixels are averaged where it becomes smaller, bilinear where it becomes larger."""
    rows, columns = image.shape[:2]
    source = PIL.Image.fromarray(image)
    if rows % height == 0 and columns % width == 0:
        return np.array(source.reduce((columns // width, rows // height)))
    # The filter that is nearest to the mean over the area of a pixel. Pillow's box filter is farther from it,
    # because it takes each pixel fully or not at all.
    is_much_smaller = max(rows / height, columns / width) > _MAX_BILINEAR_REDUCTION
    filter_ = PIL.Image.Resampling.HAMMING if is_much_smaller else PIL.Image.Resampling.BILINEAR
    return np.array(source.resize((width, height), filter_, reducing_gap=3.0))


def reduce(image: Image, factor: int) -> Image:
    """Average blocks of factor x factor pixels; those at the right and bottom border may be smaller."""
    return np.array(PIL.Image.fromarray(image).reduce(factor))


def warp(image: Image, matrix: Affine, size: int) -> Image:
    """Warp an image bilinearly to size x size pixels; black outside the image.

    If the map reduces by 2 or more, the covered part is first averaged by a whole factor. Otherwise large
    faces would alias, and their texture would differ from that of the training crops.
    """
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    factor = int(1 / max(scale, 1e-9) + 1e-6)
    if factor >= 2:
        image, matrix = _reduce_covered(image, matrix, size, factor)
    is_rotated = matrix[0, 1] != 0 or matrix[1, 0] != 0
    return (_warp_rotated if is_rotated else _warp_straight)(image, invert(matrix), size)


def _reduce_covered(image: Image, matrix: Affine, size: int, factor: int) -> tuple[Image, Affine]:
    """Return the part of an image that a warp covers, averaged by a whole factor, and the map from it."""
    low, high = _covered(invert(matrix), size, 0.5)
    sides = np.array(image.shape[1::-1])
    low = low.clip(0, sides - 1)
    blocks = -(-(high.clip(low + 1, sides) - low) // factor)
    low = np.minimum(low, sides - blocks * factor).clip(0)  # whole blocks up to the border, if there is room
    (x0, y0), (x1, y1) = low, low + blocks * factor
    back = np.hstack([np.diag([factor, factor]), (low + (factor - 1) / 2)[:, None]])
    return reduce(image[y0:y1, x0:x1], factor), compose(back, matrix)


def _covered(inverse: Affine, size: int, margin: float) -> tuple[Int[np.ndarray, "2"], Int[np.ndarray, "2"]]:
    """Return x, y of the first pixel that a crop covers, and of the one after the last."""
    edges = np.array([-margin, size - 1 + margin])
    corners = affine(np.stack(np.meshgrid(edges, edges), axis=-1).reshape(4, 2), inverse)
    return np.floor(corners.min(axis=0)).astype(int), np.floor(corners.max(axis=0)).astype(int) + 2


def _warp_straight(image: Image, inverse: Affine, size: int) -> Image:
    """Warp without rotation: rows and columns are interpolated apart, which takes a third of the time."""
    (left, right), x_weights = _neighbors(inverse[0, 0], inverse[0, 2], size, image.shape[1])
    (top, bottom), y_weights = _neighbors(inverse[1, 1], inverse[1, 2], size, image.shape[0])
    x0, y0 = left.min(), top.min()
    part = image[y0 : bottom.max() + 1, x0 : right.max() + 1]
    rows = part[top - y0].reshape(size, -1) * y_weights[0][:, None]
    rows += part[bottom - y0].reshape(size, -1) * y_weights[1][:, None]
    rows = rows.reshape(size, -1, 3)
    left_weights, right_weights = np.repeat(x_weights, 3, axis=1)  # one for each channel
    pixels = rows.take(left - x0, axis=1).reshape(size, -1) * left_weights
    pixels += rows.take(right - x0, axis=1).reshape(size, -1) * right_weights
    return np.asarray(pixels + 0.5, dtype=np.uint8).reshape(size, size, 3)


def _neighbors(
    step: float, start: float, size: int, side: int
) -> tuple[Int[np.ndarray, "2 size"], Float32[np.ndarray, "2 size"]]:
    """Return the pixels below and above each of the crop's along an axis, and their weights; 0 outside."""
    position = step * np.arange(size) + start
    below = np.floor(position)
    indices = np.stack([below, below + 1]).clip(-1, side).astype(int)
    weights = np.stack([below + 1 - position, position - below]) * ((indices >= 0) & (indices < side))
    return indices.clip(0, side - 1), weights.astype(np.float32)


def _warp_rotated(image: Image, inverse: Affine, size: int) -> Image:
    """Warp in Pillow, as floats, because it would truncate bytes instead of rounding them."""
    sides = np.array(image.shape[1::-1])
    low, high = _covered(inverse, size, 0.0)
    low, high = low.clip(-1, sides), high.clip(low.clip(-1, sides), sides + 1)  # with a black frame
    (x0, y0), (x1, y1) = low.clip(0), high.clip(0, sides)
    channels = np.zeros((3, *(high - low)[::-1]), np.float32)
    if not channels.size:
        return np.zeros((size, size, 3), np.uint8)
    left, top = low.clip(0) - low
    channels[:, top : top + y1 - y0, left : left + x1 - x0] = image[y0:y1, x0:x1].transpose(2, 0, 1)
    inverse = compose(inverse, np.hstack([np.eye(2), -low[:, None]]))
    out = np.empty((size, size, 3), np.uint8)
    for i, channel in enumerate(channels):
        out[..., i] = sample_map(channel, inverse, size) + 0.5
    return out


def sample_map(
    values: Float32[np.ndarray, "height width"], inverse: Affine, size: int
) -> Float32[np.ndarray, "size size"]:
    """Warp a map of floats bilinearly to size x size pixels; 0 outside the map.

    Args:
        values: the map.
        inverse: from pixels of the result to pixels of the map.
        size: side of the result, S.
    """
    return np.asarray(transform(PIL.Image.fromarray(values), inverse, (size, size)))


def transform(image: PIL.Image.Image, inverse: Affine, size: tuple[int, int]) -> PIL.Image.Image:
    """Warp a Pillow image bilinearly; 0 outside the image. Pillow truncates bytes instead of rounding them.

    Args:
        image: of any mode.
        inverse: from pixels of the result to pixels of the image.
        size: width and height of the result.
    """
    # Pillow counts from the edge of the first pixel, not from its center.
    shift = inverse[:, 2:] + 0.5 - inverse[:, :2].sum(axis=1, keepdims=True) / 2
    coefficients = np.hstack([inverse[:, :2], shift]).ravel().tolist()
    return image.transform(size, PIL.Image.Transform.AFFINE, coefficients, PIL.Image.Resampling.BILINEAR)


def crop(image: Image, box: Box, size: int) -> Image:
    """Return the S x S crop of a box: one bilinear warp, black outside the image."""
    return warp(image, box_to_crop(box, size), size)
