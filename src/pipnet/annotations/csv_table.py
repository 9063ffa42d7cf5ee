"""Landmarks as a CSV table: one row a face, two columns a landmark.

::

    image,left_eye_x,left_eye_y,nose_x,nose_y,box_x,box_y,box_w,box_h
    a.jpg,120.5,80,140,101.25,90,40,110,130

Landmarks without names are ``x0,y0,x1,y1``. An empty cell is an unknown point; the box may be left out.
There may also be ``subset``, the parts a face belongs to, such as ``test`` or ``test|pose``, and ``group``, a
name that pictures which are cut from one photo share.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipnet.annotations.base import Annotations, in_order
from pipnet.annotations.collector import FaceCollector
from pipnet.annotations.fields import number_in_text, shown, words
from pipnet.annotations.files import read_text, relative_name
from pipnet.annotations.image_finder import ImageFinder
from pipnet.annotations.samples import FaceSample
from pipnet.errors import DataError
from pipnet.geometry import Box, Points, xywh_to_xyxy
from pipnet.io.atomic import write_text

_PICTURE_TITLES = ("image", "file", "file_name", "filename", "path")
_SUBSET, _GROUP = "subset", "group"
_BETWEEN = "|"
"""Stands between the parts that a face belongs to."""
_BOX = ("box_x", "box_y", "box_w", "box_h")


@dataclass(frozen=True)
class _Columns:
    """What stands where in a row."""

    points: tuple[tuple[int, int], ...]
    names: tuple[str, ...] | None
    box: tuple[int, ...]
    subset: int | None
    group: int | None
    count: int


def read_csv(path: Path, finder: ImageFinder) -> Annotations:
    """The faces of a CSV table.

    Raises:
        DataError: something in it is not what it should be; the line is named.
    """
    text = read_text(path)
    first = text.splitlines()[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = _columns(next(reader), f"{path}:1")
        collector = FaceCollector(finder)
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if len(row) not in (0, columns.count):
                raise DataError(f"{where}: {len(row)} cells under {columns.count} titles")
            if any(cell.strip() for cell in row):
                picture = finder.find(words(row[0], f"{where}: first column"), where)
                subset, group = (row[i].strip() if i else "" for i in (columns.subset, columns.group))
                # Spreadsheets write semicolons where the decimal sign is a comma.
                numbers = [cell.replace(",", ".") for cell in row] if delimiter == ";" else row
                points, box = _points(numbers, columns, where), _box(numbers, columns, where)
                collector.add(picture, points, where, box=box, group=group, attributes=_subsets(subset))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None
    return collector.annotations(str(path), columns.names)


def _columns(titles: list[str], where: str) -> _Columns:
    """What the titles say; an unknown one is refused, as it may be a landmark that is misspelt."""
    titles = [title.strip() for title in titles]
    if "".join(titles[:1]).lower() not in _PICTURE_TITLES:
        raise DataError(f"{where}: the first title must be one of {', '.join(_PICTURE_TITLES)}")
    place = {title: i for i, title in enumerate(titles)}
    if len(place) < len(titles):
        twice = next(t for t in titles if titles.count(t) > 1)
        raise DataError(f"{where}: two columns are called {shown(twice)}")
    box = _box_columns(place, where)
    subset, group = place.get(_SUBSET), place.get(_GROUP)
    rest = [title for title in titles[1:] if place[title] not in (*box, subset, group)]
    numbered = all(re.fullmatch(r"[xy][0-9]{1,9}", title) for title in rest)
    names = in_order(title[1:] for title in rest) if numbered else _names(rest)
    pairs = [(f"x{name}", f"y{name}") if numbered else (f"{name}_x", f"{name}_y") for name in names]
    missing = {title for pair in pairs for title in pair} ^ set(rest)
    if missing or not rest:
        wrong = f"; {shown(min(missing))} is too many or too few" if missing else ""
        raise DataError(f"{where}: landmarks have the columns NAME_x,NAME_y or x0,y0,x1,y1{wrong}")
    points = tuple((place[x], place[y]) for x, y in pairs)
    return _Columns(points, None if numbered else names, box, subset, group, len(titles))


def _box_columns(place: dict[str, int], where: str) -> tuple[int, ...]:
    if "box_w" not in place and "box_h" not in place:
        return ()  # box_x and box_y are a landmark called box
    if not place.keys() >= set(_BOX):
        raise DataError(f"{where}: a box has the columns {', '.join(_BOX)}")
    return tuple(place[title] for title in _BOX)


def _names(titles: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(title[:-2] for title in titles if re.search("._[xy]$", title)))


def _points(row: list[str], columns: _Columns, where: str) -> Points:
    points = np.full((len(columns.points), 2), np.nan, np.float32)
    for i, pair in enumerate(columns.points):
        cells = [row[column].strip() for column in pair]
        if all(cells):
            points[i] = [number_in_text(cell, f"{where}: landmark {i + 1}") for cell in cells]
    return points


def _box(row: list[str], columns: _Columns, where: str) -> Box | None:
    cells = [row[column].strip() for column in columns.box]
    if not any(cells):
        return None
    return xywh_to_xyxy([number_in_text(cell, f"{where}: box") for cell in cells])


def _subsets(cell: str) -> list[str]:
    return [name for name in map(str.strip, cell.split(_BETWEEN)) if name]


def write_csv(path: Path, annotations: Annotations) -> None:
    """Write faces as a table; pictures are named by their way from the file's folder.

    Raises:
        DataError: the landmarks' names cannot be titles of columns, or a part's name cannot stand in a cell.
        WriteError: it cannot be written.
    """
    names, count = annotations.names, len(annotations.samples[0].points)
    axes = (
        [(f"{name}_x", f"{name}_y") for name in names]
        if names
        else [(f"x{i}", f"y{i}") for i in range(count)]
    )
    with_box = any(sample.box is not None for sample in annotations.samples)
    with_subset = any(sample.attributes for sample in annotations.samples)
    with_group = annotations.shares_photos
    titles = ["image", *(title for pair in axes for title in pair), *(_BOX if with_box else ())]
    titles += [_SUBSET] * with_subset + [_GROUP] * with_group
    try:
        read_back = _columns(titles, str(path)).names
    except DataError:
        read_back = ()
    if read_back != names:
        raise DataError(f"{path}: these landmark names cannot be titles of columns: {shown(names)}")
    for name in {name for sample in annotations.samples for name in sample.attributes}:
        if _subsets(name) != [name]:
            raise DataError(f"{path}: a part of this name cannot stand in a table: {shown(name)}")
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    for sample in annotations.samples:
        cells = _row(sample, path.parent, with_box)
        cells += [_BETWEEN.join(sorted(sample.attributes))] * with_subset + [sample.group] * with_group
        writer.writerow(cells)
    write_text(path, out.getvalue())


def _row(sample: FaceSample, folder: Path, with_box: bool) -> list[str]:
    known = np.isfinite(sample.points).all(axis=1)
    cells = [relative_name(sample.image, folder)]
    for point, is_known in zip(sample.points.tolist(), known, strict=True):
        cells += [f"{value:.3f}" for value in point] if is_known else ["", ""]
    if with_box and sample.box is None:
        cells += [""] * 4
    elif with_box and sample.box is not None:
        x0, y0, x1, y1 = sample.box.tolist()
        cells += [f"{value:.3f}" for value in (x0, y0, x1 - x0, y1 - y0)]
    return cells
