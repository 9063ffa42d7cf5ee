"""The exception for a request that is not answered with landmarks."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is refused, or that could not be answered in time."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """State the HTTP status, one line for the client, and headers of the response."""
        super().__init__(message)
        self.status, self.headers = status, headers or {}
