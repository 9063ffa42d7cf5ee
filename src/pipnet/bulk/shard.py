"""The labels of one shard, as a pure function of its pictures and the settings.

Who computes them and how often it was tried before does not change a bit of them: the last bits of a network
depend on which crops it sees together, so the groups that go through it are cut by the shard alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipnet.bulk.crash_journal import STRIKES, Attempt
from pipnet.bulk.inputs import Reference
from pipnet.bulk.reader import ImageReader
from pipnet.bulk.rows import Row, error_row, face_rows
from pipnet.errors import DataError, ImageError, PipnetError
from pipnet.geometry import Image
from pipnet.inference.detectors.base import Detections
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import decode_image

_TOGETHER = 16
"""Pictures whose faces go through the model together, at most."""
_MOST_PIXELS = 2**25
"""Pixels of pictures that are held in memory for that; the last one may go beyond."""
_DEADLY = f"stopped the process that worked on it, by a crash or in time, {STRIKES} times"


class Shard(NamedTuple):
    """A part of the work."""

    number: int
    """Its place among all."""
    pictures: list[Reference]
    """Its pictures, in their order."""


class _Decoded(NamedTuple):
    number: int
    image: Image
    found: Detections


class ShardLabels:
    """Finds the labels of one shard: a list of rows for each picture, one a face, or one without a face."""

    def __init__(
        self, landmarker: FaceLandmarker, shard: Shard, reader: ImageReader, attempt: Attempt
    ) -> None:
        self._landmarker, self._shard, self._reader, self._attempt = landmarker, shard, reader, attempt
        self._rows: list[list[Row]] = [[] for _ in shard.pictures]

    def find(self) -> list[list[Row]]:
        """The rows of each picture.

        Raises:
            DataError: the place where the pictures lie is gone.
            ModelError: the model cannot be run.
        """
        group: list[_Decoded] = []
        pixels = 0
        for number, reference in enumerate(self._shard.pictures):
            decoded = self._decode(number, reference)
            if decoded is not None:
                group.append(decoded)
                pixels += decoded.image.shape[0] * decoded.image.shape[1]
            if len(group) == _TOGETHER or pixels >= _MOST_PIXELS:
                self._predict(group)
                group, pixels = [], 0
        self._predict(group)
        self._reader.check()
        return self._rows

    def _decode(self, number: int, reference: Reference) -> _Decoded | None:
        """A picture and where its faces are; None, and a row that says why, where that fails."""
        if not self._attempt.step(str(number)):
            self._fail(number, _DEADLY)
            return None
        try:
            image = decode_image(
                self._reader(reference), reference.key, self._landmarker.pipeline.config.max_pixels
            )
            return _Decoded(number, image, self._landmarker.pipeline.detect(image))
        except (DataError, MemoryError):
            raise
        except ImageError as error:
            self._fail(number, str(error))
        except Exception as error:  # whatever one picture does, the others are done
            self._fail(number, _unexpected(error))
        return None

    def _predict(self, group: Sequence[_Decoded]) -> None:
        """The landmarks of a group of pictures; one by one where the group as a whole cannot be done."""
        if not group:
            return
        reason = _DEADLY
        try:
            if self._attempt.step(f"{group[0].number}-{group[-1].number}", len(group)):
                self._label(group)
                return
        except (PipnetError, MemoryError):
            raise
        except Exception as error:  # as above
            reason = _unexpected(error)
        if len(group) == 1:
            self._fail(group[0].number, reason)
        else:
            for one in group:
                self._predict([one])

    def _label(self, group: Sequence[_Decoded]) -> None:
        pipeline = self._landmarker.pipeline
        images, found = [one.image for one in group], [one.found for one in group]
        results = pipeline.run(images, found, pipeline.detector.box_format)
        for one, faces in zip(group, results, strict=True):
            self._rows[one.number] = face_rows(self._shard.pictures[one.number].key, faces)

    def _fail(self, number: int, reason: str) -> None:
        self._rows[number] = [error_row(self._shard.pictures[number].key, reason)]


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
