"""Labels as rows, and rows as Parquet files: one a face, and one for a picture without any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipnet.bulk.inputs import parquet
from pipnet.errors import DataError
from pipnet.inference.results import FaceLandmarks
from pipnet.metadata import ModelMetadata

_COLUMNS = ["image", "face", "box", "crop_box", "detection_score", "points", "scores", "vote_std", "tta_std"]
_COLUMNS += ["width", "height", "error"]
"""What is read back."""
Row = dict[str, Any]
"""Values by column, see `to_parquet`; columns that are not there are null."""


def face_rows(key: str, faces: FaceLandmarks) -> list[Row]:
    """Return a row a face; a single one without a face for an image that has none.

    Args:
        key: what the image is called.
        faces: the faces in it.
    """
    height, width = faces.image.shape[:2]
    calibrated = faces.metadata.calibration is not None
    image = {"image": key, "width": width, "height": height}
    return [
        {
            **image,
            "face": number,
            "box": face.box,
            "crop_box": face.crop_box,
            "detection_score": face.detection_score,
            "quality": face.quality if calibrated else None,
            "points": face.points.ravel(),
            "scores": face.scores,
            "confidence": face.confidence if calibrated else None,
            "expected_error": face.expected_error if calibrated else None,
            "vote_std": face.vote_std,
            "tta_std": face.tta_std,
        }
        for number, face in enumerate(faces)
    ] or [image]


def error_row(key: str, reason: str) -> Row:
    """The row of a picture that cannot be read. What the reason quotes may be no text."""
    return {"image": key, "error": reason.encode("utf-8", "backslashreplace").decode()}


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return rows as the content of a Parquet file, the same for the same rows.

    Columns: ``image``; ``face``, from 0, null in an image without one; ``box`` and ``crop_box``, xyxy, and
    ``points``, x0, y0, x1, y1 and so on, in pixels of the image; ``detection_score`` and ``quality`` of the face;
    ``scores``, ``confidence``, ``expected_error``, ``vote_std`` and ``tta_std`` of each landmark; ``width`` and
    ``height``; ``error``, null for an image that can be read. All as in `pipnet.inference.results`; what a
    model is not calibrated for is null.
    """
    pa, pq = parquet()
    numbers = pa.list_(pa.float32())
    schema = pa.schema(
        [
            ("image", pa.string()),
            ("face", pa.int32()),
            ("box", numbers),
            ("crop_box", numbers),
            ("detection_score", pa.float32()),
            ("quality", pa.float32()),
            ("points", numbers),
            ("scores", numbers),
            ("confidence", numbers),
            ("expected_error", numbers),
            ("vote_std", numbers),
            ("tta_std", numbers),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("error", pa.string()),
        ]
    )
    columns = [pa.array([row.get(name) for row in rows], schema.field(name).type) for name in schema.names]
    sink = pa.BufferOutputStream()
    # Hardly two of these numbers are the same: dictionaries of them would make the file half as large again.
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd", use_dictionary=False)
    return bytes(sink.getvalue())


def read_shard(file: Path, columns: Sequence[str]) -> Any:
    """Some columns of a shard, as a table of pyarrow.

    Raises:
        DataError: it cannot be read, or has other columns.
    """
    pa, pq = parquet()
    try:
        table = pq.read_table(file, use_threads=False, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read: {' '.join(str(error).split()):.160}") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(f"{file}: not written by pipnet annotate: no column {', '.join(missing)}")
    return table


class Labeled(NamedTuple):
    """A picture's labels, read back."""

    image: str
    """What the picture is called."""
    faces: FaceLandmarks | None
    """Its faces, with a black picture of its size; None if it could not be read."""
    error: str | None
    """Why it could not."""


def read_labels(shards: Sequence[Path], metadata: ModelMetadata) -> Iterator[Labeled]:
    """The labels of shards, picture by picture.

    Args:
        shards: Parquet files, in their order.
        metadata: the model that found the labels.

    Raises:
        DataError: a shard cannot be read, or has other columns.
    """
    for path in shards:
        # Row for row: a list may name a picture twice, one after the other.
        rows = read_shard(path, _COLUMNS).to_pylist()
        starts = np.cumsum([not row["face"] for row in rows]).tolist()
        for _, of_picture in groupby(zip(starts, rows, strict=True), key=lambda pair: pair[0]):
            yield _labeled([row for _, row in of_picture], metadata)


def _labeled(rows: Sequence[Row], metadata: ModelMetadata) -> Labeled:
    first = rows[0]
    if first["error"] is not None:
        return Labeled(first["image"], None, first["error"])
    found = [row for row in rows if row["face"] is not None]
    landmarks = metadata.scheme.landmarks

    def stacked(column: str, *shape: int) -> np.ndarray:
        return np.array([row[column] for row in found], np.float32).reshape(len(found), *shape)

    faces = FaceLandmarks(
        points=stacked("points", landmarks, 2),
        scores=stacked("scores", landmarks),
        vote_std=stacked("vote_std", landmarks),
        tta_std=stacked("tta_std", landmarks),
        boxes=stacked("box", 4),
        crop_boxes=stacked("crop_box", 4),
        detection_score=stacked("detection_score"),
        image=np.broadcast_to(np.uint8(0), (first["height"], first["width"], 3)),  # takes no memory
        metadata=metadata,
    )
    return Labeled(first["image"], faces, None)
