"""Landmarks as a CSV table: one row per face, two columns per landmark.

::

    image,left_eye_x,left_eye_y,nose_x,nose_y,box_x,box_y,box_w,box_h
    a.jpg,120.5,80,140,101.25,90,40,110,130

Landmarks without names are ``x0,y0,x1,y1``. An empty cell is an unknown point. The box is optional. Two more
columns are optional: ``subset``, the subsets of a face, such as ``test`` or ``test|pose``, and ``group``, a
name that is shared by images cut from one photo. In a table of ``pipnet detect --csv`` the columns ``face``,
``detection_score``, ``quality`` and ``NAME_confidence`` are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.annotations.annotation_set import Annotations, in_order
from pipnet.annotations.checked_values import as_text, parse_number, quoted
from pipnet.annotations.face_collector import FaceCollector
from pipnet.annotations.image_finder import ImageFinder
from pipnet.errors import DataError
from pipnet.geometry import Box, Points, xywh_to_xyxy
from pipnet.io.csv_file import CsvReader, write_csv_file
from pipnet.io.text import relative_name

_IMAGE_TITLES = ("image", "file", "file_name", "filename", "path")
_SUBSET, _GROUP = "subset", "group"
_SEPARATOR = "|"
"""Separates the subsets of a face."""
_BOX = ("box_x", "box_y", "box_w", "box_h")
_PREDICTION, _CONFIDENCE = ("face", "detection_score", "quality"), "_confidence"
"""Columns of predictions, which are not read."""


@dataclass(frozen=True)
class _Columns:
    """The indices of the columns."""

    points: tuple[tuple[int, int], ...]
    names: tuple[str, ...] | None
    box: tuple[int, ...]
    subset: int | None
    group: int | None
    count: int


def read_csv(path: Path, finder: ImageFinder) -> Annotations:
    """Return the faces of a CSV table.

    Raises:
        DataError: the table is invalid; the line is named.
    """
    table = CsvReader(path)
    columns = _columns(table.header, f"{path}:1")
    collector = FaceCollector(finder)
    for where, row in table:
        if len(row) != columns.count:
            raise DataError(f"{where}: {len(row)} cells, but the header has {columns.count}")
        image = finder.find(as_text(row[0], f"{where}: first column"), where)
        subset, group = (row[i].strip() if i else "" for i in (columns.subset, columns.group))
        # Spreadsheets write semicolons where the decimal sign is a comma.
        numbers = [cell.replace(",", ".") for cell in row] if table.delimiter == ";" else row
        points, box = _points(numbers, columns, where), _box(numbers, columns, where)
        collector.add(image, points, where, box=box, group=group, attributes=_subsets(subset))
    return collector.finish(str(path), columns.names)


def _columns(titles: list[str], where: str) -> _Columns:
    """Return the columns of a header. An unknown title is refused: it may be a misspelled landmark."""
    titles = [title.strip() for title in titles]
    if "".join(titles[:1]).lower() not in _IMAGE_TITLES:
        raise DataError(f"{where}: the first title must be one of {', '.join(_IMAGE_TITLES)}")
    index = {title: i for i, title in enumerate(titles)}
    if len(index) < len(titles):
        duplicate = next(t for t in titles if titles.count(t) > 1)
        raise DataError(f"{where}: two columns are called {quoted(duplicate)}")
    box = _box_columns(index, where)
    subset, group = index.get(_SUBSET), index.get(_GROUP)
    others = {index[title] for title in titles[1:] if _is_of_prediction(title, index)}
    coordinates = [title for title in titles[1:] if index[title] not in (*box, subset, group, *others)]
    numbered = all(re.fullmatch(r"[xy][0-9]{1,9}", title) for title in coordinates)
    if numbered:
        names = in_order(title[1:] for title in coordinates)
    else:
        names = tuple(dict.fromkeys(t[:-2] for t in coordinates if re.search("._[xy]$", t)))
    pairs = [(f"x{name}", f"y{name}") if numbered else (f"{name}_x", f"{name}_y") for name in names]
    unpaired = {title for pair in pairs for title in pair} ^ set(coordinates)
    if unpaired or not coordinates:
        reason = f"; {quoted(min(unpaired))} is unknown or missing" if unpaired else ""
        raise DataError(f"{where}: landmarks have the columns NAME_x,NAME_y or x0,y0,x1,y1{reason}")
    points = tuple((index[x], index[y]) for x, y in pairs)
    return _Columns(points, None if numbered else names, box, subset, group, len(titles))


def _is_of_prediction(title: str, index: dict[str, int]) -> bool:
    """Return whether a column of ``pipnet detect --csv`` is neither a landmark nor a box."""
    return title in _PREDICTION or (
        title.endswith(_CONFIDENCE) and f"{title.removesuffix(_CONFIDENCE)}_x" in index
    )


def _box_columns(index: dict[str, int], where: str) -> tuple[int, ...]:
    if "box_w" not in index and "box_h" not in index:
        return ()  # box_x and box_y are a landmark called box
    if not index.keys() >= set(_BOX):
        raise DataError(f"{where}: a box has the columns {', '.join(_BOX)}")
    return tuple(index[title] for title in _BOX)


def _points(row: list[str], columns: _Columns, where: str) -> Points:
    points = np.full((len(columns.points), 2), np.nan, np.float32)
    for i, pair in enumerate(columns.points):
        cells = [row[column].strip() for column in pair]
        if all(cells):
            points[i] = [parse_number(cell, f"{where}: landmark {i + 1}") for cell in cells]
    return points


def _box(row: list[str], columns: _Columns, where: str) -> Box | None:
    cells = [row[column].strip() for column in columns.box]
    if not any(cells):
        return None
    return xywh_to_xyxy([parse_number(cell, f"{where}: box") for cell in cells])


def _subsets(cell: str) -> list[str]:
    return [name for name in map(str.strip, cell.split(_SEPARATOR)) if name]


def write_csv(path: Path, annotations: Annotations) -> None:
    """Write faces as a table; images are named relative to the file's folder.

    Raises:
        DataError: the landmark names are not valid column titles, or a subset's name is not valid in a cell.
        WriteError: the file cannot be written.
    """
    samples, names = annotations.samples, annotations.names
    if names:
        titles = [f"{name}_{axis}" for name in names for axis in "xy"]
    else:
        titles = [f"{axis}{i}" for i in range(len(samples[0].points)) for axis in "xy"]
    with_box = any(sample.box is not None for sample in samples)
    with_subset = any(sample.attributes for sample in samples)
    with_group = annotations.shares_photos
    titles = ["image", *titles, *_BOX * with_box, *[_SUBSET] * with_subset, *[_GROUP] * with_group]
    try:
        parsed_names = _columns(titles, str(path)).names
    except DataError:
        parsed_names = ()
    if parsed_names != names:
        raise DataError(f"{path}: these landmark names cannot be column titles: {quoted(names)}")
    for name in {name for sample in samples for name in sample.attributes}:
        if _subsets(name) != [name]:
            raise DataError(f"{path}: this subset name cannot be written to CSV: {quoted(name)}")

    def rows() -> Iterator[list[str]]:
        for sample in samples:
            known = np.isfinite(sample.points).all(axis=1)
            row = [relative_name(sample.image, path.parent)]
            for point, is_known in zip(sample.points.tolist(), known, strict=True):
                row += [f"{value:.3f}" for value in point] if is_known else ["", ""]
            if sample.box is not None:
                x0, y0, x1, y1 = sample.box.tolist()
                row += [f"{value:.3f}" for value in (x0, y0, x1 - x0, y1 - y0)]
            elif with_box:
                row += [""] * 4
            row += [_SEPARATOR.join(sorted(sample.attributes))] * with_subset
            yield row + [sample.group] * with_group

    write_csv_file(path, titles, rows())
