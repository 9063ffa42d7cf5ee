"""Images of a request body: raw bytes, multipart files or base64 in JSON, with limits on size and time.

Names and strings of a request are never opened as paths and never fetched as URLs: an image is what the body
contains.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator
from typing import NamedTuple

from pydantic import ValidationError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pipnet.errors import ImageError, one_line
from pipnet.service.config import ServiceConfig
from pipnet.service.request_error import RequestError
from pipnet.service.schemas import BatchInput, ImageInput

_MAX_FIELDS = 16
"""Fields of a form that are not files; they are ignored."""
_DATA_URL = re.compile(r"data:[^,]{0,80};base64,", re.IGNORECASE)
_NAME = "image"
"""Name of an image without one in the results."""


class Upload(NamedTuple):
    """An image of a request, not decoded yet."""

    name: str
    content: bytes | str
    """The image file, or its base64 form."""

    def to_bytes(self) -> bytes:
        """Return the image file.

        Raises:
            ImageError: the content is not base64.
        """
        if isinstance(self.content, bytes):
            return self.content
        match = _DATA_URL.match(self.content)
        try:
            return base64.b64decode(self.content[match.end() if match else 0 :], validate=True)
        except ValueError as error:
            raise ImageError(f"{self.name}: not base64: {one_line(error)}") from None


async def read_uploads(request: Request, config: ServiceConfig, *, is_batch: bool) -> list[Upload]:
    """Return the images of a request: one, or with ``is_batch`` at least one.

    Raises:
        RequestError: too large, too slow, malformed, or without an image.
    """
    try:
        async with asyncio.timeout(config.timeout):
            uploads = await _read(request, config, is_batch)
    except TimeoutError:
        message = f"the body did not arrive within {config.timeout:g} s"
        raise RequestError(408, message, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise RequestError(400, "the client closed the connection") from None
    if not uploads:
        raise RequestError(
            400, "no image in the request: send a file as multipart/form-data, such as curl -F"
        )
    if len(uploads) > config.max_images:
        raise RequestError(413, f"{len(uploads)} images, more than the limit of {config.max_images}")
    if len(uploads) > 1 and not is_batch:
        raise RequestError(400, f"{len(uploads)} images, expected one: send several to /detect/batch")
    return uploads


async def _read(request: Request, config: ServiceConfig, is_batch: bool) -> list[Upload]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = _limited(request, config.max_bytes)
    if kind == "multipart/form-data":
        return await _read_form(request, body, config)
    content = b"".join([chunk async for chunk in body])
    if kind == "application/json":
        return await asyncio.to_thread(_parse_json, content, is_batch)
    if is_batch:
        raise RequestError(415, "a batch is multipart/form-data or application/json, see /openapi.json")
    return [Upload(_NAME, content)]


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body, and refuse it as soon as it is known to be larger than the limit."""
    declared = request.headers.get("content-length", "")
    too_large = RequestError(
        413, f"the body has more bytes than the limit of {max_bytes}", {"Connection": "close"}
    )
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise too_large
        yield chunk


class _InMemoryParser(MultiPartParser):
    """A parser of forms that writes no temporary files: the limit of the body bounds the memory."""

    def __init__(
        self, request: Request, body: AsyncGenerator[bytes, None], config: ServiceConfig, max_fields: int
    ) -> None:
        super().__init__(request.headers, body, max_files=config.max_images, max_fields=max_fields)
        self.spool_max_size = config.max_bytes


async def _read_form(
    request: Request, body: AsyncGenerator[bytes, None], config: ServiceConfig
) -> list[Upload]:
    try:
        form = await _InMemoryParser(request, body, config, _MAX_FIELDS).parse()
    except MultiPartException as error:
        status = 413 if error.message.startswith("Too many") else 400
        raise RequestError(status, f"malformed form: {one_line(Exception(error.message))}") from None
    files = [value for _, value in form.multi_items() if not isinstance(value, str)]
    uploads = [Upload(file.filename or _NAME, await file.read()) for file in files]
    await form.close()
    return uploads


def _parse_json(content: bytes, is_batch: bool) -> list[Upload]:
    model = BatchInput if is_batch else ImageInput
    try:
        parsed = model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestError(400, f"malformed JSON: {place:.80}: {first['msg']:.160}") from None
    return [Upload(image.name, image.image) for image in parsed.to_list()]
