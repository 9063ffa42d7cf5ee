"""Images in files, bytes and arrays: always RGB uint8, upright, and of a checked size.

Pillow reads them: it knows the size of an image before it is decoded, and detects truncated files. Pillow
warns of corrupt EXIF data and of large images, which do not matter here. A program that wants no such
warnings calls `ignore_pillow_warnings`.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image

from pipnet.errors import ImageError, one_line
from pipnet.geometry import Image
from pipnet.io.atomic import atomic_write

MAX_PIXELS = 100_000_000
"""Default maximum number of pixels; larger images are refused before they are decoded."""
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "TGA")
"""Formats that are decoded. Pillow would pass others to interpreters such as Ghostscript, or decode them
before their size is known (icons). JPEG includes MPO, which is not a separate format in Pillow 13."""
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".bmp", ".webp", ".gif", ".avif"),
    *(".tif", ".tiff", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Suffixes of the files in a folder that are read as images."""
UNSUPPORTED_SUFFIXES = {
    *(".heic", ".heif", ".jp2", ".j2k", ".jxl", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
}
"""Suffixes of images that cannot be read."""
_EXIF_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""By EXIF orientation. Pillow's ``exif_transpose`` rewrites all of EXIF, and fails on malformed tags."""


def ignore_pillow_warnings() -> None:
    """Ignore all warnings of Pillow. It changes global state: only programs should call it."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Return an image file as RGB: EXIF orientation is applied, alpha is dropped, 16 bits are scaled to 8.

    The first frame of an animation is read.

    Raises:
        ImageError: missing, empty, truncated, not an image, or more than ``max_pixels``.
    """
    with _named_errors(str(path)), Path(path).open("rb") as file:
        return _read(file, max_pixels)


def decode_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Return the content of an image file as RGB, see `read_image`. Error messages call it ``name``.

    Raises:
        ImageError: empty, truncated, not an image, or more than ``max_pixels``.
    """
    with _named_errors(name):
        return _read(io.BytesIO(content), max_pixels)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image, EXIF orientation applied. Only the file header is read.

    Raises:
        ImageError: missing, or not an image.
    """
    with _named_errors(str(path)), PIL.Image.open(path, formats=_FORMATS) as image:
        width, height = image.size  # Pillow applies the orientation of TIFF itself
        swap = image.format != "TIFF" and _orientation(partial(_header_exif, image)) in {5, 6, 7, 8}
    return (height, width) if swap else (width, height)


def as_image(source: object, max_pixels: int = MAX_PIXELS) -> Image:
    """Return a path, a PIL image or a copy of an array as an RGB image.

    Arrays are RGB (height, width, 3), RGBA (height, width, 4) or gray (height, width), of uint8, uint16
    (scaled) or bool. Floats are refused: their range is unknown.

    Raises:
        ImageError: none of these, no pixels, or more than ``max_pixels``.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(source, max_pixels)
    if isinstance(source, PIL.Image.Image):
        with _named_errors("the PIL image"):  # it may be decoded only now
            return _decode(source, max_pixels)
    if not isinstance(source, np.ndarray):
        raise ImageError(f"an image is a path, a PIL image or an RGB array, not {type(source).__name__}")
    image = _array_to_rgb(source)
    height, width = image.shape[:2]
    _check_size(width, height, max_pixels)
    return image


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write an image atomically, in the format of the file's suffix.

    Raises:
        ImageError: the suffix is unknown, or the format does not support this size.
        WriteError: the file cannot be written.
    """
    path, content = Path(path), io.BytesIO()
    image_format = PIL.Image.registered_extensions().get(path.suffix.lower())
    if image_format is None:
        raise ImageError(
            f"{path}: cannot be written: {path.suffix!r:.20} is not an image suffix: use .jpg or .png"
        )
    try:
        PIL.Image.fromarray(image).save(content, image_format, quality=92)
    except (OSError, ValueError, KeyError) as error:
        height, width = image.shape[:2]
        reason = f"{one_line(error)} ({width} x {height} pixels as {image_format})"
        raise ImageError(f"{path}: cannot be written: {reason}") from None
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn all errors of reading an image into `ImageError` with the name of the image."""
    try:
        yield
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except PIL.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image of a supported format: {', '.join(_FORMATS)}") from None
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"{name}: more pixels than Pillow's limit, PIL.Image.MAX_IMAGE_PIXELS") from None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except MemoryError:  # not an error of the image
        raise
    except Exception as error:  # decoders raise any exception on corrupt files
        raise ImageError(f"{name}: cannot be read: {one_line(error)}") from None


def _read(file: BinaryIO, max_pixels: int) -> Image:
    if not file.read(1):
        raise ImageError("empty file")
    file.seek(0)
    with PIL.Image.open(file, formats=_FORMATS) as image:
        return _decode(image, max_pixels)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels, more than the limit of {max_pixels}")
    if not width * height:
        raise ImageError(f"no pixels: {width} x {height}")


def _header_exif(image: PIL.Image.Image) -> PIL.Image.Exif:
    """Return the EXIF data of the file header; for EXIF after the pixels Pillow would decode a whole PNG."""
    exif = PIL.Image.Exif()
    exif.load(image.info.get("exif", b""))
    return exif


def _orientation(exif: Callable[[], PIL.Image.Exif]) -> int:
    """Return the EXIF orientation; 1 (upright) if EXIF is corrupt."""
    try:
        return int(exif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # decoders raise any exception on corrupt files
        return 1


def _decode(image: PIL.Image.Image, max_pixels: int) -> Image:
    """Return a Pillow image, which may not be decoded yet, as RGB uint8."""
    _check_size(*image.size, max_pixels)
    image.load()  # this applies the orientation of a TIFF
    transpose = _TO_UPRIGHT.get(_orientation(image.getexif))
    upright = image if transpose is None else image.transpose(transpose)  # each of these would copy otherwise
    if upright.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel, which Pillow would clip instead of scale
        return _deep_gray_to_rgb(upright)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _deep_gray_to_rgb(image: PIL.Image.Image) -> Image:
    """Return a gray image of 16 or 32 bits as RGB; white of 32 bits is guessed: 1, 255, 65535 or maximum."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    highest = np.percentile(values, 99)  # a few pixels may be brighter than white
    white = next((white for white in (1, 255, 65535) if highest <= white), values.max())
    if image.mode.startswith("I;16"):
        white = 65535
    gray = (values / white * 255).clip(0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _array_to_rgb(array: np.ndarray) -> Image:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageError(f"an image array must be uint8, uint16 or bool, not {array.dtype}")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(f"an image array must have shape (height, width, 3), not {array.shape}")
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.array(array[..., :3], order="C")
