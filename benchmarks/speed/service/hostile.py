"""Bodies of requests that break decoders and parsers: corrupt images, forms and JSON, the same each time."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator
from typing import Any

import PIL.Image

FORMATS = ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA")
_FORM = {"content-type": "multipart/form-data; boundary=a"}
_JSON = {"content-type": "application/json"}


def hostile_bodies(photo: bytes, count: int) -> Iterator[dict[str, Any]]:
    """Yield arguments of ``post`` of an HTTP client. Some of the images stay readable.

    Args:
        photo: a JPEG file.
        count: the number of bodies.
    """
    chance = random.Random(0)  # noqa: S311  (not for secrets)
    files = [photo]
    for kind in FORMATS:
        file = io.BytesIO()
        PIL.Image.open(io.BytesIO(photo)).crop((160, 50, 290, 190)).save(file, kind)
        files.append(file.getvalue())
    for i in range(count):
        body = bytearray(files[i % len(files)])
        for _ in range(chance.choice((1, 10, 300))):
            body[chance.randrange(len(body) if chance.random() < 0.5 else 64)] = chance.randrange(256)
        content = bytes(body[: chance.randrange(len(body))] if chance.random() < 0.3 else body)
        match i % 5:
            case 0 | 1:
                yield {"content": content}
            case 2:
                yield {"files": {"image": (chance.randbytes(20).decode("latin-1"), content)}}
            case 3:
                yield {"content": content, "headers": _FORM}
            case 4:
                text = base64.b64encode(content)[: -(i % 7) or None]
                yield {"content": b'{"image":"' + text + b'"}', "headers": _JSON}
