"""The offset of 300-W's labels along x, on its training faces.

    python benchmarks/accuracy/label_offset/run.py

Two models measure it: PFLD_GhostOne, which was trained on WFLW alone and never saw a label of 300-W, and our
default, which was trained with the values of the registry taken off. Writes ``results.json`` and
``report.md`` beside this file. For one dataset and model: ``pipnet data check``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipnet.datasets.load import load_samples
from pipnet.evaluation.label_check import check_faces, label_offsets
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.load import load_model
from pipnet.progress import show_progress
from pipnet.scheme import LandmarkScheme

sys.path.append(str(Path(__file__).parents[2]))
from _common import provenance

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODELS: dict[str, str | Path] = {
    "PFLD_GhostOne": ROOT / "recipes" / "teachers" / "pfld_ghostone.toml",
    DEFAULT_MODEL: DEFAULT_MODEL,
}


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    root = parser.parse_args().shared.resolve() / "data" / "300w"
    samples, _, _ = load_samples(root, "train-deduplicated")
    used: dict[str, list[float]] = {}
    results: dict[str, Any] = {**provenance(), "offsets": {}}
    for name, model in MODELS.items():
        shown = show_progress(samples, len(samples), f"faces, {name}")
        faces = check_faces(load_model(find_model(model)), shown, LandmarkScheme.load("300w"))
        results["offsets"][name] = {
            group: {"mean": round(o.mean, 3), "interval": np.round(o.interval, 3).tolist(), "faces": o.faces}
            for group, o in label_offsets(faces).items()
        }
        for face in faces:
            for group in (face.sample.name.split("/", 1)[0], "all"):
                assert face.sample.label_offset is not None
                used.setdefault(group, []).append(face.sample.label_offset[0])
    results["used"] = {group: round(float(np.mean(values)), 3) for group, values in used.items()}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "report.md").write_text(report(results))


def report(results: dict[str, Any]) -> str:
    """Return the page."""
    offsets = results["offsets"]
    lines = [
        "# The offset of 300-W's labels",
        "",
        "Mean of label minus prediction along x in pixels of the images here, with its 95 % bootstrap"
        " interval; the prediction is the mean over a face and its mirror image.",
        "",
        "| faces | number | " + " | ".join(offsets) + " | taken off, mean |",
        "|---|---|" + "---|" * (len(offsets) + 1),
    ]
    for group, first in next(iter(offsets.values())).items():
        cells = [
            f"{row[group]['mean']:.2f} ({row[group]['interval'][0]:.2f} to {row[group]['interval'][1]:.2f})"
            for row in offsets.values()
        ]
        taken = results["used"].get(group)
        lines.append(
            f"| {group} | {first['faces']} | "
            + " | ".join(cells)
            + f" | {taken if taken is not None else ''} |"
        )
    lines += [
        "",
        'The values taken off in training and in the column "offset removed" are AFW 2.3, LFPW 1.8, HELEN 2.4'
        " and 1.4 for HELEN crops at the 448 px limit; iBUG takes AFW's, because it is a test set"
        " and was never"
        " measured."
        " An offset along y cannot be measured in this way.",
        "",
        f"`python benchmarks/accuracy/label_offset/run.py`, commit {results['commit']}, "
        f"{results['machine']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
