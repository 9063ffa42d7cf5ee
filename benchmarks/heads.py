"""The papers' ablations on the available data: heads and grids, neighbors, losses, seeds.

    python benchmarks/heads.py --data ../shared/data/300w --runs RUNS        (resumes; Ctrl-C at any time)

The rows run in order. A row whose JSON is in `benchmarks/heads/` is skipped, an interrupted row is resumed,
and `benchmarks/heads.md` and its figure are written after each row. Runs stay outside the checkout. The
ablations at 128 px are followed by light networks at 256 px, which are also measured on another dataset.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import bootstrap_mean, norm_distance, point_errors
from pipnet.geometry import crop, from_fraction, tight_box
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.pipnet import PIPNet
from pipnet.model.torch_model import TorchModel
from pipnet.training.recipe import load_recipe
from pipnet.training.trainer import train

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"


class Row(NamedTuple):
    """One training."""

    name: str
    flags: str
    """Changes to the recipe."""
    paper: str
    """The papers' result of a similar training, with ResNet-18 at 256 px."""
    recipe: Path = RECIPES / "ablation_128.yaml"


PIP4, PIP8 = "--model.stride 32", "--model.stride 16"
PAPERS_CROP = "--crop.no-square --crop.clip --crop.scale 1.1 --augment.scale 0 --augment.color_jitter 0"
PAPERS_CROP += f" --augment.translate 0.5 --augment.translate-by {29 / 256} --augment.rotate 0.5"
ROWS = (
    Row("PIP 8x8", PIP8, "stride 32 (8x8): 3.52 (v1, 300W full)"),
    Row("PIP 4x4", "--model.stride 32", "stride 64 (4x4): 3.82"),
    Row("PIP 16x16", "--model.stride 8", "stride 16 (16x16): 3.82"),
    Row("PIP 2x2", "--model.stride 64", "stride 128 (2x2): 4.90"),
    Row("Coord", "--model.head coord --model.stride 32", "Coord: 5.31"),
    Row(
        "Map stride 4, 128 channels",
        "--model.head map --model.stride 4 --model.neck-width 128",
        "Map stride 4 (512 channels): 4.52",
    ),
    Row("PIP 4x4, C = 0", f"{PIP4} --model.neighbors 0", ""),
    Row("PIP 4x4, C = 5", f"{PIP4} --model.neighbors 5", ""),
    Row("PIP 4x4, C = 20", f"{PIP4} --model.neighbors 20", ""),
    Row("PIP 4x4, L2 offsets", f"{PIP4} --model.offset-loss l2", ""),
    Row(
        "PIP 8x8, dilated backbone",
        "--model.stride 16 --model.backbone-stride 16",
        "stride 32 (8x8): 3.52, where 8x8 is the backbone's grid",
    ),
    Row("PIP 4x4, seed 1", f"{PIP4} --seed 1", ""),
    Row("PIP 4x4, C = 0, seed 1", f"{PIP4} --model.neighbors 0 --seed 1", ""),
    Row("PIP 4x4, the papers' crop and augmentation", f"{PIP4} {PAPERS_CROP}", "the papers' settings"),
    Row("PIP 8x8, seed 1", f"{PIP8} --seed 1", ""),
    Row("PIP 4x4, seed 2", f"{PIP4} --seed 2", ""),
    Row("PIP 4x4, C = 0, seed 2", f"{PIP4} --model.neighbors 0 --seed 2", ""),
    Row("PIP 8x8, seed 2", f"{PIP8} --seed 2", ""),
    Row(
        "Map stride 2, 128 channels",
        "--model.head map --model.stride 2 --model.neck-width 128",
        "Map stride 2 (512 channels): 3.78",
    ),
    Row(
        "Map stride 1, 64 channels",
        "--model.head map --model.stride 1 --model.neck-width 64",
        "Map stride 1 (512 channels): 3.54",
    ),
)
AT_256 = "--data.validation 0 --optim.epochs 12"
BACKBONES = (
    Row("MobileNetV2", AT_256, "MobileNetV2: 3.40 (IJCV, 300W full)", RECIPES / "300w_mbv2.yaml"),
    Row("EfficientNet-lite0", AT_256, "", RECIPES / "300w_lite0.yaml"),
    Row(
        "ResNet-18, from random weights",
        AT_256,
        "ResNet-18: 3.36 (IJCV, 300W full, ImageNet weights)",
        RECIPES / "300w_r18_scratch.yaml",
    ),
)


