"""Counters of the service in the format of Prometheus, of one or of several processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from pipnet.service.config import METRICS_VARIABLE

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter("pipnet_requests", "Answered requests.", ["path", "status"], registry=own)
        self.seconds = Histogram(
            "pipnet_request_seconds",
            "Seconds from request to answer.",
            ["path"],
            buckets=_SECONDS,
            registry=own,
        )
        self.images = Counter("pipnet_images", "Images, by result: ok or error.", ["result"], registry=own)
        self.faces = Counter("pipnet_faces", "Faces found.", registry=own)
        self.batches = Histogram("pipnet_batch_images", "Images in a batch.", buckets=_IMAGES, registry=own)
        self.active = Gauge(
            "pipnet_requests_in_progress",
            "Requests in progress.",
            registry=own,
            multiprocess_mode="livesum",
        )
        _forget_dead_processes()

    def render(self) -> bytes:
        """Return the counters as text, those of all processes together."""
        if METRICS_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    @contextlib.contextmanager
    def in_progress(self) -> Iterator[None]:
        """Count a request as in progress during the block."""
        self.active.inc()
        try:
            yield
        finally:
            self.active.dec()


def _forget_dead_processes() -> None:
    """Drop the gauges of processes that were killed; their counters stay."""
    folder = os.environ.get(METRICS_VARIABLE)
    if folder is None:
        return
    for file in Path(folder).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
