"""Make the earlier weights that are trained on unlabeled faces: pipnet-wild-mbv2 and pipnet-tiny.

    python benchmarks/training/earlier_weights/run.py recipes/wild_mbv2.yaml --run RUN --last-width 640
    python benchmarks/training/earlier_weights/run.py recipes/tiny.yaml --run RUN      (a rerun resumes)
    python benchmarks/training/earlier_weights/run.py --report

``--made CHECKPOINT`` only prunes existing wide weights.

The unlabeled faces are those of WIDER, with hand-drawn boxes, and some of LFW's images, whose constant box is
only a region to search.

After the rounds, the network is trained on the labeled faces alone for some epochs: the labels of profile
views come from a fitted 3D model, and pseudo-labels have errors, so that faces like those of 300-W get
slightly worse. If the training started from other weights, old and new weights are then averaged (Wortsman et
al., 2022), with the share that is best on profile views of held-out photos and no worse on the validation
split than the weights before. Then the last layer is pruned (`pipnet.training.prune`), at almost no loss.
Confidence is calibrated on the validation split and the held-out profile views. Writes ``NAME.safetensors``
into the run folder, which stays outside the checkout, and the errors into ``results.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipnet.annotations.samples import FaceSample, split_by_group
from pipnet.datasets.load import load_samples
from pipnet.datasets.registry import DatasetSpec
from pipnet.datasets.unlabeled import load_unlabeled, write_boxes
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.metadata import ModelMetadata
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.pipnet import PIPNet
from pipnet.model.torch_model import TorchModel
from pipnet.training.calibrate import calibrate
from pipnet.training.dataset import FaceDataset
from pipnet.training.prune import prune, pruned_metadata
from pipnet.training.recipe import Recipe, load_recipe
from pipnet.training.self_training import round_recipe, self_train
from pipnet.training.split import load_split
from pipnet.training.trainer import train

sys.path.append(str(Path(__file__).parents[2]))
from _common import (
    COLORS,
    ROOT,
    new_figure,
    new_parser,
    photo_of,
    provenance,
    read_results,
    table,
    write_report,
    write_results,
)

HERE = Path(__file__).parent
TUNING_EPOCHS, TUNING_RATE = 8, 0.4
"""The final training on labeled faces; its learning rate is relative to that of the rounds."""
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the new weights that are tried in the average."""
LICENSE = (
    "research use only: trained on 300-W and 300W-LP's views of it, and on pseudo-labeled images of"
    " WIDER FACE and LFW, all of which are for research"
)


def main() -> None:
    """Prepare the data, train, choose, calibrate, measure; a rerun resumes."""
    parser = new_parser(__doc__)
    parser.add_argument("recipe", type=Path, nargs="?", default=ROOT / "recipes" / "wild_mbv2.yaml")
    parser.add_argument("--run", type=Path, default=Path("run"), help="folder outside the checkout")
    parser.add_argument("--lfw", type=int, default=1500, help="how many of LFW's images")
    parser.add_argument("--last-width", type=int, help="channels of the pruned last layer")
    parser.add_argument("--made", type=Path, help="wide weights to prune, without training")
    parser.add_argument("flags", nargs="*", help="further settings of the recipe")
    arguments = parser.parse_args()
    results = read_results(HERE)
    if not arguments.report:
        name, result = make(arguments)
        results[name] = result
        write_results(HERE, results)
    write_report(HERE, report(results))
    draw_training()


