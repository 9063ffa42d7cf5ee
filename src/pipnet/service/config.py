"""Options of the service: Python arguments and command-line flags alike."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipnet.errors import PipnetError
from pipnet.field_checks import Range, check_fields

TOKEN_VARIABLE = "PIPNET_TOKEN"  # noqa: S105  (the name of a variable, no secret)
"""Environment variable with the token, unless a file is named."""
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder in which processes share their counters. It must be set before
prometheus_client is imported."""
_MIN_TOKEN = 16
"""Minimum length of a token in characters."""


@dataclass(frozen=True)
class ServiceConfig:
    """Where the service listens, and how much it accepts."""

    host: str = "127.0.0.1"
    """Address to listen on. The default can be reached from this machine only; 0.0.0.0 is every network."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on; any free one if 0."""
    workers: Annotated[int, Range(1)] = 1
    """Number of processes, each with its own copy of the model. A process that dies is replaced."""
    token_file: Path | None = None
    """File with the token that requests must have in the header "Authorization: Bearer TOKEN"; or set the
    environment variable PIPNET_TOKEN. There is no flag for the token itself, because other users of the
    machine can see it."""
    max_bytes: Annotated[int, Range(1)] = 20_000_000
    """Larger request bodies are refused (413)."""
    max_images: Annotated[int, Range(1)] = 32
    """Requests with more images are refused (413)."""
    max_requests: Annotated[int, Range(1)] = 32
    """Requests that one process works on at a time; further ones are refused (503) until one is done."""
    timeout: Annotated[float, Range(0, above=True)] = 30.0
    """Seconds for a request body to arrive (408), and again for the answer (504)."""
    batch_size: Annotated[int, Range(1)] = 8
    """Maximum number of waiting images that go through the network in one batch."""

    def __post_init__(self) -> None:
        check_fields(self)


def read_token(config: ServiceConfig) -> str | None:
    """Return the token of the file or the environment variable; None if neither is set.

    Raises:
        PipnetError: the file cannot be read, or the token is short or not printable ASCII without spaces.
    """
    if config.token_file is None:
        token, place = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
        if token is None:
            return None
    else:
        place = str(config.token_file)
        try:
            token = config.token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise PipnetError(f"--token-file {place:.80}: cannot be read: {reason}") from None
    token = token.strip()
    if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise PipnetError(
            f"{place:.80}: a token has at least {_MIN_TOKEN} printable ASCII characters without spaces, such"
            " as the output of: openssl rand -hex 32"
        )
    return token
