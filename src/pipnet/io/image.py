"""Reading and writing pictures: always RGB uint8, upright, and never a surprise in size.

Pillow reads them: it knows a picture's size before decoding it, and says when a file is truncated.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image

from pipnet.errors import ImageError
from pipnet.geometry import Image
from pipnet.io.atomic import atomic_write

MAX_PIXELS = 100_000_000
"""Pictures with more pixels than this are refused before they are decoded, unless told otherwise.

Pillow has a limit of its own behind it, ``PIL.Image.MAX_IMAGE_PIXELS``, which is not ours to lift."""
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "TGA")
"""What is decoded. Others would be handed to interpreters such as Ghostscript, or, as icons, be decoded
before their size is known. JPEG includes MPO, which is no format of its own in Pillow 13."""
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".bmp", ".webp", ".gif", ".avif"),
    *(".tif", ".tiff", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
}
"""What counts as a picture in a folder."""
NOT_READ = {
    *(".heic", ".heif", ".jp2", ".j2k", ".jxl", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
}
"""Endings of pictures that cannot be read here."""
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation. Pillow's ``exif_transpose`` writes EXIF anew, and fails where any of it is odd."""
# Sizes are checked here, and odd EXIF does not matter. For all time: `catch_warnings` is not for threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """A picture file as RGB: EXIF orientation applied, alpha dropped, 16 bits scaled to 8.

    Of an animated picture the first frame is read.

    Raises:
        ImageError: missing, empty, truncated, not a picture, or more than ``max_pixels``.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file, str(path), max_pixels)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read: {_one_line(error)}") from None


def decode_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """As `read_image`, of a picture file's content; errors call it ``name``.

    Raises:
        ImageError: empty, truncated, not a picture, or more than ``max_pixels``.
    """
    return _read(io.BytesIO(content), name, max_pixels)


def _read(file: BinaryIO, name: str, max_pixels: int) -> Image:
    try:
        with PIL.Image.open(file, formats=_FORMATS) as picture:
            return _decode(picture, max_pixels)
    except PIL.UnidentifiedImageError:
        empty = file.seek(0, os.SEEK_END) == 0
        known = f"not a picture that can be read: {', '.join(_FORMATS)}"
        raise ImageError(f"{name}: {'empty file' if empty else known}") from None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"{name}: more pixels than Pillow's limit, PIL.Image.MAX_IMAGE_PIXELS") from None
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:  # decoders of damaged files raise whatever they like
        raise ImageError(f"{name}: cannot be read: {_one_line(error)}") from None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as people see it, turned as its camera says; only its head is read.

    Raises:
        ImageError: missing, or not a picture.
    """
    try:
        with PIL.Image.open(path, formats=_FORMATS) as picture:
            width, height = picture.size  # of a TIFF already turned
            lies = picture.format != "TIFF" and _orientation(partial(_exif_in_head, picture)) in {5, 6, 7, 8}
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except Exception as error:  # as in `read_image`: damaged heads raise whatever they like
        raise ImageError(f"{path}: not a picture: {' '.join(str(error).split())}") from None
    return (height, width) if lies else (width, height)


def _exif_in_head(picture: PIL.Image.Image) -> PIL.Image.Exif:
    """EXIF of the head of a file: Pillow would decode a whole PNG for what may stand behind its pixels."""
    exif = PIL.Image.Exif()
    exif.load(picture.info.get("exif", b""))
    return exif


def _orientation(exif: Callable[[], PIL.Image.Exif]) -> int:
    """How a picture lies; 1, upright, where EXIF is damaged."""
    try:
        return int(exif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # as in `_read`
        return 1


def _decode(picture: PIL.Image.Image, max_pixels: int) -> Image:
    """A Pillow image, perhaps not decoded yet, as RGB uint8."""
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels, more than the limit of {max_pixels}")
    if not width * height:
        raise ImageError(f"no pixels: {width} x {height}")
    picture.load()  # which turns a TIFF
    turn = _UPRIGHT.get(_orientation(picture.getexif))
    upright = picture if turn is None else picture.transpose(turn)  # either would copy
    if upright.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel: Pillow would cut, not scale
        values = np.nan_to_num(np.asarray(upright, dtype=np.float32))
        highest = values.max(initial=0)
        most = np.percentile(values, 99) if values.size else 0  # a few pixels may be brighter than white
        top = next(top for top in (1, 255, 65535, np.inf) if most <= top)
        top = 65535 if upright.mode.startswith("I;16") else highest if top == np.inf else top
        gray = values / top * 255
        rgb = np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.ascontiguousarray(rgb)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def as_image(source: object, max_pixels: int = MAX_PIXELS) -> Image:
    """Whatever a user calls a picture as RGB: a path, a Pillow image, or an array, which is copied.

    Arrays are taken as RGB (height, width, 3), RGBA (height, width, 4) or gray (height, width), of
    uint8, uint16 (scaled) or bool; floats are refused, since nobody can tell their range.

    Raises:
        ImageError: none of these, or no pixels, or more than ``max_pixels``.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(source, max_pixels)
    if isinstance(source, PIL.Image.Image):
        try:
            return _decode(source, max_pixels)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # as in `read_image`: it may not be decoded yet
            raise ImageError(f"the PIL image cannot be read: {_one_line(error)}") from None
    if not isinstance(source, np.ndarray):
        raise ImageError(f"a picture is a path, a PIL image or an RGB array, not {type(source).__name__}")
    picture = _array_to_rgb(source)
    height, width = picture.shape[:2]
    if not picture.size:
        raise ImageError(f"the picture has no pixels: shape {picture.shape}")
    if height * width > max_pixels:
        raise ImageError(f"{width} x {height} pixels, more than the limit of {max_pixels}")
    return picture


def _array_to_rgb(array: np.ndarray) -> Image:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageError(f"a picture array must be uint8 (or uint16 or bool), not {array.dtype}")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(f"a picture array must have shape (height, width, 3), not {array.shape}")
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.array(array[..., :3], order="C")


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write a picture, whole or not at all; the ending decides the format.

    Raises:
        ImageError: the format is unknown, or knows no picture of this size.
        WriteError: the file cannot be written.
    """
    path, content = Path(path), io.BytesIO()
    kind = PIL.Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: cannot be written: no picture ends in {path.suffix!r:.20}")
    try:
        PIL.Image.fromarray(image).save(content, kind, quality=92)
    except (OSError, ValueError, KeyError) as error:
        height, width = image.shape[:2]
        reason = f"{_one_line(error)} ({width} x {height} pixels as {kind})"
        raise ImageError(f"{path}: cannot be written: {reason}") from None
    with atomic_write(path) as partial:
        partial.write_bytes(content.getbuffer())
