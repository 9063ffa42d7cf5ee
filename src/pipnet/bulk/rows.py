"""Labels as rows of Parquet files: one row a face, and one row for an image without faces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipnet.bulk.inputs import parquet
from pipnet.errors import DataError, one_line
from pipnet.inference.results import FaceLandmarks
from pipnet.io.regular_file import open_file, typed_errors
from pipnet.metadata import ModelMetadata

_COLUMNS = {
    "image": "string",
    "face": "int32",
    "box": "numbers",
    "crop_box": "numbers",
    "detection_score": "float32",
    "quality": "float32",
    "points": "numbers",
    "scores": "numbers",
    "confidence": "numbers",
    "expected_error": "numbers",
    "vote_std": "numbers",
    "tta_std": "numbers",
    "width": "int32",
    "height": "int32",
    "error": "string",
}
"""Types of the columns, see `to_parquet`; ``numbers`` is a list of float32."""
_CALIBRATED = ("quality", "confidence", "expected_error")
"""Columns that are null if the model is not calibrated. When labels are read, they are computed again."""
Row = dict[str, Any]
"""Values by column; missing columns are null."""


def face_rows(key: str, faces: FaceLandmarks) -> list[Row]:
    """Return a row a face, or a single row for an image without faces.

    Args:
        key: the name of the image.
        faces: its faces.
    """
    width, height = faces.image_size
    image = {"image": key, "width": width, "height": height}
    empty = dict.fromkeys(_CALIBRATED if faces.metadata.calibration is None else ())
    return [
        {**image, "face": index, **face._asdict(), "points": face.points.ravel(), **empty}
        for index, face in enumerate(faces)
    ] or [image]


def error_row(key: str, reason: str) -> Row:
    """Return the row of an image that cannot be read. Bytes of the reason that are not UTF-8 are escaped."""
    return {"image": key, "error": reason.encode("utf-8", "backslashreplace").decode()}


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return rows as the content of a Parquet file, byte for byte the same for the same rows.

    Columns: ``image``; ``face``, from 0, null for an image without faces; ``box`` and ``crop_box``, xyxy, and
    ``points``, x0, y0, x1, y1 and so on, in pixels of the image; ``detection_score`` and ``quality`` of the
    face; ``scores``, ``confidence``, ``expected_error``, ``vote_std`` and ``tta_std`` of each landmark;
    ``width`` and ``height``; ``error``, null for an image that can be read. All are as in
    `pipnet.inference.results`; what a model is not calibrated for is null.
    """
    pa, pq = parquet()
    types = {name: _type(name) for name in _COLUMNS}
    columns = [pa.array([row.get(name) for row in rows], kind) for name, kind in types.items()]
    sink = pa.BufferOutputStream()
    # These numbers rarely repeat: with dictionaries the file would be half as large again.
    table = pa.table(columns, schema=pa.schema(list(types.items())))
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    return bytes(sink.getvalue())


def _type(column: str) -> Any:
    pa, _ = parquet()
    kind = _COLUMNS[column]
    return pa.list_(pa.float32()) if kind == "numbers" else kind


def read_shard(file: Path, columns: Sequence[str]) -> Any:
    """Return some columns of a shard as a pyarrow table.

    Raises:
        DataError: the shard cannot be read, or does not have these columns.
    """
    pa, pq = parquet()
    try:
        with open_file(file) as content:
            table = pq.read_table(content, use_threads=False, columns=list(columns))
    except Exception as error:  # pyarrow raises any exception for damaged files
        raise DataError(f"{file}: cannot be read: {one_line(error)}") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(
            f"{file}: not written by this version of pipnet annotate: no column {', '.join(missing)}"
        )
    for name in columns:
        if table.schema.field(name).type != pa.schema([(name, _type(name))]).field(name).type:
            raise DataError(f"{file}: not written by pipnet annotate: column {name} has another type")
    return table


class ImageLabels(NamedTuple):
    """The labels of one image."""

    image: str
    """Name of the image."""
    faces: FaceLandmarks | None
    """Its faces, with a black image of the same size; None if the image could not be read."""
    error: str | None
    """Why the image could not be read."""


def read_labels(shards: Sequence[Path], metadata: ModelMetadata) -> Iterator[ImageLabels]:
    """Yield the labels of shards, image by image.

    Args:
        shards: Parquet files, in their order.
        metadata: the metadata of the model that the job used.

    Raises:
        DataError: a shard cannot be read, or has other columns.
    """
    columns = [name for name in _COLUMNS if name not in _CALIBRATED]
    for path in shards:
        # An image starts at each row without a face above 0: a list may name an image twice in a row.
        table = read_shard(path, columns)
        with typed_errors(DataError, f"{path}: not written by pipnet annotate"):
            rows = table.to_pylist()
            starts = np.cumsum([not row["face"] for row in rows]).tolist()
            for _, pairs in groupby(zip(starts, rows, strict=True), key=lambda pair: pair[0]):
                yield _image_labels([row for _, row in pairs], metadata)


def _image_labels(rows: Sequence[Row], metadata: ModelMetadata) -> ImageLabels:
    first = rows[0]
    if first["error"] is not None:
        return ImageLabels(first["image"], None, first["error"])
    face_rows = [row for row in rows if row["face"] is not None]
    shapes: dict[str, tuple[int, ...]] = {"box": (4,), "crop_box": (4,), "detection_score": ()}
    shapes |= {"points": (metadata.scheme.landmarks, 2)}
    shapes |= dict.fromkeys(("scores", "vote_std", "tta_std"), (metadata.scheme.landmarks,))
    values: dict[str, Any] = {
        name: np.array([row[name] for row in face_rows], np.float32).reshape(len(face_rows), *shape)
        for name, shape in shapes.items()
    }
    faces = FaceLandmarks(
        boxes=values.pop("box"),
        crop_boxes=values.pop("crop_box"),
        **values,
        photo=np.broadcast_to(np.uint8(0), (first["height"], first["width"], 3)),  # takes no memory
        metadata=metadata,
    )
    return ImageLabels(first["image"], faces, None)
