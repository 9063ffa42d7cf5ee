"""The papers' ablations on the available data: heads and grids, neighbors, losses, seeds.

    python benchmarks/accuracy/heads/run.py --runs RUNS        (resumes; Ctrl-C at any time)

The rows run in order. A row in `results.json` is skipped, an interrupted row is resumed, and the page and its
figure are written after each row. Runs stay outside the checkout. The ablations at 128 px are followed by
light networks at 256 px, which are also measured on another dataset.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipnet.datasets.load import load_samples
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.evaluation.metrics import bootstrap_mean, norm_distance, point_errors
from pipnet.geometry import from_fraction, tight_box
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.io.image import read_image
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.pipnet import PIPNet
from pipnet.model.torch_model import TorchModel
from pipnet.training.recipe import load_recipe
from pipnet.training.trainer import train
from pipnet.warp import crop

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    COLORS,
    ROOT,
    label_line,
    new_figure,
    new_parser,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)
from accuracy.heads.distill_backbone import distill

HERE = Path(__file__).parent
RECIPES = ROOT / "recipes"


class Row(NamedTuple):
    """One training."""

    name: str
    flags: str
    """Changes to the recipe."""
    paper: str
    """The papers' result of a similar training, with ResNet-18 at 256 px."""
    recipe: Path = RECIPES / "ablation_128.yaml"
    is_distilled: bool = False
    """Start from the ResNet-18 of `distill_backbone`."""


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
HEADS = (
    ("PIP 2x2", "PIP 2x2", 4.90),
    ("PIP 4x4", "PIP 4x4", 3.82),
    ("PIP 8x8", "PIP 8x8", 3.52),
    ("PIP 16x16", "PIP 16x16", 3.82),
    ("Map, stride 1", "Map stride 1, 64 channels", 3.54),
    ("Map, stride 2", "Map stride 2, 128 channels", 3.78),
    ("Map, stride 4", "Map stride 4, 128 channels", 4.52),
    ("Coord", "Coord", 5.31),
)
"""Names in the figure, rows, and v1's NME on 300W full (its tables 1 and 2)."""
NEIGHBORS = {0: "PIP 4x4, C = 0", 5: "PIP 4x4, C = 5", 10: "PIP 4x4", 20: "PIP 4x4, C = 20"}
"""Rows of the figure by number of neighbors."""
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
    Row(
        "ResNet-18, distilled from MobileNetV2",
        AT_256,
        "ResNet-18: 3.36 (IJCV, 300W full, ImageNet weights)",
        RECIPES / "300w_r18_scratch.yaml",
        is_distilled=True,
    ),
)


