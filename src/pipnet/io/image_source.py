"""Images from whatever a caller has: paths, bytes, file objects, PIL images, arrays and tensors."""

from __future__ import annotations

import base64
import os
import re
import urllib.parse
from typing import Any, Protocol, runtime_checkable

import numpy as np
import PIL.Image

from pipnet.errors import ImageError, one_line
from pipnet.geometry import Image
from pipnet.io.image import MAX_FILE_BYTES, MAX_PIXELS, decode_image, decode_pil, read_file_object, read_image
from pipnet.io.image_array import array_to_rgb, is_tensor, tensor_to_rgb
from pipnet.io.photo import Photo, open_photo, read_photo


@runtime_checkable
class BinaryFile(Protocol):
    """A file object opened in binary mode."""

    def read(self, size: int = ..., /) -> bytes:
        """Return the next bytes."""
        ...


@runtime_checkable
class Tensor(Protocol):
    """A tensor of torch."""

    @property
    def shape(self) -> Any:
        """The size of each dimension."""
        ...

    def detach(self) -> Any:
        """Return the tensor without its history."""
        ...


ImageSource = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryFile
    | PIL.Image.Image
    | np.ndarray
    | Tensor
)
"""What `as_image` takes."""
_URL = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def as_image(source: object, max_pixels: int = MAX_PIXELS, bgr: bool = False) -> Image:
    """Return an image of any kind as RGB; arrays are copied.

    Args:
        source: a path; the content of an image file as bytes or as a ``data:image/...;base64,`` URL; a file
            object opened in binary mode, which is read from its start; a PIL image; an array; or a torch
            tensor. For shapes and types of arrays and tensors, see `image_array`.
        max_pixels: larger images are refused before they are decoded or copied.
        bgr: whether arrays and tensors are BGR, as OpenCV's frames are; otherwise they are RGB.

    Raises:
        ImageError: none of these, unreadable, no pixels, or more than ``max_pixels``.
    """
    if isinstance(source, str) and (scheme := _URL.match(source)):
        if scheme[0].lower() == "data:":
            return _read_data_url(source, max_pixels)
        raise ImageError(f"{source:.80}: URLs are not supported: download the image first, or pass its bytes")
    if isinstance(source, str | os.PathLike):
        return read_image(source, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        if isinstance(source, memoryview) and source.nbytes > MAX_FILE_BYTES:  # it may repeat a few bytes
            raise ImageError(f"{source.nbytes:,} bytes, more than the limit of {MAX_FILE_BYTES:,}")
        return decode_image(bytes(source), "the bytes", max_pixels)
    if isinstance(source, PIL.Image.Image):
        return decode_pil(source, max_pixels)
    if isinstance(source, np.ndarray):
        return array_to_rgb(source, max_pixels, bgr)
    if is_tensor(source):
        return tensor_to_rgb(source, max_pixels, bgr)
    if hasattr(source, "read"):
        return read_file_object(source, max_pixels)
    if source is None:
        raise ImageError("None is not an image: cv2.imread returns None for a file it cannot read")
    kinds = "a path, bytes, a file object, a PIL image, an array or a tensor"
    raise ImageError(f"an image is {kinds}, not {type(source).__name__:.80}")


def as_photo(source: object, max_pixels: int, bgr: bool, min_side: int) -> Image | Photo:
    """Return an image of any kind as RGB, or a JPEG in a path or bytes as a photo; see `as_image`.

    Args:
        source: see `as_image`.
        max_pixels: see `as_image`.
        bgr: see `as_image`.
        min_side: see `open_photo`.

    Raises:
        ImageError: see `as_image`.
    """
    if isinstance(source, os.PathLike) or (isinstance(source, str) and not _URL.match(source)):
        return read_photo(source, max_pixels, min_side)
    if isinstance(source, bytes | bytearray):
        return open_photo(bytes(source), "the bytes", max_pixels, min_side)
    return as_image(source, max_pixels, bgr)


def _read_data_url(url: str, max_pixels: int) -> Image:
    header, comma, content = url.partition(",")
    name = f"{url:.40}..."
    if not (comma and header.lower().endswith(";base64")):
        raise ImageError(f"{name}: a data URL of an image begins with data:image/...;base64,")
    try:
        decoded = base64.b64decode(urllib.parse.unquote_to_bytes(content))
    except ValueError as error:
        raise ImageError(f"{name}: not base64: {one_line(error)}") from None
    return decode_image(decoded, name, max_pixels)