NOTES = """
## Comparison with the papers' tables

* **PIP < Map < Coord**, as in v1's table 2 (3.52, 4.52, 5.31): 4.02 on 4x4 and 4.14 on 8x8 cells, Map
  4.35. The difference to Coord is much larger here: the papers train it for 120 epochs, these rows for
  16. That to Map is smaller: the original's targets peak half a cell further left and up than the
  landmark, and a network learns that offset; our targets have no such offset. With the original's targets
  this row has 6.61 (commit 33db39b).
* **Grids are not in the papers' order where transposed convolutions make the grid.** In v1 8x8 is best
  (3.52), 4x4 and 16x16 are equal (3.82), 2x2 is last (4.90). Here 4x4, the backbone's grid at 128 px, is
  ahead of 8x8 and 16x16 (4.14, 4.62; 2x2 4.36), which need one and two transposed convolutions. A likely
  reason is that these start from noise, and 16 epochs on 2,012 faces do not finish their training. Three
  seeds agree: 4x4 4.02, 3.98, 3.95, 8x8 4.14, 4.11, 4.09. 8x8 of a dilated backbone, without such layers,
  has 3.94, as good as the best seed of 4x4: one seed cannot distinguish that from the papers' order.
* **Unmerged points are worst on fine grids** (8x8 4.48, merged 4.14; 16x16 5.32, merged 4.62; 2x2 4.44,
  merged 4.36): the neighbors' votes correct wrong cells, and a fine grid has more of them, as IJCV argues
  for NRM.
* **NRM helps, through the merge**: with three seeds C = 10 has 4.02, 3.98, 3.95 (mean 3.98), C = 0 4.15,
  4.12, 4.12 (mean 4.13), 3.7 % more, and the ranges do not overlap. The number of neighbors does not
  matter (5 4.00, 20 3.99). The unmerged points of networks with C = 10 (4.16, 4.13, 4.10) are no better
  than those of networks with C = 0. IJCV has 3.36 where v1, without NRM, has 3.52; that is 4.5 % less.
* **The papers' crop and augmentation reduce the error by 5.6 %**: 3.79 against 4.02, one seed, not
  measured separately. A likely reason is the crop: its four sides are those of the landmarks' own box, so
  a test face's crop shows the network where brows, chin and cheeks end. No detector provides that, so our
  weights are trained on squares that are shifted and scaled, and cannot be compared with the papers.
* **Offsets**: L2 4.15, L1 4.02 on 4x4 cells, one seed each; the papers publish no numbers.
* **Merges**: mean and official differ by less than 0.02, far less than these intervals; by 0.05 with
  ResNet-18 from random weights, whose votes are worse: there the mean is better.
* **At 256 px** the initial weights decide the order, not the network: ResNet-18 from random weights
  (4.58) is a third worse than MobileNetV2 from ImageNet (3.60), where IJCV has equal results (3.36,
  3.40); on WFLW as well (11.6, 9.4). For MobileNetV2 and EfficientNet-lite0 the two tests disagree.
"""


def main() -> None:
    """Train and measure the missing rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data" / "300w")
    parser.add_argument("--runs", type=Path, required=True, help="folder outside the checkout")
    parser.add_argument("--only", default="", help="run only rows whose name contains this")
    arguments = parser.parse_args()
    for row in (*ROWS, *BACKBONES):
        target = HERE / "heads" / f"{_slug(row.name)}.json"
        if target.exists() or arguments.only not in row.name:
            continue
        print(f"== {row.name}", flush=True)
        recipe = load_recipe(row.recipe, ["--data.root", str(arguments.data), *row.flags.split()])
        run = arguments.runs / _slug(row.name)
        weights = train(recipe, run, resume=True)
        epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        result = {
            "row": row.name,
            "flags": row.flags,
            "paper": row.paper,
            "recipe": f"{row.recipe.parent.name}/{row.recipe.name}",
            "epochs": recipe.optim.epochs,
            "minutes": round(sum(epoch["seconds"] for epoch in epochs) / 60, 1),
            "commit": _commit(),
            "machine": torch.cpu.get_capabilities().get("cpu_name") or platform.processor(),
            **measure(weights, arguments.data),
        }
        if row in BACKBONES:
            result["nme_wflw"] = round(100 * nme_on_wflw(weights, arguments.data.parent / "wflw"), 4)
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n")
        report()
    report()


def measure(weights: Path, data: Path) -> dict[str, Any]:
    """Return the NME on 300-W Common with true boxes, for each merge of votes, and the network's size."""
    model, metadata = load_checkpoint(weights)
    samples, scheme, _ = load_samples(data, "common")
    boxes, crops = [], []
    for sample in samples:
        image = read_image(sample.image)
        boxes.append(metadata.crop.region(tight_box(sample.points), image.shape[1], image.shape[0]))
        crops.append(crop(image, boxes[-1], metadata.input_size))
    with torch.no_grad():
        batches = np.array_split(np.stack(crops), 16)
        output = model.head(torch.cat([model.features(torch.from_numpy(batch)) for batch in batches]))
        predictions = {"nme": model.head.decode(output).points}
        if model.config.head == "pip":
            predictions["nme_unmerged"] = model.head.unmerged_points(output)
            if model.config.neighbors >= 3:  # the minimum of the authors' code
                official = PIPNet(replace(model.config, merge="official"), metadata.mean_face).head
                official.load_state_dict(model.head.state_dict())
                predictions["nme_official_merge"] = official.decode(output).points
    result: dict[str, Any] = dict(model.describe())
    for name, fractions in predictions.items():
        points = from_fraction(fractions.numpy(), np.stack(boxes)[:, None])
        nmes = np.array(
            [
                point_errors(p, s.points, norm_distance(s.points, scheme)).mean()
                for p, s in zip(points, samples, strict=True)
            ]
        )
        result[name] = round(100 * float(nmes.mean()), 4)
        if name == "nme":
            result["nme_ci"] = [round(100 * end, 4) for end in bootstrap_mean(nmes)]
    return result


