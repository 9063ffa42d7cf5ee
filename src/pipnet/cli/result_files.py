"""The tables of ``pipnet detect``: one CSV file and one COCO file for all images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipnet.errors import PipnetError
from pipnet.inference.results import FaceLandmarks
from pipnet.inference.tables import coco_category, face_columns, face_rows
from pipnet.io.atomic import make_folder, write_text
from pipnet.io.csv_file import write_csv_file
from pipnet.io.text import relative_name
from pipnet.scheme import LandmarkScheme


class ResultFiles:
    """Collects the faces of many images, and writes them as tables.

    Images are named relative to the folder of each file, so that `pipnet data view` finds them.
    """

    def __init__(self, csv: Path | None, coco: Path | None, scheme: LandmarkScheme) -> None:
        """Check the names, and create the folders.

        Raises:
            PipnetError: a name has another suffix than ``.csv`` and ``.json``.
            WriteError: a folder cannot be created.
        """
        for flag, path, suffix in (("--csv", csv, ".csv"), ("--coco", coco, ".json")):
            if path is None:
                continue
            if path.suffix.lower() != suffix:
                raise PipnetError(f"{flag} {path!s:.80}: expected the name of a file that ends in {suffix}")
            make_folder(path.parent)
        self.csv, self.coco, self.scheme = csv, coco, scheme
        self._rows: list[list[Any]] = []
        self._images: list[Any] = []
        self._annotations: list[Any] = []

    def add(self, image: Path, faces: FaceLandmarks) -> None:
        """Add the faces of an image; the CSV file has no row for an image without faces."""
        if self.csv is not None:
            name = relative_name(image, self.csv.parent)
            self._rows += [[name, *row] for row in face_rows(faces)]
        if self.coco is not None:
            name, image_id = relative_name(image, self.coco.parent), len(self._images) + 1
            table = faces.to_coco(image_id, name, len(self._annotations) + 1)
            self._images += table["images"]
            self._annotations += table["annotations"]

    def write(self) -> None:
        """Write the files atomically.

        Raises:
            WriteError: a file cannot be written; the previous version is kept.
        """
        if self.csv is not None:
            write_csv_file(self.csv, ["image", *face_columns(self.scheme)], self._rows)
        if self.coco is not None:
            table = {
                "images": self._images,
                "annotations": self._annotations,
                "categories": [coco_category(self.scheme)],
            }
            write_text(self.coco, json.dumps(table))
