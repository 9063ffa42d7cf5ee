"""Our numbers beside the papers', on the same faces, with what is not the same said in the row.

Ours stand in order of the NME in the picture's pixels. The papers measure in their crop stretched to a
square; that number of ours is the first thing said in "what differs".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipnet.evaluation.figure import new_figure, save_figure
from pipnet.evaluation.record import Measured
from pipnet.papers.published import (
    BENCHMARKS,
    TRAINING_FACES,
    PublishedRow,
    benchmarks_of,
    published_nmes,
    that_say,
)

BACKBONES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "mobilenetv2_100": "MobileNetV2",
    "mobilenetv3_large_100": "MobileNetV3-L",
}
"""The papers' name of a backbone by timm's, without what timm says of its weights after a dot."""
_INPUT_SIZE = 256
"""Side of the papers' crops in pixels."""


@dataclass(frozen=True)
class Row:
    """A method and its NME, of a paper or ours."""

    method: str
    backbone: str
    train: str
    nme: float
    """In percent."""
    source: str
    """Where it stands; ``ours``."""
    differs: str = ""
    """What is not as in the papers, for a row of ours."""

    @property
    def ours(self) -> bool:
        """Whether we measured it."""
        return self.source == "ours"


@dataclass(frozen=True)
class Section:
    """All that is known of one test set, the lowest NME first."""

    title: str
    remark: str
    rows: list[Row]


def compare(results: Sequence[Measured], text: str = "") -> list[Section]:
    """Evaluations beside the published rows for their test sets, a section each.

    Args:
        results: what was measured.
        text: keep only published rows that say this; see `that_say`.
    """
    sections: dict[str, list[Measured]] = {}
    for result in results:
        names = benchmarks_of(result.data, result.subset, result.landmarks)
        title = " and ".join(names) or f"{result.data} {result.subset}"
        sections.setdefault(title, []).append(result)
    return [_section(title, members, text) for title, members in sections.items()]


def _section(title: str, results: Sequence[Measured], text: str) -> Section:
    names = benchmarks_of(results[0].data, results[0].subset, results[0].landmarks)
    rows = published_nmes(names)
    shown = that_say(rows, text)
    if not names:
        remark = "The papers publish no numbers for these faces."
    elif not shown:
        remark = f"No published row for these faces says {text!r}."
    else:
        facts, sets = BENCHMARKS[names[0]], {row.train for row in shown}
        parts = [f"{facts.faces:,} faces", f"{facts.landmarks} points", f"{_norm(rows)} norm"]
        parts += [f"{n:,} training faces in {name}" for name, n in TRAINING_FACES.items() if name in sets]
        remark = f"The papers: {', '.join(parts)}."
    ours = [
        Row(
            method=f"{result.model} ({_method(result)})",
            backbone=_backbone(result),
            train=result.training,
            nme=result.nme,
            source="ours",
            differs="; ".join(differences(result, names, rows)),
        )
        for result in results
    ]
    return Section(title, remark, sorted([*_merged(shown), *ours], key=lambda row: row.nme))


def _merged(rows: Sequence[PublishedRow]) -> list[Row]:
    """Published rows, one for what several tables of a paper repeat."""

    def what(row: PublishedRow) -> tuple[str, str, str, str, float]:
        return row.source, row.method, row.backbone, row.train, row.value

    merged = []
    for (source, method, backbone, train, value), group in groupby(sorted(rows, key=what), key=what):
        same = list(group)
        tables = ", ".join(dict.fromkeys(row.table for row in same))
        note = f" ({same[-1].note})" if all(row.note for row in same) else ""
        where = f"{source} table {tables}" if source == "v1" else f"{source} {tables}"
        merged.append(Row(method, backbone, train, value, where + note))
    return merged


