"""Comparison of our evaluations with the papers' numbers for the same faces.

Rows are sorted by NME, ours in pixels of the image. The papers measure in their crop, stretched to a square.
That number of ours, and everything else that is not as in the papers, is named in the row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipnet.errors import printable
from pipnet.evaluation.matplotlib_figure import new_figure, save_figure
from pipnet.evaluation.record import EvaluationRecord
from pipnet.papers.published import (
    BENCHMARKS,
    TRAINING_FACES,
    PublishedRow,
    benchmarks_of,
    filter_rows,
    published_nmes,
)

BACKBONES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "mobilenetv2_100": "MobileNetV2",
    "mobilenetv3_large_100": "MobileNetV3-L",
}
"""The papers' name of a backbone by its name in timm, without timm's name of the weights after a dot."""
_INPUT_SIZE = 256
"""Side of the papers' crops in pixels."""


@dataclass(frozen=True)
class Row:
    """A method and its NME."""

    method: str
    backbone: str
    train: str
    nme: float
    """In percent."""
    source: str
    """The paper and table; ``ours`` for an evaluation of ours."""
    differs: str = ""
    """For a row of ours, what is not as in the papers."""

    @property
    def ours(self) -> bool:
        """Whether this is an evaluation of ours."""
        return self.source == "ours"


@dataclass(frozen=True)
class Section:
    """All rows of one test set, the lowest NME first."""

    title: str
    remark: str
    rows: list[Row]


def compare(records: Sequence[EvaluationRecord], text: str = "") -> list[Section]:
    """Compare evaluations with the published rows for their test sets, and return a section a test set.

    Args:
        records: our evaluations.
        text: keep only published rows with this text, see `filter_rows`.
    """
    sections: dict[str, list[EvaluationRecord]] = {}
    for record in records:
        names = benchmarks_of(record.data, record.subset, record.landmarks)
        sections.setdefault(" and ".join(names) or f"{record.data} {record.subset}", []).append(record)
    return [_section(title, members, text) for title, members in sections.items()]


def _section(title: str, records: Sequence[EvaluationRecord], text: str) -> Section:
    names = benchmarks_of(records[0].data, records[0].subset, records[0].landmarks)
    rows = published_nmes(names)
    kept = filter_rows(rows, text)
    if not names:
        remark = "The papers publish no numbers for these faces."
    elif not kept:
        remark = f"No published row for these faces contains {text!r:.80}."
    else:
        benchmark, training_sets = BENCHMARKS[names[0]], {row.train for row in kept}
        parts = [f"{benchmark.faces:,} faces", f"{benchmark.landmarks} points", f"{_norm(rows)} norm"]
        parts += [
            f"{n:,} training faces in {name}" for name, n in TRAINING_FACES.items() if name in training_sets
        ]
        remark = f"The papers: {', '.join(parts)}."
    ours = [
        Row(
            method=f"{record.model} ({_method(record)})",
            backbone=_backbone(record),
            train=record.training,
            nme=record.nme,
            source="ours",
            differs="; ".join(differences(record, names, rows)),
        )
        for record in records
    ]
    return Section(title, remark, sorted([*_merge(kept), *ours], key=lambda row: row.nme))


def _merge(rows: Sequence[PublishedRow]) -> list[Row]:
    """Return published rows, with one row for a number that several tables of a paper repeat."""

    def key(row: PublishedRow) -> tuple[str, str, str, str, float]:
        return row.source, row.method, row.backbone, row.train, row.value

    merged = []
    for (source, method, backbone, train, value), group in groupby(sorted(rows, key=key), key=key):
        repeated = list(group)
        tables = ", ".join(dict.fromkeys(row.table for row in repeated))
        note = f" ({repeated[-1].note})" if all(row.note for row in repeated) else ""
        place = f"{source} table {tables}" if source == "v1" else f"{source} {tables}"
        merged.append(Row(method, backbone, train, value, place + note))
    return merged


