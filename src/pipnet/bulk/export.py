"""The labels of a finished job as one file that other tools read; of any size, and never held as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pipnet.bulk.rows import read_labels
from pipnet.bulk.store import Store
from pipnet.inference.results import coco_category
from pipnet.metadata import ModelMetadata

Format = Literal["jsonl", "coco"]
"""``jsonl``, a line a picture as of ``pipnet detect --json``; ``coco``, one table of key points."""


def export(store: Store, metadata: ModelMetadata, kind: Format) -> Path:
    """Write the labels in another format beside the shards.

    Args:
        store: the folder of a finished job, entered.
        metadata: the model that found the labels.
        kind: the format.

    Returns:
        The file.

    Raises:
        WriteError: it cannot be written.
        DataError: a shard is gone or damaged.
    """
    files = [store.shard_file(record.number) for record in store.finished() or ()]
    if kind == "jsonl":
        return store.write_lines("labels.jsonl", _jsonl(files, metadata))
    return store.write_lines("labels.coco.json", _coco(files, metadata))


def _jsonl(files: Sequence[Path], metadata: ModelMetadata) -> Iterator[str]:
    for image, faces, error in read_labels(files, metadata):
        found = {"error": error} if faces is None else faces.to_dict()
        yield json.dumps({"image": image, **found}) + "\n"


def _coco(files: Sequence[Path], metadata: ModelMetadata) -> Iterator[str]:
    """Pictures, then faces: the labels are read twice. Pictures that could not be read are not in it."""
    yield f'{{"categories": {json.dumps([coco_category(metadata.scheme)])},\n"images": ['
    for number, table in _tables(files, metadata):
        yield f"{',' if number > 1 else ''}\n{json.dumps(table['images'][0])}"
    yield '],\n"annotations": ['
    count = 0
    for _, table in _tables(files, metadata):
        for face in table["annotations"]:
            count += 1
            yield f"{',' if count > 1 else ''}\n{json.dumps({**face, 'id': count})}"
    yield "]}\n"


def _tables(files: Sequence[Path], metadata: ModelMetadata) -> Iterator[tuple[int, dict[str, Any]]]:
    """A COCO table of each picture that could be read, with the picture's number."""
    number = 0
    for image, faces, _ in read_labels(files, metadata):
        if faces is not None:
            number += 1
            yield number, faces.to_coco(number, image)
