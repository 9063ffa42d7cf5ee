"""Images in files and bytes: always RGB uint8, upright, and of a checked size.

Pillow reads them: it knows the size of an image before it is decoded, and detects truncated files. Pillow
warns of corrupt EXIF data and of large images, which do not matter here. A program that wants no such
warnings calls `ignore_pillow_warnings`.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from pipnet.errors import ImageError, ImageTooLargeError, installed_from, one_line
from pipnet.geometry import Image
from pipnet.io.atomic import atomic_write
from pipnet.io.image_array import check_size, deep_to_8_bits
from pipnet.io.regular_file import open_file

MAX_PIXELS = 100_000_000
"""Default maximum number of pixels; larger images are refused before they are decoded."""
MAX_FILE_BYTES = 2**31
"""Maximum size of an image file that is read from a pipe or a memory view."""
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "TGA")
"""Formats that are decoded. Pillow would pass others to interpreters such as Ghostscript, or decode them
before their size is known (icons). JPEG includes MPO, which is not a separate format in Pillow 13. HEIC and
formats of other packages come on top, see `_open`."""
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    *(".png", ".bmp", ".webp", ".gif", ".avif"),
    *(".tif", ".tiff", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".heic", ".heif", ".hif"),
}
"""Suffixes of the files in a folder that are read as images."""
UNSUPPORTED_SUFFIXES = {
    *(".jp2", ".j2k", ".jxl", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
}
"""Suffixes of images that cannot be read."""
_JPEG_START, _JPEG_FACTORS = b"\xff\xd8", (8, 4, 2)
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
_OTHER_BYTE = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
"""Pillow's names of the layouts of 16-bit color, of which it reads the high bytes, and for each the one with
which it reads the low bytes."""


def ignore_pillow_warnings() -> None:
    """Ignore all warnings of Pillow. It changes global state: only programs should call it."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Return an image file as RGB: EXIF orientation is applied, alpha is dropped, 16 bits are scaled to 8.

    The first frame of an animation is read. Images of 10 or 12 bits in 16 are scaled as in `image_array`, but
    not gray ones with alpha, of which Pillow reads the high bytes only.

    Raises:
        ImageError: missing, empty, truncated, not an image, or more than ``max_pixels``.
    """
    with _named_errors(_short(str(path))), open_file(path) as file:
        return _read(file, max_pixels)


def decode_image(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Return the content of an image file as RGB, see `read_image`. Error messages call it ``name``.

    Raises:
        ImageError: empty, truncated, not an image, or more than ``max_pixels``.
    """
    with _named_errors(name):
        return _read(io.BytesIO(content), max_pixels)


def read_jpeg(path: str | os.PathLike[str]) -> bytes | None:
    """Return the content of a JPEG file; None if the file is not one.

    Raises:
        ImageError: missing, or not readable.
    """
    with _named_errors(_short(str(path))), open_file(path) as file:
        start = file.read(len(_JPEG_START))
        return start + file.read() if start == _JPEG_START else None


