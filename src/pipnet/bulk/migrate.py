"""Bulk jobs of earlier formats: rename what changed, and write each file anew."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.bulk.inputs import parquet
from pipnet.bulk.rows import to_parquet
from pipnet.bulk.store import FORMAT, Store
from pipnet.errors import DataError, one_line
from pipnet.geometry import tight_box
from pipnet.io.atomic import make_folder
from pipnet.io.regular_file import read_file

_COLUMNS = {"box_score": "detection_score", "spread": "vote_std", "disagreement": "tta_std"}
_SETTINGS = {"views": "tta", "any_roll": "any_rotation"}


def migrate_job(folder: Path) -> None:
    """Convert the folder of a finished job of format 2 to the present format, in place.

    The shards of such a job do not hold the boxes that crops were cut around: the tight box of the landmarks
    takes their place.

    Raises:
        DataError: not a finished job of format 2, or a shard is missing or damaged.
        WriteError: a file cannot be written.
    """
    if not (folder / "manifest.json").is_file():
        raise DataError(f"{folder}: no folder of pipnet annotate")
    store = Store(folder)
    make_folder(store.work)  # for temporary files
    _migrate(store)
    store.remove_work_files()


def _migrate(store: Store) -> None:
    try:
        manifest: dict[str, Any] = json.loads(read_file(store.manifest_file))
        version, shards = manifest["format"], manifest.get("shards")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{store.manifest_file}: not a manifest: {error!s:.160}") from None
    if version == FORMAT:
        return
    if version != 2 or shards is None:
        raise DataError(
            f"{store.folder}: only finished jobs of format 2 can be converted: annotate the images again"
        )
    try:
        records = [_migrate_shard(store, record) for record in shards]
        settings = {_SETTINGS.get(name, name): value for name, value in manifest["settings"].items()}
        settings["refine_steps"] = settings.pop("passes") - 1
        model = dict(manifest["model"])
        model["license"] = model.pop("licence")
        manifest["images"] = manifest.pop("pictures")
    except (KeyError, TypeError, AttributeError, ValueError, LookupError) as error:
        raise DataError(f"{store.manifest_file}: damaged: {error!r:.160}") from None
    changes = {"format": FORMAT, "settings": settings, "model": model, "shards": records}
    store.write_manifest(manifest | changes)


def _migrate_shard(store: Store, record: dict[str, Any]) -> dict[str, Any]:
    """Convert a shard, and return its record. A shard that a killed run converted is left as it is."""
    _, pq = parquet()
    path = store.shard_file(record["number"])
    images = record.get("images", record.get("pictures"))
    kept = {key: value for key, value in record.items() if key != "pictures"} | {"images": images}
    try:
        rows = pq.read_table(path, use_threads=False).to_pylist()
    except Exception as error:  # pyarrow raises any exception for damaged files
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from None
    if rows and "spread" not in rows[0]:
        return kept | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    renamed = [{_COLUMNS.get(name, name): value for name, value in row.items()} for row in rows]
    for row in renamed:
        if row["points"] is not None:
            row["crop_box"] = tight_box(np.array(row["points"], np.float32).reshape(-1, 2))
    return kept | {"sha256": store.write_shard(record["number"], to_parquet(renamed))}