def make(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Write the weights, and return their name and their errors."""
    data, run = arguments.shared / "data", arguments.run
    run.mkdir(parents=True, exist_ok=True)
    recipe, held_out_photos = prepare(arguments, data, run)
    wide = arguments.made or tune(recipe, self_train(recipe, run), run / "tuned")
    network, metadata = load_checkpoint(wide)
    faces, _, spec = load_samples(data / "300w", "train")
    held_out = split_by_group(faces, 0.05, seed=0)[1]
    views, _, views_spec = load_samples(data / "300w_lp_afw", None, metadata.scheme)
    held_out_views = [view for view in views if photo_of(view.image.stem) in held_out_photos]
    averages = {}
    if recipe.initial.checkpoint is not None and arguments.made is None:
        averages = average(
            network, metadata, recipe.initial.checkpoint, (held_out, spec), (held_out_views, views_spec)
        )
    before = measure(network, metadata, data, held_out) | {
        "profile views": nme(network, metadata, held_out_views, views_spec)
    }
    if arguments.last_width is not None:
        training = load_split(recipe).training
        augmented = FaceDataset(training, metadata.scheme, recipe.crop, metadata.input_size, recipe.augment)
        network = prune(network, arguments.last_width, recipe.model.neighbors, augmented)
        metadata = pruned_metadata(metadata, network)
    calibration = calibrate(TorchModel(network, metadata), [*held_out, *held_out_views])
    metadata = replace(metadata, name=recipe.name, license=LICENSE, calibration=calibration)
    save_checkpoint(run / f"{recipe.name}.safetensors", network, metadata)
    return recipe.name, {
        "validation and profile views by share of the new weights": averages,
        "nme, wide": before,
        "nme": measure(network, metadata, data, held_out)
        | {"profile views": nme(network, metadata, held_out_views, views_spec)},
        "training": metadata.training,
        **provenance(),
    }


def prepare(arguments: argparse.Namespace, data: Path, run: Path) -> tuple[Recipe, set[str]]:
    """Return the recipe with its data, and the photos that are held out."""
    flags = ["--data.root", str(data / "300w"), *arguments.flags]
    before = load_recipe(arguments.recipe, flags)
    held_out_photos = link_profiles(data / "300w_lp_afw", run / "profiles", before)
    boxes = run / "boxes.csv"
    if not boxes.is_file():
        write_unlabeled(data / "unlabelled", boxes, arguments.lfw)
    flags += ["--data.also", str(run / "profiles"), "--self-training.unlabeled", str(boxes)]
    return load_recipe(arguments.recipe, flags), held_out_photos


def tune(recipe: Recipe, weights: Path, run: Path) -> Path:
    """Train on the labeled faces alone, from the weights of the last round."""
    return train(
        replace(
            round_recipe(recipe, len(recipe.self_training.tasks) + 1),
            data=replace(recipe.data, also=()),
            initial=replace(recipe.initial, checkpoint=weights),
            optim=replace(recipe.optim, epochs=TUNING_EPOCHS, lr=TUNING_RATE * recipe.optim.lr),
        ),
        run,
        resume=True,
    )


Faces = tuple[Sequence[FaceSample], DatasetSpec]


def average(
    network: PIPNet, metadata: ModelMetadata, before: Path, held_out: Faces, views: Faces
) -> dict[str, tuple[float, float]]:
    """Load the best average of old and new weights into the network; return the NMEs in % of all averages."""
    new = {key: value.clone() for key, value in network.state_dict().items()}
    old = load_checkpoint(before)[0].state_dict()
    mixed = {
        share: {k: torch.lerp(old[k], v, share) if v.is_floating_point() else v for k, v in new.items()}
        for share in SHARES
    }
    tried = {}
    for share, state in mixed.items():
        network.load_state_dict(state)
        tried[share] = (nme(network, metadata, *held_out), nme(network, metadata, *views))
    no_worse = [share for share, (validation, _) in tried.items() if validation <= tried[0.0][0]]
    network.load_state_dict(mixed[min(no_worse, key=lambda share: tried[share][1])])
    return {str(share): errors for share, errors in tried.items()}


def measure(
    network: PIPNet, metadata: ModelMetadata, data: Path, held_out: Sequence[FaceSample]
) -> dict[str, float]:
    """Return NMEs in percent with true boxes on 300-W's validation split, Common, and WFLW as 68 points."""
    common, _, spec = load_samples(data / "300w", "common")
    wflw, _, wflw_spec = load_samples(data / "wflw", None, metadata.scheme, for_evaluation=True)
    return {
        "validation": nme(network, metadata, held_out, spec),
        "common": nme(network, metadata, common, spec),
        "wflw": nme(network, metadata, wflw, wflw_spec),
    }


def nme(network: PIPNet, metadata: ModelMetadata, samples: Sequence[FaceSample], spec: DatasetSpec) -> float:
    """Return the NME in percent with true boxes."""
    landmarker = FaceLandmarker(TorchModel(network, metadata))
    return round(100 * float(evaluate(landmarker, decoded(samples), spec).nmes.mean()), 4)


def link_profiles(source: Path, target: Path, recipe: Recipe) -> set[str]:
    """Link the views of training photos into a folder; return the numbers of the validation photos."""
    validation = load_split(recipe).validation
    held_out_photos = {photo_of(s.image.stem) for s in validation if s.name.startswith("afw/")}
    target.mkdir(exist_ok=True)
    for label in sorted(source.glob("*.pts")):
        for file in (label, label.with_suffix(".jpg")):
            if photo_of(label.stem) not in held_out_photos and not (target / file.name).is_symlink():
                (target / file.name).symlink_to(file.resolve())
    return held_out_photos


def write_unlabeled(source: Path, table: Path, lfw_count: int) -> None:
    """Write one table of both datasets, with their box formats."""
    frames = table.parent / "frames"  # not used: there are no videos
    wider = [replace(face, box_format="face") for face in load_unlabeled(source / "wider", frames)]
    lfw = load_unlabeled(source / "lfw", frames)
    chosen = sorted(np.random.default_rng(0).permutation(len(lfw))[:lfw_count].tolist())
    write_boxes(table, [*wider, *(replace(lfw[i], box_format="region") for i in chosen)])


def report(results: dict[str, Any]) -> list[str]:
    """Return the lines of the page."""
    sets = ("validation", "profile views", "common", "wflw")
    rows = [
        [f"`{name}`", *(_number(result["nme"].get(key)) for key in sets), result.get("commit")]
        for name, result in results.items()
    ]
    return [
        "# Earlier weights",
        "",
        "`pipnet-wild-mbv2` was the default before `pipnet-68`. NME in % of the inter-ocular distance, true",
        "boxes: faces of 300-W and profile views of 300W-LP that were held out of training, 300-W Common,",
        "and WFLW as 68 points.",
        "",
        *table(["weights", "validation", "profile views", "Common", "WFLW-68", "commit"], rows),
        "",
        "Everything that was tried is in `results.json`. Commands are at the top of `run.py`.",
        "",
        "## pipnet-300w-mbv2",
        "",
        "The network that the others start from, by `recipes/300w_mbv2.yaml`: its losses and the NME on the",
        "validation split by epoch are in `pipnet-300w-mbv2.metrics.jsonl`.",
        "",
        "![training of pipnet-300w-mbv2](pipnet-300w-mbv2.curves.png)",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def draw_training() -> None:
    """Draw the loss and the validation NME of pipnet-300w-mbv2."""
    lines = (HERE / "pipnet-300w-mbv2.metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    numbers = [epoch["epoch"] for epoch in epochs]
    with new_figure(HERE / "pipnet-300w-mbv2.curves.png", 9, 3.2, columns=2) as (left, right):
        left.plot(numbers, [epoch["loss"] for epoch in epochs], color=COLORS[0])
        left.set(xlabel="epoch", ylabel="training loss, all parts", yscale="log")
        right.plot(numbers, [epoch["nme"] for epoch in epochs], color=COLORS[0])
        right.set(xlabel="epoch", ylabel="validation NME, %", ylim=(0, None))


if __name__ == "__main__":
    main()
