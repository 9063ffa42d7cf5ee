"""What a user of the load test does: send the photo, wait for the answer, send it again."""

from __future__ import annotations

import os
from pathlib import Path

from locust import FastHttpUser, constant, task

PHOTO = Path(os.environ["PIPNET_PHOTO"]).read_bytes()


class Client(FastHttpUser):  # type: ignore[misc]
    """A program that keeps one connection open."""

    wait_time = constant(0)

    @task  # type: ignore[untyped-decorator]
    def detect(self) -> None:
        """Send the photo; an answer without a face is a failure."""
        with self.client.post("/detect", data=PHOTO, catch_response=True) as response:
            if response.status_code != 200 or len(response.json()["faces"]) != 1:
                response.failure(f"{response.status_code}: {response.text:.100}")
