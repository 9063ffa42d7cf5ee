"""JPEG photos, decoded at the scale that is needed.

A JPEG decoder can return a photo at 1/4 or 1/8 of its scale in a fraction of the time, because it leaves
out the high frequencies before they are decoded. Faces are detected on such a copy, and faces that are large
enough in it are cropped from it; the full photo is decoded when something needs it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from pipnet.geometry import Image
from pipnet.io.image import decode_image, decode_jpeg, read_image, read_jpeg

_MIN_FACTOR = 4
"""A copy of half the scale saves less than is lost where a face is too small in it, and the photo is decoded
twice."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A JPEG photo, of which a reduced copy is decoded."""

    content: bytes
    """The file's content."""
    name: str
    """What error messages call it."""
    max_pixels: int
    """See `decode_image`."""
    reduced: Image
    """The copy."""
    factor: int
    """Sides of the photo over those of the copy: 4 or 8."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of `pixels`."""
        height, width = self.reduced.shape[:2]
        return height * self.factor, width * self.factor, 3

    def at(self, factor: int) -> Image:
        """Return the photo reduced by 1, or by 2 or 4 up to `factor`."""
        if factor == 1:
            return self.pixels
        if factor == self.factor:
            return self.reduced
        return decode_jpeg(self.content, self.name, self.max_pixels, max(self.shape) // factor)[0]

    @cached_property
    def pixels(self) -> Image:
        """The photo at its full scale, decoded when first asked for."""
        return decode_image(self.content, self.name, self.max_pixels)


def open_photo(content: bytes, name: str, max_pixels: int, min_side: int) -> Image | Photo:
    """Return the content of an image file as RGB, or as a photo of which a reduced copy is decoded.

    Args:
        content: a file's content.
        name: what error messages call it.
        max_pixels: see `decode_image`.
        min_side: minimum length of the copy's longer side.

    Raises:
        ImageError: see `decode_image`.
    """
    reduced, factor = decode_jpeg(content, name, max_pixels, min_side, _MIN_FACTOR)
    return reduced if factor == 1 else Photo(content, name, max_pixels, reduced, factor)


def read_photo(path: str | os.PathLike[str], max_pixels: int, min_side: int) -> Image | Photo:
    """Return an image file as RGB, or as a photo; see `open_photo`.

    Raises:
        ImageError: see `read_image`.
    """
    content = read_jpeg(path)
    if content is None:
        return read_image(path, max_pixels)
    return open_photo(content, str(path), max_pixels, min_side)


def full_pixels(image: Image | Photo) -> Image:
    """Return an image at its full scale."""
    return image.pixels if isinstance(image, Photo) else image
