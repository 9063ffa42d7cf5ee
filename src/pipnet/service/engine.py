"""From uploads to rows: threads decode and detect, one thread predicts what waits in batches."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from pipnet.errors import ImageError, ImageTooLargeError, PipnetError
from pipnet.geometry import Image
from pipnet.inference.detectors.base import Detections
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.photo import Photo
from pipnet.service.config import ServiceConfig
from pipnet.service.metrics import Metrics
from pipnet.service.request_error import RequestError
from pipnet.service.uploads import Upload

_LOG = logging.getLogger(__name__)


class Answer(NamedTuple):
    """The answer for one image."""

    row: dict[str, Any]
    """A row of ``pipnet detect --json``."""
    status: int
    """The HTTP status, if it is the only image of its request."""


class _Job(NamedTuple):
    """An image that waits for its landmarks."""

    image: Image | Photo
    detections: Detections
    result: Future[dict[str, Any]]


class Engine:
    """Runs a landmarker for many requests at a time.

    Waiting costs nothing: the predicting thread takes what is there when it is free, and never waits for a
    batch to fill.
    """

    def __init__(
        self, landmarker: FaceLandmarker, config: ServiceConfig, metrics: Metrics, threads: int
    ) -> None:
        """Load the detector and start the threads.

        Args:
            landmarker: the model and its options.
            config: the limits.
            metrics: counts images, faces and batches.
            threads: how many images are decoded and searched for faces at a time.

        Raises:
            PipnetError: the detector cannot be loaded.
        """
        self.pipeline = landmarker.pipeline
        self._box_format = landmarker.detector.box_format  # loads it
        self._find_faces, self._run = self.pipeline.detect, self.pipeline.run
        self._warm_up()
        self._batch_size, self._metrics = config.batch_size, metrics
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._in_memory = asyncio.Semaphore(config.batch_size + threads)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._predictor = threading.Thread(target=self._predict_jobs, name="predict", daemon=True)
        self._predictor.start()

    def _warm_up(self) -> None:
        """Run all networks once, because the first run takes longer."""
        blank = np.zeros((64, 64, 3), np.uint8)
        self.pipeline.detect(blank)
        self.pipeline.predict([blank], [np.array([[8, 8, 56, 56]], np.float32)])

    @property
    def is_ready(self) -> bool:
        """Whether the predicting thread runs."""
        return self._predictor.is_alive()

    async def answer(self, upload: Upload) -> Answer:
        """Return the row of an image, which states the error if it cannot be read.

        Raises:
            RequestError: there is not enough memory.
        """
        row: dict[str, Any] = {"image": upload.name, "width": None, "height": None, "faces": []}
        try:
            async with self._in_memory:
                row |= await self._find(upload)
            error, status = None, 200
        except MemoryError:
            raise RequestError(503, "not enough memory for this image", {"Retry-After": "5"}) from None
        except ImageTooLargeError as exception:
            error, status = str(exception), 413
        except ImageError as exception:
            error, status = str(exception), 422
        except Exception as exception:  # one image must not stop the others
            _LOG.exception("unexpected error")
            reason = (
                exception if isinstance(exception, PipnetError) else f"unexpected {type(exception).__name__}"
            )
            error, status = f"{upload.name}: {reason}", 500
        self._metrics.images.labels("ok" if error is None else "error").inc()
        self._metrics.faces.inc(len(row["faces"]))
        return Answer({**row, "error": error}, status)

    async def _find(self, upload: Upload) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        image, detections = await loop.run_in_executor(self._decoders, self._decode_and_detect, upload)
        job = _Job(image, detections, Future())
        self._jobs.put(job)
        return await asyncio.wrap_future(job.result)

    def _decode_and_detect(self, upload: Upload) -> tuple[Image | Photo, Detections]:
        image = self.pipeline.open(upload.to_bytes(), upload.name)
        return image, self._find_faces(image)

    def _predict_jobs(self) -> None:
        while True:
            jobs = self._next_jobs()
            if jobs is None:
                return
            live = [job for job in jobs if job.result.set_running_or_notify_cancel()]
            if live:
                self._metrics.batches.observe(len(live))
                self._predict(live)
            del jobs, live  # images, which must not stay in memory until the next request

    def _next_jobs(self) -> list[_Job] | None:
        """Wait for a job, and return it with those that wait too; None if the engine is closed."""
        first = self._jobs.get()
        if first is None:
            return None
        jobs = [first]
        while len(jobs) < self._batch_size:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # the next call returns None
                break
            jobs.append(job)
        return jobs

    def _predict(self, jobs: Sequence[_Job]) -> None:
        """Set the results of jobs. If a batch fails, each of its images is predicted alone."""
        try:
            images, detections = [job.image for job in jobs], [job.detections for job in jobs]
            results = [faces.to_dict() for faces in self._run(images, detections, self._box_format)]
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].result.set_exception(error)
                return
            for job in jobs:
                self._predict([job])
            return
        for job, result in zip(jobs, results, strict=True):
            job.result.set_result(result)

    def close(self) -> None:
        """Finish what waits, and end the threads."""
        self._decoders.shutdown()
        self._jobs.put(None)
        self._predictor.join()
