"""Arrays and tensors of images as RGB uint8.

Values are scaled to 8 bits by their type:

* uint8 is taken as it is, and bool is black and white.
* uint16: white is 255, 1023, 4095 or 65535, the smallest that no value of the image exceeds. So images of 10
  or 12 bits in 16 are not black.
* floats must be finite and within [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pipnet.errors import ImageError, ImageTooLargeError, one_line
from pipnet.geometry import Image

MAX_SIDE = 1_000_000
"""Maximum width and height; larger ones overflow in decoders."""
_BLOCK_SIZE = 2**20
"""Values that are converted in one step, which limits memory."""
_SHAPES = "(height, width, 3), or for tensors (3, height, width); pass a batch as a list"


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image of too many pixels, or of none.

    Raises:
        ImageTooLargeError: too many pixels.
        ImageError: none.
    """
    if width * height > max_pixels:
        raise ImageTooLargeError(f"{width} x {height} pixels, more than the limit of {max_pixels}")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLargeError(f"{width} x {height} pixels, more than {MAX_SIDE:,} on a side")
    if not width * height:
        raise ImageError(f"no pixels: {width} x {height}")


def array_to_rgb(array: np.ndarray, max_pixels: int, bgr: bool = False) -> Image:
    """Return a copy of an array as an RGB image.

    Args:
        array: (height, width, 3 or 4) or gray (height, width), (height, width, 1); alpha is dropped.
        max_pixels: larger arrays are refused before they are copied.
        bgr: whether the channels of color arrays are BGR or BGRA.

    Raises:
        ImageError: another shape or type, a float out of [0, 1], masked pixels, or more than ``max_pixels``.
    """
    _check_shape(array.shape, max_pixels)
    if np.ma.is_masked(array):
        raise ImageError("an image array must not have masked pixels: fill them, array.filled(0)")
    array = np.asarray(array)  # a matrix has always two dimensions
    array = _to_8_bits(array)
    if array.ndim == 2 or array.shape[2] == 1:
        array = np.broadcast_to(array.reshape(*array.shape[:2], 1), (*array.shape[:2], 3))
    return np.array(array[..., 2::-1] if bgr else array[..., :3], order="C")


def is_tensor(source: object) -> bool:
    """Return whether an object is a tensor of torch, which is not imported."""
    return any(base.__name__ == "Tensor" and base.__module__ == "torch" for base in type(source).__mro__)


def tensor_to_rgb(tensor: Any, max_pixels: int, bgr: bool = False) -> Image:
    """Return a torch tensor as an RGB image.

    Args:
        tensor: (3, height, width) or (height, width, 3), where 3 may also be 1 or 4, or (height, width), on
            any device. A tensor that may be either is taken as the first.
        max_pixels: larger tensors are refused before they are copied.
        bgr: whether the channels of color tensors are BGR or BGRA.

    Raises:
        ImageError: see `array_to_rgb`.
    """
    if tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)
    _check_shape(tensor.shape, max_pixels)
    try:
        array = tensor.detach().cpu().numpy()
    except (RuntimeError, TypeError) as error:  # bfloat16, and tensors without values
        raise ImageError(f"the tensor cannot be read: {one_line(error)}") from None
    return array_to_rgb(array, max_pixels, bgr)


def deep_to_8_bits(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Return values of 8, 10, 12 or 16 bits as 8 bits, by their maximum: see the module."""
    white = white_level(int(values.max()))
    if white == 65535:
        return _in_blocks(values, lambda block: block >> 8)
    return _in_blocks(values, lambda block: np.rint(block * np.float32(255 / white)))


def white_level(maximum: int) -> int:
    """Return the white of an image of 8, 10, 12 or 16 bits in 16, by its maximum."""
    return next((white for white in (255, 1023, 4095) if maximum <= white), 65535)


def _check_shape(shape: Sequence[int], max_pixels: int) -> None:
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(f"an image must have shape {_SHAPES}, not {tuple(shape)!s:.80}")
    check_size(shape[1], shape[0], max_pixels)


def _to_8_bits(array: np.ndarray) -> UInt8[np.ndarray, "..."]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of any byte order
        return deep_to_8_bits(array)
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()  # NaN if any value is
        if not 0 <= low <= high <= 1:
            values = f"finite and within [0, 1], not {low:g} to {high:g}"
            raise ImageError(
                f"a float image must be {values}: divide it by its white, or convert it to uint8"
            )
        return _in_blocks(array, lambda block: np.rint(block * 255))
    raise ImageError(f"an image must be uint8, uint16, bool or float in [0, 1], not {array.dtype!s:.80}")


def _in_blocks(values: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> UInt8[np.ndarray, "..."]:
    """Return values as 8 bits by a function of each, called on one block after another."""
    converted = np.empty(values.shape, np.uint8)
    axis = int(values.shape[1] > values.shape[0])  # the longer one
    step = max(_BLOCK_SIZE * values.shape[axis] // values.size, 1)
    for start in range(0, values.shape[axis], step):
        block = (slice(None),) * axis + (slice(start, start + step),)
        converted[block] = convert(values[block]).astype(np.uint8)
    return converted
