"""The papers' tables as data: ``published.csv``, all rows of v1's tables and all that was found of IJCV's."""

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
    """What was measured, by the paper's name for it."""
    backbone: str
    """Its backbone; ``-`` where the paper names none."""
    train: str
    """What it was trained on; empty for speeds."""
    test: str
    """The test set, such as ``300W common``; empty for speeds."""
    metric: str
    """``NME inter-ocular %``, ``NME image width %``, ``FPS CPU`` or ``FPS GPU``."""
    value: float
    """The number."""
    note: str
    """How the number was come by, where it does not stand in a table."""


@dataclass(frozen=True)
class Benchmark:
    """What a published NME was measured on."""

    faces: int
    """How many faces it has."""
    landmarks: int
    """How many points each has."""


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
"""How many faces the published methods were trained on."""


def published() -> list[PublishedRow]:
    """All published numbers, in the papers' order."""
    text = (resources.files("pipnet.evaluation") / "published.csv").read_text(encoding="utf-8")
    return [
        PublishedRow(**{**row, "value": float(row["value"])})  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    ]


def published_nmes(tests: Sequence[str]) -> list[PublishedRow]:
    """The published NMEs on some test sets."""
    return [row for row in published() if row.test in tests and row.metric.startswith("NME")]


def that_say(rows: Iterable[PublishedRow], text: str) -> list[PublishedRow]:
    """The rows with a text in paper, table, method, backbone or training set; capitals do not matter."""

    def words(row: PublishedRow) -> str:
        return f"{row.source} {row.table} {row.method} {row.backbone} {row.train}"

    return [row for row in rows if text.casefold() in words(row).casefold()]


def benchmarks_of(data: str, subset: str, landmarks: int) -> tuple[str, ...]:
    """The benchmarks that a part of a collection is when it is measured on this many landmarks.

    Args:
        data: the collection's title, such as ``300-W``.
        subset: its part, such as ``common``.
        landmarks: how many points a face has; v1 measures all collections on 19, too.

    Returns:
        Names in `BENCHMARKS`: none where nothing was published, two for AFLW, whose own points the 19 are.
    """
    name, part = data.replace("-", ""), subset.removesuffix("-deduplicated")
    names = [f"{name} {part}"]
    if part in ("full", "test"):
        names = [name, f"{name} full", f"{name} 19 points"]
    return tuple(n for n in names if n in BENCHMARKS and (BENCHMARKS[n].landmarks == 19) == (landmarks == 19))
