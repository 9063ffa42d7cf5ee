"""The labels of one shard, a pure function of its images and the settings.

They do not depend on the worker or on earlier attempts: the last bits of a network's output depend on which
crops are in a batch, so batches are formed from the shard alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipnet.bulk.crash_journal import MAX_FAILURES, Attempt
from pipnet.bulk.image_reader import ImageReader
from pipnet.bulk.inputs import ImageReference
from pipnet.bulk.rows import Row, error_row, face_rows
from pipnet.errors import DataError, ImageError, PipnetError
from pipnet.geometry import Image
from pipnet.inference.detectors.base import Detections
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.photo import Photo

_BATCH_SIZE = 16
"""Maximum number of images with faces in one batch of the model."""
_MAX_BATCH_PIXELS = 2**25
"""A batch ends with the image that brings it to this number of pixels, to limit the memory."""
_QUARANTINED = f"quarantined: its worker crashed or exceeded the time limit {MAX_FAILURES} times"


class Shard(NamedTuple):
    """A part of the job."""

    number: int
    """Index of the shard in the plan."""
    images: list[ImageReference]


class _Decoded(NamedTuple):
    position: int
    image: Image | Photo
    detections: Detections


class ShardLabeler:
    """Labels the images of one shard."""

    def __init__(
        self, landmarker: FaceLandmarker, shard: Shard, reader: ImageReader, attempt: Attempt
    ) -> None:
        self._pipeline = landmarker.pipeline
        self._shard, self._reader, self._attempt = shard, reader, attempt
        self._rows: list[list[Row]] = [[] for _ in shard.images]

    def label(self) -> list[list[Row]]:
        """Return the rows of each image: one a face, or one without a face.

        Raises:
            DataError: the drive or network with the images is gone.
            ModelError: the model cannot be run.
        """
        batch: list[_Decoded] = []
        pixels = 0
        for index, reference in enumerate(self._shard.images):
            decoded = self._decode(index, reference)
            if decoded is not None:
                batch.append(decoded)
                pixels += decoded.image.shape[0] * decoded.image.shape[1]
            if len(batch) == _BATCH_SIZE or pixels >= _MAX_BATCH_PIXELS:
                self._predict(batch)
                batch, pixels = [], 0
        self._predict(batch)
        self._reader.check()
        return self._rows

    def _decode(self, index: int, reference: ImageReference) -> _Decoded | None:
        """Return a decoded image and its detections; if that fails, None, and its row has the error."""
        if not self._attempt.start_step(str(index)):
            self._fail(index, _QUARANTINED)
            return None
        try:
            content = self._reader(reference)
            image = self._pipeline.open(content, reference.key)
            return _Decoded(index, image, self._pipeline.detect(image))
        except (DataError, MemoryError):
            raise
        except ImageError as error:
            self._fail(index, str(error))
        except Exception as error:  # no image may stop the others
            self._fail(index, _unexpected(error))
        return None

    def _predict(self, batch: Sequence[_Decoded]) -> None:
        """Predict the landmarks of a batch; if it fails as a whole, those of each image."""
        if not batch:
            return
        reason = _QUARANTINED
        try:
            if self._attempt.start_step(f"{batch[0].position}-{batch[-1].position}", len(batch)):
                self._label_batch(batch)
                return
        except ImageError as error:  # a photo that can be decoded at a reduced scale alone
            reason = str(error)
        except (PipnetError, MemoryError):
            raise
        except Exception as error:  # as above
            reason = _unexpected(error)
        if len(batch) == 1:
            self._fail(batch[0].position, reason)
        else:
            for decoded in batch:
                self._predict([decoded])

    def _label_batch(self, batch: Sequence[_Decoded]) -> None:
        images, detections = [one.image for one in batch], [one.detections for one in batch]
        results = self._pipeline.run(images, detections, self._pipeline.detector.box_format)
        for decoded, faces in zip(batch, results, strict=True):
            self._rows[decoded.position] = face_rows(self._shard.images[decoded.position].key, faces)

    def _fail(self, index: int, reason: str) -> None:
        self._rows[index] = [error_row(self._shard.images[index].key, reason)]


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