def differences(record: EvaluationRecord, names: Sequence[str], rows: Sequence[PublishedRow]) -> list[str]:
    """Return what is not the same in an evaluation of ours as in the papers, the most important first.

    Args:
        record: the evaluation.
        names: its benchmarks, see `benchmarks_of`; if there are none, faces and network are not compared.
        rows: the papers' rows for them.
    """
    parts = [f"in the image's pixels; {record.official:.2f} in the papers' stretched crop"]
    if names:
        parts += _benchmark_differences(names[0], record, rows)
    if record.detector is not None:
        parts.append(f"end to end with the detector {record.detector}, {record.missed:,} missed")
    if record.composites:
        parts.append("faces pasted onto other photos")
    if record.refine_steps:
        parts.append(f"{record.refine_steps} refine steps")
    if record.tta != "none":
        parts.append(f"test-time augmentation ({record.tta})")
    return parts


def _benchmark_differences(name: str, record: EvaluationRecord, rows: Sequence[PublishedRow]) -> list[str]:
    benchmark = BENCHMARKS[name]
    backbones = list(dict.fromkeys(row.backbone for row in rows if row.method.startswith("PIP")))
    checks = (
        (record.faces != benchmark.faces, f"{record.faces:,} faces, not {benchmark.faces:,}"),
        (record.landmarks != benchmark.landmarks, f"{record.landmarks} points, not {benchmark.landmarks}"),
        (record.norm != _norm(rows), f"norm: {record.norm}, not {_norm(rows)}"),
        (
            bool(backbones) and _backbone(record) not in backbones,
            f"the papers' PIP here: {', '.join(backbones)}",
        ),
        (record.input_size != _INPUT_SIZE, f"{record.input_size} px crops, not {_INPUT_SIZE}"),
    )
    return [text for differs, text in checks if differs]


def _norm(rows: Sequence[PublishedRow]) -> str:
    """Return the unit of published NMEs, which is the same for all rows of a test set."""
    return rows[0].metric.removeprefix("NME ").removesuffix(" %")


def _backbone(record: EvaluationRecord) -> str:
    return BACKBONES.get(record.backbone.partition(".")[0], record.backbone)


def _method(record: EvaluationRecord) -> str:
    if record.head == "pip":
        return "PIP + NRM" if record.neighbors else "PIP"
    return record.head.capitalize()


# -- output ----------------------------------------------------------------------------------------------


def markdown(sections: Sequence[Section]) -> str:
    """Return the sections as Markdown tables with our rows in bold."""
    lines = [
        "# Comparison with the papers",
        "",
        "NME in %, the lowest first. v1: arXiv 2003.03771v1; IJCV: 2021; each with its table. Ours are in",
        "bold, in the image's pixels. The papers measure in their crop, stretched to a square.",
    ]
    for section in sections:
        lines += ["", f"## {_escape(section.title)}", "", _escape(section.remark), ""]
        lines += ["| method | backbone | trained on | NME | source | differences |", "|---" * 6 + "|"]
        for row in section.rows:
            mark = "**" if row.ours else ""
            method, backbone, train, source, differs = map(
                _escape, (row.method, row.backbone, row.train, row.source, row.differs)
            )
            lines.append(
                f"| {mark}{method}{mark} | {backbone} | {train} | {mark}{row.nme:.2f}{mark} "
                f"| {source} | {differs} |"
            )
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return re.sub(r"([\\|*`<\[])", r"\\\1", printable(text))


def plot_comparison(sections: Sequence[Section], path: Path) -> None:
    """Draw the sections as bars with our rows in red.

    Raises:
        MissingExtraError: matplotlib is not installed.
        WriteError: the figure cannot be written.
    """
    heights = [len(section.rows) + 2.5 for section in sections]
    figure = new_figure(8, 0.22 * sum(heights) + 0.5)
    panels = figure.subplots(len(sections), squeeze=False, height_ratios=heights)[:, 0]
    for section, axes in zip(sections, panels, strict=True):
        places = range(len(section.rows))
        nmes = [row.nme for row in section.rows]
        bars = axes.barh(places, nmes, color=["tab:red" if row.ours else "0.75" for row in section.rows])
        axes.bar_label(bars, fmt=" %.2f", fontsize=8)
        # The name of a model may contain dollar signs, see `disable_formulas`.
        axes.set_yticks(places, [_label(row) for row in section.rows], fontsize=8, parse_math=False)
        axes.set_title(section.title, fontsize=10)
        axes.set_xlabel("NME, %", fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.1, y=0.01)
    save_figure(figure, path)


def _label(row: Row) -> str:
    parts = [row.method, row.backbone, "" if row.ours else row.train]
    return f"{', '.join(part[:60] for part in parts if part not in ('', '-'))} ({row.source})"