def decode_jpeg(
    content: bytes, name: str, max_pixels: int, min_side: int, min_factor: int = 2
) -> tuple[Image, int]:
    """Return the content of an image file as RGB, a JPEG at 1/8, 1/4, 1/2 or 1 of its scale.

    Args:
        content: a file's content, of any format.
        name: what error messages call it.
        max_pixels: limit on the pixels at full scale.
        min_side: the smallest scale is chosen whose longer side has at least so many pixels, and that divides
            both sides, so that a pixel of the copy covers exactly 8 x 8, 4 x 4 or 2 x 2 of the image's.
        min_factor: a scale that is larger than one over this is not worth it: 1 is chosen.

    Returns:
        The image, and the sides of the full image over those of this copy.

    Raises:
        ImageError: see `decode_image`.
    """
    if not content.startswith(_JPEG_START):
        return decode_image(content, name, max_pixels), 1
    with _named_errors(name), _open(io.BytesIO(content)) as image:
        width, height = image.size
        check_size(width, height, max_pixels)
        factors = [k for k in _JPEG_FACTORS if k >= min_factor and max(width, height) >= k * min_side]
        factor = next((k for k in factors if not (width % k or height % k)), 1)
        image.draft(image.mode, (width // factor, height // factor))
        if image.size != (width // factor, height // factor):
            raise ImageError("its decoder has other scales than 1/2, 1/4 and 1/8")
        return _decode(image, max_pixels), factor


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image, EXIF orientation applied. Only the file header is read.

    Raises:
        ImageError: missing, or not an image.
    """
    with _named_errors(_short(str(path))), open_file(path) as file, _open(file) as image:
        width, height = image.size  # Pillow applies the orientation of TIFF itself
        swap = image.format != "TIFF" and _orientation(partial(_header_exif, image)) in {5, 6, 7, 8}
    return (height, width) if swap else (width, height)


def read_file_object(file: Any, max_pixels: int = MAX_PIXELS) -> Image:
    """Return the image in a file object, read from its start, as RGB, see `read_image`.

    Raises:
        ImageError: opened as text, closed, or see `decode_image`.
    """
    name = getattr(file, "name", None)
    with _named_errors(_short(name) if isinstance(name, str) else "the file object"):
        if not (hasattr(file, "seekable") and file.seekable()):  # such as a pipe
            return _read(io.BytesIO(_read_pipe(file)), max_pixels)
        file.seek(0)
        return _read(file, max_pixels)


def decode_pil(image: PIL.Image.Image, max_pixels: int = MAX_PIXELS) -> Image:
    """Return a PIL image as RGB, see `read_image`; Pillow itself reads color of 16 bits as its high bytes.

    Raises:
        ImageError: truncated, no pixels, or more than ``max_pixels``.
    """
    with _named_errors("the PIL image"):  # it may be decoded only now
        return _decode(image, max_pixels)


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
        raise ImageError(f"{name}: not an image of a supported format: {', '.join(_FORMATS)}, HEIC") from None
    except PIL.Image.DecompressionBombError:
        raise ImageTooLargeError(
            f"{name}: more pixels than Pillow's limit, PIL.Image.MAX_IMAGE_PIXELS"
        ) from None
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from None
    except MemoryError:  # not an error of the image
        raise
    except Exception as error:  # decoders raise any exception on corrupt files
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise ImageError(f"{name}: cannot be read: {reason}") from None


def _short(name: str) -> str:
    """Return a path for messages: as it is, unless it is longer than file names can be, such as base64."""
    return name if len(name) <= 255 else f"{' '.join(name.split()):.80}..."


def _read(file: Any, max_pixels: int) -> Image:
    start = file.read(1)
    if not start:
        raise ImageError("empty file")
    if isinstance(start, str):
        raise ImageError("opened as text: open it in binary mode")
    file.seek(0)
    with _open(file) as image:
        is_deep = _layout(image) in _OTHER_BYTE
        rgb = _decode(image, max_pixels)
    if not is_deep or rgb.max() > 4095 >> 8:
        return rgb
    file.seek(0)  # at most 12 bits of 16: the high bytes of the values are not enough
    with _open(file) as image:
        image.tile = [_with_other_byte(tile) for tile in image.tile]
        low = _decode(image, max_pixels)
    return deep_to_8_bits(rgb.astype(np.uint16) << 8 | low)


def _read_pipe(file: Any) -> bytearray:
    """Return the content of a file object that cannot be read twice; it may have no end."""
    content = bytearray()
    while chunk := file.read(2**20):
        content += chunk
        if len(content) > MAX_FILE_BYTES:
            raise ImageError(f"more than the limit of {MAX_FILE_BYTES:,} bytes")
    return content


def _layout(image: Any) -> str:
    """Return Pillow's name of the layout of the values in a file that is not decoded yet."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else None
    return str(args[0] if isinstance(args, tuple) and args else args)


def _with_other_byte(tile: Any) -> Any:
    """Return a part of a 16-bit image such that Pillow reads its low bytes."""
    layout, *others = (tile.args,) if isinstance(tile.args, str) else tile.args
    return tile._replace(args=(_OTHER_BYTE[layout], *others))


def _open(file: Any) -> Any:
    """Open an image of one of our formats, of a format that another package registered with Pillow, or HEIC.

    pillow-heif need not be registered: that would change Pillow for the entire program.
    """
    registered = [name for name, (opener, _) in PIL.Image.OPEN.items() if opener.__module__[:4] != "PIL."]
    try:
        return PIL.Image.open(file, formats=[*_FORMATS, *registered])
    except PIL.UnidentifiedImageError:
        file.seek(4)
        if file.read(4) != b"ftyp" or file.read(4) not in _HEIC_BRANDS:
            raise
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError(f"HEIC needs pillow-heif: pip install '{installed_from()}[heic]'") from None
    file.seek(0)
    opener: Any = HeifImageFile
    return opener(file)


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
    check_size(*image.size, max_pixels)
    image.load()  # this applies the orientation of a TIFF
    transpose = _TO_UPRIGHT.get(_orientation(image.getexif))
    upright = image if transpose is None else image.transpose(transpose)  # each of these would copy otherwise
    if upright.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel, which Pillow would clip instead of scale
        return _deep_gray_to_rgb(upright)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _deep_gray_to_rgb(image: PIL.Image.Image) -> Image:
    """Return a gray image of 16 or 32 bits as RGB; white of 32 bits is guessed: 1, 255, 65535 or maximum."""
    if image.mode.startswith("I;16"):
        gray = deep_to_8_bits(np.asarray(image))
    else:
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        highest = np.percentile(values, 99)  # a few pixels may be brighter than white
        white = next((white for white in (1, 255, 65535) if highest <= white), values.max())
        gray = np.rint(values / white * 255).clip(0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)
