"""The gain of each ingredient of the default weights, added one after the other.

    python benchmarks/accuracy/ingredients/run.py --runs RUNS          (resumes; Ctrl-C at any time)

All rows train MobileNetV2 at 128 px for 20 epochs on the HELEN and LFPW parts of 300-W (without the three
duplicates of test faces); AFW is left out of all trainings. Choices read AFW and people 301 to 350 of CFP.
The tests (300-W Common and Challenging, WFLW as 68 points, people 351 to 400 of CFP) are measured once. True
boxes, one crop, last weights. The teachers of the last row are the Apache-2.0 networks of
``recipes/teachers`` and the network of the row before.

Writes ``results.json`` and ``report.md`` beside this file, and the NME of every face into ``faces.npz``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import bootstrap_mean
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.load import load_model
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.scheme import LandmarkScheme
from pipnet.training.recipe import load_recipe
from pipnet.training.self_training import teach
from pipnet.training.teachers import Teacher
from pipnet.training.trainer import train

sys.path.append(str(Path(__file__).parents[2]))
from _common import new_parser, provenance, read_results, table, write_report, write_results

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MEASURED = {
    "AFW": ("300w", "afw"),
    "CFP 301 to 350": ("cfp_profile", "val"),
    "Common": ("300w", "common"),
    "Challenging": ("300w", "challenging"),
    "WFLW-68": ("wflw", "test"),
    "CFP 351 to 400": ("cfp_profile", "test"),
}
"""Folder and subset of each evaluation set; the first two are for choices, the others are tests."""
FRAMES = ("as filed", "offset removed")
WEIGHTS = ROOT / "benchmarks" / "training" / "weights"
ROUNDS = (
    ("pipnet-68, 1", "16 + 6", "pipnet-68-round-1.json"),
    ("2", "7 + 6", "pipnet-68-round-2.json"),
    ("3", "7 + 6", "pipnet-68-round-3.json"),
    ("4", "14 + 6", "pipnet-68.json"),
    ("pipnet-tiny, 1", "60 + 6", "pipnet-tiny-round-1.json"),
    ("2", "40 + 6", "pipnet-tiny-round-2.json"),
    ("3", "40 + 6", "pipnet-tiny.json"),
)
"""Rounds of the shipped weights: name, epochs, and results in `WEIGHTS`."""
EPOCHS = 20


class Row(NamedTuple):
    """A training."""

    name: str
    cfp: bool = False
    unlabeled: tuple[str, ...] = ()
    """Folders whose faces the teachers label."""
    flags: str = ""


AS_FILED = "--data.label-offset 0 0"
ROWS = (
    Row("baseline", flags=AS_FILED),
    Row("label offset removed"),
    Row("with CFP", cfp=True),
    Row("with teachers", cfp=True, unlabeled=("helen", "wider")),
)


def main() -> None:
    """Train and measure the rows that are missing."""
    parser = new_parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder outside the checkout")
    arguments = parser.parse_args()
    data, results, before = arguments.shared.resolve() / "data", read_results(HERE), None
    for row in () if arguments.report else ROWS:
        folder = arguments.runs.resolve() / row.name.replace(" ", "-")
        if row.name not in results:
            print(f"== {row.name}", flush=True)
            started = time.perf_counter()
            weights = train_row(row, data, folder, before)
            minutes = round((time.perf_counter() - started) / 60, 1)
            results[row.name] = measure(row, weights, data) | {"minutes": minutes, **provenance()}
            write_results(HERE, results)
        before = folder / "run" / "last.safetensors"
    write_report(HERE, report(results))


def train_row(row: Row, data: Path, folder: Path, before: Path | None) -> Path:
    """Label the unlabeled faces, train, and return the last weights."""
    flags = ["--data.root", str(data / "300w"), "--data.subset", "helen+lfpw-deduplicated"]
    flags += ["--optim.epochs", str(EPOCHS), *row.flags.split()]
    if row.cfp:
        flags += ["--data.also", str(data / "cfp_profile")]
    if row.unlabeled:
        table = folder / "labels" / "pseudo_labels.csv"
        if not table.is_file():
            names = [*sorted((ROOT / "recipes" / "teachers").glob("*.toml")), before]
            teachers = [Teacher.load(name) for name in names if name is not None]
            folders = [data / "unlabelled" / name for name in row.unlabeled]
            locator = load_model(find_model(DEFAULT_MODEL))
            teach(teachers, folders, folder / "labels", LandmarkScheme.load("300w"), locator)
        flags += ["--pseudo.labels", str(table), "--pseudo.max-std", "3"]
    train(load_recipe(ROOT / "recipes" / "ablation_128.yaml", flags), folder / "run", resume=True)
    return folder / "run" / "last.safetensors"


def measure(row: Row, weights: Path, data: Path) -> dict[str, Any]:
    """Return NMEs in percent on all evaluation sets, as filed and with the label offset removed."""
    network, metadata = load_checkpoint(weights)
    landmarker = FaceLandmarker(TorchModel(network, metadata))
    result: dict[str, Any] = {}
    faces: dict[str, np.ndarray] = {}
    for title, (folder, subset) in MEASURED.items():
        samples, _, spec = load_samples(data / folder, subset, metadata.scheme, for_evaluation=True)
        errors = evaluate(landmarker, decoded(samples), spec, norm=spec.norm)
        for column, values in zip(FRAMES, (errors.pixels, errors.offset_removed), strict=True):
            nmes = 100 * np.nanmean(values, axis=1)
            faces[f"{row.name}/{title}/{column}"] = nmes.astype(np.float32)
            low, high = bootstrap_mean(nmes)
            interval = [round(low, 3), round(high, 3)]
            result.setdefault(title, {})[column] = {"nme": round(float(nmes.mean()), 3), "interval": interval}
    file = HERE / "faces.npz"
    arrays: dict[str, Any] = dict(np.load(file)) if file.is_file() else {}
    arrays.update(faces)
    np.savez_compressed(file, **arrays)
    return result


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    rows: list[list[object]] = []
    for name, result in results.items():
        cells = [_cell(*(result[title][c]["nme"] for c in FRAMES)) for title in MEASURED]
        rows.append([name, *cells, f"{result['minutes']:.0f}"])
    return [
        "# The gain of each ingredient",
        "",
        *table(["row", *MEASURED, "minutes"], rows),
        "",
        "NME (normalized mean error) in %, labels as filed / with the label offset removed; of the",
        "inter-ocular distance, on CFP of the longer side of the visible points' box. Each row adds to the",
        "one above. AFW and CFP 301 to 350 are used for choices; the others are tests.",
        "",
        "MobileNetV2 at 128 px, 8x8 cells, 20 epochs, seed 0, true boxes:",
        "`python benchmarks/accuracy/ingredients/run.py --runs RUNS`.",
        "Commit, machine and intervals are in `results.json`, every face in `faces.npz`.",
        "",
        "## Schedule",
        "",
        "`pipnet-68` (256 px) and `pipnet-tiny` (128 px) were trained in rounds, each from the weights of",
        "the one before: epochs on labels and pseudo-labels, then six on labels alone.",
        "",
        *table(["round", "epochs", "validation", *list(MEASURED)[1:]], [_round(*each) for each in ROUNDS]),
        "",
        "Validation: faces of the training set that are left out, with the label offset removed. It and CFP",
        "301 to 350 are used for choices. `python benchmarks/training/weights/run.py`.",
    ]


def _round(name: str, epochs: str, file: str) -> list[object]:
    """Return a row on a round of `benchmarks/training/weights`."""
    result = json.loads((WEIGHTS / file).read_text())
    nmes = result["tuned" if result["chosen"].startswith("tune") else "trained"]
    wflw = nmes.get("WFLW", nmes.get("WFLW-68"))
    two = [_cell(nmes[title], nmes[f"{title}, offset removed"]) for title in ("Common", "Challenging")]
    one = [f"{nme:.2f}" for nme in (nmes["validation"], nmes["CFP val"], wflw, nmes["CFP test"])]
    return [name, epochs, *one[:2], *two, *one[2:]]


def _cell(filed: float, removed: float) -> str:
    return f"{filed:.2f}" if filed == removed else f"{filed:.2f} / {removed:.2f}"


if __name__ == "__main__":
    main()
