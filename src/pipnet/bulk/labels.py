"""Labels as rows, and rows as Parquet files: one a face, and one for a picture without any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from pipnet.bulk.sources import parquet
from pipnet.errors import DataError
from pipnet.inference.result import FaceLandmarks
from pipnet.model_info import ModelInfo

_COLUMNS = ["image", "face", "box", "box_score", "points", "scores", "spread", "width", "height", "error"]
"""What is read back."""
Row = dict[str, Any]
"""Values by column, see `to_parquet`; columns that are not there are null."""


def face_rows(
    key: str, faces: FaceLandmarks, disagreement: Float32[np.ndarray, "faces landmarks"]
) -> list[Row]:
    """A row for each face; a single one without a face for a picture that has none.

    Args:
        key: what the picture is called.
        faces: what was found in it.
        disagreement: of the views, see `pipnet.inference.views.Prediction`.
    """
    height, width = faces.image.shape[:2]
    quality = faces.quality if faces.info.calibration else [None] * len(faces)
    picture = {"image": key, "width": width, "height": height}
    return [
        {
            **picture,
            "face": number,
            "box": face.box,
            "box_score": face.score,
            "points": face.points.ravel(),
            "scores": face.scores,
            "spread": face.spread,
            "disagreement": disagreement[number],
            "quality": quality[number],
        }
        for number, face in enumerate(faces)
    ] or [picture]


def error_row(key: str, reason: str) -> Row:
    """The row of a picture that cannot be read. What the reason quotes may be no text."""
    return {"image": key, "error": reason.encode("utf-8", "backslashreplace").decode()}


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Rows as the content of a Parquet file, the same for the same rows.

    Columns: ``image``; ``face``, from 0, null in a picture without one; ``box``, xyxy, and ``points``,
    x0, y0, x1, y1 and so on, in pixels of the picture, (0, 0) being the centre of its top-left one;
    ``box_score``; ``scores``, ``spread`` and ``disagreement`` (of the views, 0 for one) of each landmark;
    ``quality``, the face's mean confidence, null where the model is not calibrated; ``width`` and ``height``;
    ``error``, null for a picture that can be read.
    """
    pa, pq = parquet()
    numbers = pa.list_(pa.float32())
    schema = pa.schema(
        [
            ("image", pa.string()),
            ("face", pa.int32()),
            ("box", numbers),
            ("box_score", pa.float32()),
            ("points", numbers),
            ("scores", numbers),
            ("spread", numbers),
            ("disagreement", numbers),
            ("quality", pa.float32()),
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


class Labelled(NamedTuple):
    """A picture's labels, read back."""

    image: str
    """What the picture is called."""
    faces: FaceLandmarks | None
    """Its faces, with a black picture of its size; None if it could not be read."""
    error: str | None
    """Why it could not."""


def read_labels(shards: Sequence[Path], info: ModelInfo) -> Iterator[Labelled]:
    """The labels of shards, picture by picture.

    Args:
        shards: Parquet files, in their order.
        info: the model that found the labels.

    Raises:
        DataError: a shard cannot be read, or has other columns.
    """
    for path in shards:
        # Row for row: a list may name a picture twice, one after the other.
        rows = read_shard(path, _COLUMNS).to_pylist()
        starts = np.cumsum([not row["face"] for row in rows]).tolist()
        for _, of_picture in groupby(zip(starts, rows, strict=True), key=lambda pair: pair[0]):
            yield _labelled([row for _, row in of_picture], info)


def _labelled(rows: Sequence[Row], info: ModelInfo) -> Labelled:
    first = rows[0]
    if first["error"] is not None:
        return Labelled(first["image"], None, first["error"])
    found = [row for row in rows if row["face"] is not None]
    landmarks = info.scheme.landmarks

    def stacked(column: str, *shape: int) -> np.ndarray:
        return np.array([row[column] for row in found], np.float32).reshape(len(found), *shape)

    faces = FaceLandmarks(
        stacked("points", landmarks, 2),
        stacked("scores", landmarks),
        stacked("spread", landmarks),
        stacked("box", 4),
        stacked("box_score"),
        np.broadcast_to(np.uint8(0), (first["height"], first["width"], 3)),  # takes no memory
        info,
    )
    return Labelled(first["image"], faces, None)
