"""The files of ``pipnet detect`` about all images: a CSV file, a COCO file and an HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipnet.errors import PipnetError, WriteError
from pipnet.evaluation.gallery.results_page import ResultsPage
from pipnet.inference.results import FaceLandmarks
from pipnet.inference.tables import coco_category, face_columns, face_rows
from pipnet.io.atomic import check_writable, write_text
from pipnet.io.csv_file import write_csv_file
from pipnet.io.discovery import FoundImage
from pipnet.io.text import relative_name
from pipnet.metadata import ModelMetadata


class ResultFiles:
    """Collects the faces of many images, and writes them as tables and as a page.

    Images of tables are named relative to the folder of each file, so that `pipnet data view` finds them.
    """

    def __init__(
        self, csv: Path | None, coco: Path | None, html: Path | None, total: int, metadata: ModelMetadata
    ) -> None:
        """Check the names, and create the folders.

        Raises:
            PipnetError: a name has another suffix than ``.csv``, ``.json`` and ``.html``.
            WriteError: a file cannot be written.
        """
        for flag, path, suffix in (("--csv", csv, ".csv"), ("--coco", coco, ".json")):
            if path is None:
                continue
            if path.suffix.lower() != suffix:
                raise PipnetError(f"{flag} {path!s:.80}: expected the name of a file that ends in {suffix}")
            check_writable(path)
        self.csv, self.coco, self.scheme = csv, coco, metadata.scheme
        self._page = None if html is None else ResultsPage(html, total, metadata)
        self._rows: list[list[Any]] = []
        self._images: list[Any] = []
        self._annotations: list[Any] = []

    def add(self, image: FoundImage, faces: FaceLandmarks) -> None:
        """Add the faces of an image; the CSV file has no row for an image without faces."""
        if self.csv is not None:
            name = relative_name(image.path, self.csv.parent)
            self._rows += [[name, *row] for row in face_rows(faces)]
        if self.coco is not None:
            name, image_id = relative_name(image.path, self.coco.parent), len(self._images) + 1
            table = faces.to_coco(image_id, name, len(self._annotations) + 1)
            self._images += table["images"]
            self._annotations += table["annotations"]
        if self._page is not None:
            self._page.add(_short_name(image), faces)

    def add_error(self, image: FoundImage, error: str) -> None:
        """Add an image that could not be read; only the page shows it, without its folder."""
        if self._page is not None:
            self._page.add_error(_short_name(image), error.replace(str(image.path), _short_name(image)))

    def write(self) -> None:
        """Write the files atomically, each of them even if another one cannot be written.

        Raises:
            WriteError: a file cannot be written; the previous version is kept.
        """
        errors: list[WriteError] = []
        for write in (self._write_csv, self._write_coco, self._write_page):
            try:
                write()
            except WriteError as error:
                errors.append(error)
        if errors:
            raise WriteError("; ".join(map(str, errors)))

    def _write_csv(self) -> None:
        if self.csv is not None:
            write_csv_file(self.csv, ["image", *face_columns(self.scheme)], self._rows)

    def _write_coco(self) -> None:
        if self.coco is not None:
            table = {
                "images": self._images,
                "annotations": self._annotations,
                "categories": [coco_category(self.scheme)],
            }
            write_text(self.coco, json.dumps(table))

    def _write_page(self) -> None:
        if self._page is not None:
            self._page.write()


def _short_name(image: FoundImage) -> str:
    """Return the path of an image below the requested folder: what others may know of where it is."""
    if image.path == image.root:  # not found
        return image.path.name
    return image.path.relative_to(image.root).as_posix()
