"""The labels of a finished job as one file that other tools read; of any size, and never held as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipnet.bulk.labels import read_labels
from pipnet.bulk.store import Store
from pipnet.inference.result import FaceLandmarks
from pipnet.model_info import ModelInfo

Format = Literal["jsonl", "coco"]
"""``jsonl``, a line a picture as of ``pipnet detect --json``; ``coco``, one table of key points."""


def export(store: Store, info: ModelInfo, kind: Format) -> Path:
    """Write the labels in another format beside the shards.

    Args:
        store: the folder of a finished job, entered.
        info: the model that found the labels.
        kind: the format.

    Returns:
        The file.

    Raises:
        WriteError: it cannot be written.
        DataError: a shard is gone or damaged.
    """
    files = [store.shard_file(record.number) for record in store.finished() or ()]
    if kind == "jsonl":
        return store.write_lines("labels.jsonl", _jsonl(files, info))
    return store.write_lines("labels.coco.json", _coco(files, info))


def _jsonl(files: Sequence[Path], info: ModelInfo) -> Iterator[str]:
    for image, faces, error in read_labels(files, info):
        found = {"error": error} if faces is None else faces.to_dict()
        yield json.dumps({"image": image, **found}) + "\n"


def _coco(files: Sequence[Path], info: ModelInfo) -> Iterator[str]:
    """Pictures, then faces: the labels are read twice. Pictures that could not be read are not in it."""
    nothing = np.zeros((0, info.scheme.landmarks), np.float32)
    points, boxes = np.zeros((0, info.scheme.landmarks, 2), np.float32), np.zeros((0, 4), np.float32)
    empty = FaceLandmarks(points, nothing, nothing, boxes, boxes[:, 0], np.zeros((1, 1, 3), np.uint8), info)
    yield f'{{"categories": {json.dumps(empty.to_coco()["categories"])},\n"images": ['
    for number, table in _tables(files, info):
        yield f"{',' if number > 1 else ''}\n{json.dumps(table['images'][0])}"
    yield '],\n"annotations": ['
    count = 0
    for _, table in _tables(files, info):
        for face in table["annotations"]:
            count += 1
            yield f"{',' if count > 1 else ''}\n{json.dumps({**face, 'id': count})}"
    yield "]}\n"


def _tables(files: Sequence[Path], info: ModelInfo) -> Iterator[tuple[int, dict[str, Any]]]:
    """A COCO table of each picture that could be read, with the picture's number."""
    number = 0
    for image, faces, _ in read_labels(files, info):
        if faces is not None:
            number += 1
            yield number, faces.to_coco(number, image)
