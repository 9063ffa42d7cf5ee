"""The tables of the two papers, arXiv v1 (2020) and IJCV 2021, as data: ``published.csv``.

It holds all rows of v1's tables, and those rows of the IJCV article that were available.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class PublishedRow:
    """One published number."""

    source: str
    """The paper: ``v1`` (arXiv 2003.03771v1) or ``IJCV`` (2021)."""
    table: str
    """The table in it, such as ``3`` or ``speed chart``."""
    method: str
    """The paper's name of the method."""
    backbone: str
    """The backbone; ``-`` if the paper names none."""
    train: str
    """The training set; empty for speeds."""
    test: str
    """The test set, such as ``300W common``; empty for speeds."""
    metric: str
    """``NME inter-ocular %``, ``NME image width %``, ``FPS CPU`` or ``FPS GPU``."""
    value: float
    note: str
    """How the number was obtained, if it is not in a table."""


@dataclass(frozen=True)
class Benchmark:
    """A test set of the papers."""

    faces: int
    """Number of faces."""
    landmarks: int
    """Number of landmarks of a face."""


BENCHMARKS = {
    "300W full": Benchmark(689, 68),
    "300W common": Benchmark(554, 68),
    "300W challenging": Benchmark(135, 68),
    "COFW": Benchmark(507, 29),
    "AFLW": Benchmark(4386, 19),
    "WFLW full": Benchmark(2500, 98),
    "WFLW pose": Benchmark(326, 98),
    "WFLW expression": Benchmark(314, 98),
    "WFLW illumination": Benchmark(698, 98),
    "WFLW make-up": Benchmark(206, 98),
    "WFLW occlusion": Benchmark(736, 98),
    "WFLW blur": Benchmark(773, 98),
    "300W 19 points": Benchmark(689, 19),
    "COFW 19 points": Benchmark(507, 19),
    "WFLW 19 points": Benchmark(2500, 19),
    "AFLW 19 points": Benchmark(4386, 19),
    "UCCS 19 points": Benchmark(3010, 19),
}
"""The test sets of the published NMEs, by their names in ``published.csv``."""
TRAINING_FACES = {"300W": 3148, "COFW": 1345, "AFLW": 20_000, "WFLW": 7500}
"""Number of faces that the published methods were trained on."""


def published() -> list[PublishedRow]:
    """Return all published numbers, in the order of the papers."""
    text = (resources.files("pipnet.papers") / "published.csv").read_text(encoding="utf-8")
    return [
        PublishedRow(**{**row, "value": float(row["value"])})  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    ]


def published_nmes(tests: Sequence[str]) -> list[PublishedRow]:
    """Return the published NMEs on some test sets."""
    return [row for row in published() if row.test in tests and row.metric.startswith("NME")]


def filter_rows(rows: Iterable[PublishedRow], text: str) -> list[PublishedRow]:
    """Return the rows with a text in paper, table, method, backbone or training set, ignoring case."""
    return [
        row
        for row in rows
        if text.casefold() in f"{row.source} {row.table} {row.method} {row.backbone} {row.train}".casefold()
    ]


def benchmarks_of(data: str, subset: str, landmarks: int) -> tuple[str, ...]:
    """Return the names in `BENCHMARKS` for a subset of a dataset: none without published numbers.

    There are two for AFLW, which has 19 landmarks itself.

    Args:
        data: title of the dataset, such as ``300-W``.
        subset: the subset, such as ``common``.
        landmarks: number of landmarks of a face. v1 also measures all datasets on 19.
    """
    name, part = data.replace("-", ""), subset.removesuffix("-deduplicated")
    names = [f"{name} {part}"]
    if part in ("full", "test"):
        names = [name, f"{name} full", f"{name} 19 points"]
    return tuple(n for n in names if n in BENCHMARKS and (BENCHMARKS[n].landmarks == 19) == (landmarks == 19))