def main() -> None:
    """Train and measure the missing rows."""
    parser = new_parser(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder outside the checkout")
    parser.add_argument("--only", default="", help="run only rows whose name contains this")
    arguments = parser.parse_args()
    results = read_results(HERE)
    for row in () if arguments.report else (*ROWS, *BACKBONES):
        if row.name not in results and arguments.only in row.name:
            print(f"== {row.name}", flush=True)
            results[row.name] = run(row, arguments.shared.resolve(), arguments.runs.resolve())
            write_results(HERE, results)
            report(results)
    report(results)


def run(row: Row, shared: Path, runs: Path) -> dict[str, Any]:
    """Train a row and return its results."""
    data, folder = shared / "data", runs / _slug(row.name)
    flags = ["--data.root", str(data / "300w"), *row.flags.split()]
    if row.is_distilled:
        weights = distill(data, shared / "backbones", runs / "distilled")
        flags += ["--initial.pretrained", "--initial.folder", str(weights.parent)]
    recipe = load_recipe(row.recipe, flags)
    weights = train(recipe, folder, resume=True)
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = {
        "flags": row.flags,
        "paper": row.paper,
        "recipe": f"{row.recipe.parent.name}/{row.recipe.name}",
        "epochs": recipe.optim.epochs,
        "minutes": round(sum(epoch["seconds"] for epoch in epochs) / 60, 1),
        **provenance(),
        **measure(weights, data / "300w"),
    }
    if row.is_distilled:
        result["distillation"] = json.loads((runs / "distilled" / "losses.json").read_text())
    if row in BACKBONES:
        result["nme_wflw"] = round(100 * nme_on_wflw(weights, data / "wflw"), 4)
    return result


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


def report(results: dict[str, Any]) -> None:
    """Write the page and the figure from the finished rows."""
    lines = [
        "# Heads, grids, neighbors, losses",
        "",
        "MobileNetV2 (ImageNet) at **128 px**, trained on 2,012 of 3,148 300-W training faces for 16",
        "epochs (`recipes/ablation_128.yaml`), last weights; NME (normalized mean error) in % of the",
        "inter-ocular distance on the 554 faces of 300-W Common, true boxes; v1 is arXiv v1 (2020).",
        "`python benchmarks/accuracy/heads/run.py --runs RUNS`; commit and machine of each row are in",
        "`results.json`. Grids are those of the papers; at 128 px they need other strides: 8x8 has",
        "one transposed convolution, 4x4 is the backbone's grid. Rows on C and the losses use 4x4, which",
        "takes half the time. Map heads are narrower than the papers' 512 channels. Unmerged: before the",
        "neighbors' votes are merged.",
        "The papers' numbers are of ResNet-18 at 256 px on 300W full, trained on all faces: compare orders",
        "only.",
        "",
    ]
    head = "row | NME | interval | unmerged | official merge | parameters | minutes (shared CPU) | papers"
    lines += table(head.split(" | "), [_cells(row, results[row.name]) for row in ROWS if row.name in results])
    lines += [
        "",
        "![NME of heads and of numbers of neighbors](heads.png)",
        "",
        *_backbones(results),
        "",
        *(HERE / "notes.md").read_text().splitlines(),
    ]
    write_report(HERE, lines)
    draw(results)


def _cells(row: Row, result: dict[str, Any]) -> list[object]:
    merges = [_number(result.get(key)) for key in ("nme_unmerged", "nme_official_merge")]
    size = f"{result['parameters'] / 1e6:.2f} M"
    return [row.name, *_nme(result), *merges, size, result["minutes"], row.paper]


def _nme(result: dict[str, Any]) -> tuple[str, str]:
    return f"{result['nme']:.3f}", "{:.2f} to {:.2f}".format(*result["nme_ci"])


def _backbones(results: dict[str, Any]) -> list[str]:
    """Return the lines on the light networks at 256 px."""
    rows: list[list[object]] = []
    for row in BACKBONES:
        result = results.get(row.name)
        if result is None:
            continue
        numbers = [_number(result["nme_unmerged"]), f"{result['nme_wflw']:.2f}"]
        rows.append([row.name, *_nme(result), *numbers, f"{result['parameters'] / 1e6:.2f} M", row.paper])
    head = "backbone | Common NME | interval | unmerged | WFLW-68 NME | parameters | papers"
    return [
        "## At 256 px",
        "",
        "PIP, stride 32, C = 10, 12 epochs on the same 2,012 faces, augmented as for the shipped weights,",
        "last weights. 12 epochs are too few for a network that starts from random weights; ImageNet",
        "weights of ResNet-18 were not available. The last row starts from a ResNet-18 that learned the",
        "feature maps of the ImageNet MobileNetV2 on 8,622 crops of faces, without labels, in 12 epochs",
        "(`distill_backbone.py`). WFLW-68: its 114 available faces, true boxes.",
        "",
        *table(head.split(" | "), rows),
    ]


def draw(results: dict[str, Any]) -> None:
    """Draw the heads beside the papers' NME, and merged and unmerged points by number of neighbors."""
    heads = [(name, row, paper) for name, row, paper in HEADS if row in results]
    with new_figure(HERE / "heads.png", 10, 3.6, columns=2) as (left, right):
        for i, (_, row, paper) in enumerate(heads):
            nme, (low, high) = results[row]["nme"], results[row]["nme_ci"]
            left.errorbar(nme, i, xerr=[[nme - low], [high - nme]], fmt="o", color=COLORS[0])
            left.plot(paper, i, "D", color=COLORS[1], markerfacecolor="white")
        label_line(left, results[heads[-1][1]]["nme"], len(heads) - 1, "here, 128 px", COLORS[0], (-30, 13))
        label_line(left, heads[-1][2], len(heads) - 1, "v1, 256 px", COLORS[1], (-25, 13))
        left.set_yticks(range(len(heads)), [name for name, *_ in heads])
        left.set_ylim(len(heads) - 0.5, -0.5)
        left.set(xlabel="NME on 300-W (here Common, v1 full), %", xlim=(2.2, None))
        counts = [count for count, row in NEIGHBORS.items() if row in results]
        for key, name, color in (("nme_unmerged", "unmerged", COLORS[1]), ("nme", "merged", COLORS[0])):
            values = [results[NEIGHBORS[count]][key] for count in counts]
            right.plot(counts, values, "o-", color=color)
            label_line(right, counts[-1], values[-1], name, color)
        right.set(xlabel="neighbors C (PIP 4x4, seed 0)", ylabel="NME on 300-W Common, %", xticks=counts)
        right.set(xlim=(-1, 25), ylim=(3.8, 4.3))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).replace("--", "-")


if __name__ == "__main__":
    main()
