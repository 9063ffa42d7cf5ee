"""The OpenAPI description of the routes, with examples."""

from __future__ import annotations

from typing import Any

from pipnet.service.schemas import (
    PNG_EXAMPLE,
    RESULT_EXAMPLE,
    UNREADABLE_EXAMPLE,
    BatchInput,
    BatchOutput,
    ErrorOutput,
    ImageInput,
    ImageOutput,
)

SERVICE = """Facial landmarks of the faces in images. Answers are those of `pipnet detect --json`.

Images are part of the request: names and strings in it are never opened as files or fetched as URLs."""
_BINARY = {"type": "string", "format": "binary"}
_ERRORS = {
    400: "malformed form or JSON, or no image: send a file as multipart/form-data, such as curl -F",
    401: "wrong or missing token: send the header Authorization: Bearer TOKEN",
    408: "the body did not arrive within 30 s",
    413: "the body has more bytes than the limit of 20000000",
    503: "busy with 32 requests: try again later",
    504: "no answer within 30 s",
}
"""Statuses, and an example of the message of each."""


def _content(model: type[Any], **examples: Any) -> dict[str, Any]:
    named = {name: {"value": value} for name, value in examples.items()}
    return {"model": model, "content": {"application/json": {"examples": named}}}


def _errors() -> dict[int | str, dict[str, Any]]:
    return {
        status: {
            "description": text.partition(":")[0].capitalize(),
            **_content(ErrorOutput, error={"error": text}),
        }
        for status, text in _ERRORS.items()
    }


def _body(media: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": media}}


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [field], "properties": {field: schema}}}


def _batch_schema() -> dict[str, Any]:
    """Return the schema of `BatchInput`, without references to definitions."""
    schema = BatchInput.model_json_schema()
    schema["properties"]["images"]["items"] = schema.pop("$defs")[ImageInput.__name__]
    return schema


_IMAGE_JSON = {"image": PNG_EXAMPLE, "name": "black.png"}
DETECT: dict[str, Any] = {
    "tags": ["detection"],
    "responses": {
        200: {"description": "The faces of the image", **_content(ImageOutput, one_face=RESULT_EXAMPLE)},
        422: {
            "description": "The image cannot be read",
            **_content(ImageOutput, no_image=UNREADABLE_EXAMPLE),
        },
        **_errors(),
    },
    "openapi_extra": _body(
        {
            "multipart/form-data": _form("image", _BINARY),
            "image/*": {"schema": _BINARY},
            "application/json": {"schema": ImageInput.model_json_schema(), "example": _IMAGE_JSON},
        }
    ),
}
"""Arguments of the route ``/detect``."""
BATCH: dict[str, Any] = {
    "tags": ["detection"],
    "responses": {
        200: {
            "description": "The faces of each image",
            **_content(BatchOutput, one_is_no_image={"results": [RESULT_EXAMPLE, UNREADABLE_EXAMPLE]}),
        },
        **_errors(),
    },
    "openapi_extra": _body(
        {
            "multipart/form-data": _form("images", {"type": "array", "items": _BINARY}),
            "application/json": {
                "schema": _batch_schema(),
                "example": {"images": [_IMAGE_JSON]},
            },
        }
    ),
}
"""Arguments of the route ``/detect/batch``."""
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "The service is stopping, or failed"}}