def nme_on_wflw(weights: Path, data: Path) -> float:
    """Return the NME on the faces of WFLW as 68 points, with true boxes."""
    model, metadata = load_checkpoint(weights)
    samples, _, spec = load_samples(data, "test", metadata.scheme, for_evaluation=True)
    errors = evaluate(FaceLandmarker(TorchModel(model, metadata)), decoded(samples), spec)
    return float(errors.nmes.mean())


def report() -> None:
    """Write the page and the figure from the finished rows."""
    results = [_read(row) for row in ROWS]
    lines = [
        "# Heads, grids, neighbors, losses",
        "",
        "MobileNetV2 (ImageNet) at **128 px**, trained on 2,012 of 3,148 300-W training faces for 16",
        "epochs (`recipes/ablation_128.yaml`), last weights; NME in % of the inter-ocular distance on the",
        "554 faces of 300-W Common, true boxes. `python benchmarks/heads.py --runs RUNS`; commit and machine",
        "of each row are in `benchmarks/heads/*.json`. Grids are those of the papers; at 128 px they need",
        "other strides: 8x8 has one transposed convolution, 4x4 is the backbone's grid. Rows on C and the",
        "losses use 4x4, which takes half the time. Map heads are narrower than the papers' 512 channels,",
        "which would take more than an hour per row here. Unmerged: before the neighbors' votes are merged.",
        "The papers' numbers are of ResNet-18 at 256 px on 300W full, trained on all faces: compare orders",
        "only.",
        "",
        "| row | NME | interval | unmerged | official merge | parameters | minutes (shared CPU) | papers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, result in zip(ROWS, results, strict=True):
        if result is None:
            lines.append(f"| {row.name} | not run yet | | | | | | {row.paper} |")
            continue
        low, high = result["nme_ci"]
        unmerged, official = result.get("nme_unmerged"), result.get("nme_official_merge")
        lines.append(
            f"| {row.name} | {result['nme']:.3f} | {low:.2f} to {high:.2f} | {_number(unmerged)} "
            f"| {_number(official)} | {result['parameters'] / 1e6:.2f} M | {result['minutes']} "
            f"| {row.paper} |"
        )
    lines += ["", "![NME by row](heads.png)", "", *_backbones(), "", NOTES.strip()]
    (HERE / "heads.md").write_text("\n".join(lines) + "\n")
    done = [result for result in results if result]
    if done:
        figure = Figure(figsize=(7, 0.4 * len(done) + 1), layout="constrained")
        axes = figure.subplots()
        values = [result["nme"] for result in done]
        spans = np.array([result["nme_ci"] for result in done]).T
        errors = np.abs(spans - values)
        axes.barh([result["row"] for result in done], values, xerr=errors, color="#4a90c2")
        axes.invert_yaxis()
        axes.set(xlabel="NME on 300-W Common, %", xlim=(min(values) * 0.8, None))
        figure.savefig(HERE / "heads.png", dpi=110)


def _backbones() -> list[str]:
    """Return the lines on the light networks at 256 px."""
    lines = [
        "## At 256 px",
        "",
        "PIP, stride 32, C = 10, 12 epochs on the same 2,012 faces, augmented as for the shipped weights,",
        "last weights. 12 epochs are too few for a network that starts from random weights; ImageNet",
        "weights of ResNet-18 were not available. WFLW-68: its 114 available faces, true boxes.",
        "",
        "| backbone | Common NME | interval | unmerged | WFLW-68 NME | parameters | papers |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in BACKBONES:
        result = _read(row)
        if result is None:
            lines.append(f"| {row.name} | not run yet | | | | | {row.paper} |")
            continue
        low, high = result["nme_ci"]
        unmerged = _number(result["nme_unmerged"])
        lines.append(
            f"| {row.name} | {result['nme']:.3f} | {low:.2f} to {high:.2f} | {unmerged} "
            f"| {result['nme_wflw']:.2f} | {result['parameters'] / 1e6:.2f} M | {row.paper} |"
        )
    return lines


def _read(row: Row) -> dict[str, Any] | None:
    path = HERE / "heads" / f"{_slug(row.name)}.json"
    result: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return result


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).replace("--", "-")


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