def differences(result: Measured, names: Sequence[str], rows: Sequence[PublishedRow]) -> list[str]:
    """What is not the same in an evaluation of ours as in the papers, most telling first.

    Args:
        result: the evaluation.
        names: its benchmarks, see `benchmarks_of`; only the frame and the boxes are told if there are none.
        rows: what the papers publish for them.
    """
    out = [f"in the picture's pixels; {result.official:.2f} in the papers' stretched crop"]
    if names:
        out += _differences_from(names[0], result, rows)
    if result.detector is not None:
        out.append(f"end to end with the detector {result.detector}, {result.missed:,} missed")
    if result.composites:
        out.append("faces pasted onto other photos")
    if result.refine_steps:
        out.append(f"{result.refine_steps} refine steps")
    if result.tta != "none":
        out.append(f"test-time augmentation ({result.tta})")
    return out


def _differences_from(name: str, result: Measured, rows: Sequence[PublishedRow]) -> list[str]:
    facts, out = BENCHMARKS[name], []
    if result.faces != facts.faces:
        out.append(f"{result.faces:,} faces, not {facts.faces:,}")
    if result.landmarks != facts.landmarks:
        out.append(f"{result.landmarks} points, not {facts.landmarks}")
    if result.norm != _norm(rows):
        out.append(f"norm: {result.norm}, not {_norm(rows)}")
    backbones = list(dict.fromkeys(row.backbone for row in rows if row.method.startswith("PIP")))
    if backbones and _backbone(result) not in backbones:
        out.append(f"the papers' PIP here: {', '.join(backbones)}")
    if result.input_size != _INPUT_SIZE:
        out.append(f"{result.input_size} px crops, not {_INPUT_SIZE}")
    return out


def _norm(rows: Sequence[PublishedRow]) -> str:
    """The unit of published NMEs; all rows for one set of faces have the same."""
    return rows[0].metric.removeprefix("NME ").removesuffix(" %")


def _backbone(result: Measured) -> str:
    return BACKBONES.get(result.backbone.partition(".")[0], result.backbone)


def _method(result: Measured) -> str:
    if result.head == "pip":
        return "PIP + NRM" if result.neighbors else "PIP"
    return result.head.capitalize()


# -- to look at ------------------------------------------------------------------------------------------


def markdown(sections: Sequence[Section]) -> str:
    """The sections as Markdown tables; ours in bold."""
    lines = [
        "# Beside the papers",
        "",
        "NME in %, the lowest first. v1: arXiv 2003.03771v1; IJCV: 2021; each with its table. Ours in bold,",
        "by the NME in the picture's pixels; the papers measure in their crop stretched to a square.",
    ]
    for section in sections:
        lines += ["", f"## {_escape(section.title)}", "", _escape(section.remark), ""]
        lines += ["| method | backbone | trained on | NME | where | what differs |", "|---" * 6 + "|"]
        for row in section.rows:
            mark = "**" if row.ours else ""
            words = [_escape(w) for w in (row.method, row.backbone, row.train, row.source, row.differs)]
            method, backbone, train, source, differs = words
            lines.append(
                f"| {mark}{method}{mark} | {backbone} | {train} | {mark}{row.nme:.2f}{mark} "
                f"| {source} | {differs} |"
            )
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return re.sub(r"([\\|*`<\[])", r"\\\1", text)


def plot_comparison(sections: Sequence[Section], path: Path) -> None:
    """Draw the sections as bars, ours highlighted.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    heights = [len(section.rows) + 2.5 for section in sections]
    figure = new_figure(8, 0.22 * sum(heights) + 0.5)
    panels = figure.subplots(len(sections), squeeze=False, height_ratios=heights)[:, 0]
    for section, axes in zip(sections, panels, strict=True):
        places = range(len(section.rows))
        nmes = [row.nme for row in section.rows]
        bars = axes.barh(places, nmes, color=["tab:red" if row.ours else "0.75" for row in section.rows])
        axes.bar_label(bars, fmt=" %.2f", fontsize=8)
        labels = [_label(row) for row in section.rows]
        # A name of ours may hold a dollar sign, which would be taken for a formula.
        axes.set_yticks(places, labels, fontsize=8, parse_math=False)
        axes.set_title(section.title, fontsize=10, parse_math=False)
        axes.set_xlabel("NME, %", fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.1, y=0.01)
    save_figure(figure, path)


def _label(row: Row) -> str:
    """A row in few words."""
    words = [row.method, row.backbone, "" if row.ours else row.train]
    return f"{', '.join(word[:60] for word in words if word not in ('', '-'))} ({row.source})"
