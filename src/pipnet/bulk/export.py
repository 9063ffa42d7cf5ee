"""Export of a finished job as one file for other tools. Jobs of any size are written in constant memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pipnet.bulk.rows import read_labels
from pipnet.bulk.store import Store
from pipnet.inference.tables import coco_category
from pipnet.metadata import ModelMetadata

ExportFormat = Literal["jsonl", "coco"]
"""``jsonl``: a line an image, as of ``pipnet detect --json``; ``coco``: one table of keypoints."""


def export(store: Store, metadata: ModelMetadata, file_format: ExportFormat) -> Path:
    """Write the labels of a finished job in another format next to the shards, and return the file.

    Args:
        store: the job's folder, entered.
        metadata: the metadata of the model that the job used.
        file_format: the format.

    Raises:
        WriteError: the file cannot be written.
        DataError: a shard is missing or damaged.
    """
    shards = [store.shard_file(record.number) for record in store.final_records() or ()]
    if file_format == "jsonl":
        return store.write_lines("labels.jsonl", _jsonl(shards, metadata))
    return store.write_lines("labels.coco.json", _coco(shards, metadata))


def _jsonl(shards: Sequence[Path], metadata: ModelMetadata) -> Iterator[str]:
    for image, faces, error in read_labels(shards, metadata):
        labels = {"width": None, "height": None, "faces": []} if faces is None else faces.to_dict()
        yield json.dumps({"image": image, **labels, "error": error}) + "\n"


def _coco(shards: Sequence[Path], metadata: ModelMetadata) -> Iterator[str]:
    """Yield the images, then the faces, in two passes over the shards. Unreadable images are left out."""
    yield f'{{"categories": {json.dumps([coco_category(metadata.scheme)])},\n"images": ['
    for i, table in enumerate(_coco_tables(shards, metadata)):
        yield f"{',' if i else ''}\n{json.dumps(table['images'][0])}"
    yield '],\n"annotations": ['
    count = 0
    for table in _coco_tables(shards, metadata):
        for annotation in table["annotations"]:
            yield f"{',' if count else ''}\n{json.dumps({**annotation, 'id': count + 1})}"
            count += 1
    yield "]}\n"


def _coco_tables(shards: Sequence[Path], metadata: ModelMetadata) -> Iterator[dict[str, Any]]:
    """Yield the COCO table of each image that could be read; image IDs count from 1."""
    readable = (labels for labels in read_labels(shards, metadata) if labels.faces is not None)
    for image_id, (image, faces, _) in enumerate(readable, start=1):
        assert faces is not None
        yield faces.to_coco(image_id, image)
