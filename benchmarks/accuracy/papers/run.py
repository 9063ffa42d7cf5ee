"""Recipes of IJCV 2021, trained here at the paper's settings, beside the published numbers.

    python benchmarks/accuracy/papers/run.py ijcv/mobilenetv2_300w --runs RUNS   (resumes; Ctrl-C at any time)

Recipes for 300W only, with the faces and backbones of the shared folder. The last weights are measured, with
true boxes: no test face chooses anything. Runs stay outside the checkout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.papers.paper_report import BACKBONES
from pipnet.papers.published import TRAINING_FACES, published_nmes
from pipnet.training.recipe import load_recipe
from pipnet.training.split import load_split
from pipnet.training.trainer import train

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    ROOT,
    measured_on,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)

HERE = Path(__file__).parent
SUBSETS = ("common", "challenging", "full")


def main() -> None:
    """Train and measure the recipes that are not in `results.json` yet."""
    parser = new_parser(__doc__)
    parser.add_argument("recipes", nargs="*", help="names below recipes/, such as ijcv/mobilenetv2_300w")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder outside the checkout")
    arguments = parser.parse_args()
    results = read_results(HERE)
    for name in () if arguments.report else arguments.recipes:
        if name not in results:
            results[name] = run(name, arguments.shared.resolve(), arguments.runs.resolve())
            write_results(HERE, results)
    write_report(HERE, report(results))


def run(name: str, shared: Path, runs: Path) -> dict[str, Any]:
    """Train a recipe and return its results."""
    data, folder = shared / "data" / "300w", runs / name.replace("/", "-")
    flags = ["--data.root", str(data), "--initial.folder", str(shared / "backbones")]
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", flags)
    weights = train(recipe, folder, resume=True)
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    model, metadata = load_checkpoint(weights)
    landmarker = FaceLandmarker(TorchModel(model, metadata))
    tests = {}
    for subset in SUBSETS:
        samples, _, spec = load_samples(data, subset, metadata.scheme, for_evaluation=True)
        tests[subset] = evaluate(landmarker, decoded(samples), spec).summary(metadata.scheme)
    return {
        "backbone": BACKBONES[recipe.model.backbone.partition(".")[0]],
        "faces": len(load_split(recipe).training),
        "epochs": len(epochs),
        "minutes": round(sum(epoch["seconds"] for epoch in epochs) / 60, 1),
        **provenance(),
        "tests": tests,
    }


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    rows, origins = [], []
    for name, result in results.items():
        published = published_of(result["backbone"])
        for subset, test in result["tests"].items():
            pixels, paper_frame = test["pixels"], test["official"]
            rows.append(
                [
                    f"[{name}](../../../recipes/{name}.yaml)",
                    f"{subset} ({test['faces']})",
                    f"{pixels['nme']:.2f} ({pixels['nme_ci'][0]:.2f} to {pixels['nme_ci'][1]:.2f})",
                    f"{paper_frame['nme']:.2f}",
                    f"{test['offset_removed']['nme']:.2f}",
                    published.get(f"300W {subset}", ""),
                ]
            )
        origins.append(
            f"* {name}: {result['faces']:,} faces, {result['epochs']} epochs in {result['minutes']:.0f}"
            f" minutes, {measured_on(result)}"
        )
    head = "recipe | test (faces) | NME here | in the paper's frame | label offset removed | published"
    return [
        "# Recipes at the settings of IJCV 2021",
        "",
        "NME (normalized mean error) in % of the inter-ocular distance, true boxes, last weights, one seed;",
        "in brackets the 95 % interval over faces. The paper measures in its crop, stretched to a square.",
        f"Fewer faces to train on are available here than the paper's {TRAINING_FACES['300W']:,}, and the",
        "ImageNet weights are timm's, not the authors'. An empty cell: we know of no published number.",
        "`python benchmarks/accuracy/papers/run.py RECIPE --runs RUNS`.",
        "",
        *table(head.split(" | "), rows),
        "",
        *origins,
    ]


def published_of(backbone: str) -> dict[str, str]:
    """Return IJCV's NMEs of a backbone that was trained on 300W, by test set."""
    rows = published_nmes([f"300W {subset}" for subset in SUBSETS])
    return {
        row.test: f"{row.value:.2f}"
        for row in rows
        if (row.source, row.method, row.backbone, row.train) == ("IJCV", "PIP + NRM", backbone, "300W")
    }


if __name__ == "__main__":
    main()
