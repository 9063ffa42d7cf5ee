"""How ``pipnet-wild-mbv2`` was made: 300-W, profile views, and faces nobody labelled; and what it is worth.

    python benchmarks/wild.py --shared ../shared --run RUN        (resumes; Ctrl-C at any time)

Unlabelled are all WIDER faces, whose boxes are people's, and 1,500 of LFW's pictures, whose one constant box
is only a place to look. Of 300W-LP's profile views, which are made from AFW's photos, those of photos in the
validation split are left out. Runs stay outside the checkout.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipnet.data.samples import split_by_group
from pipnet.data.sources import load_faces
from pipnet.data.unlabelled import load_unlabelled, write_boxes
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.predictor import TorchModel
from pipnet.training.faces import load_training_faces
from pipnet.training.recipe import Recipe, load_recipe
from pipnet.training.self_training import self_train
from unlabelled import photo_of

RECIPE = Path(__file__).parents[1] / "recipes" / "wild_mbv2.yaml"
LFW = 1500


def main() -> None:
    """Prepare what is not there yet, and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=RECIPE.parents[2] / "shared")
    parser.add_argument("--run", type=Path, required=True, help="folder outside the checkout")
    parser.add_argument("flags", nargs="*", help="further settings of the recipe")
    arguments = parser.parse_args()
    data, run = arguments.shared / "data", arguments.run
    run.mkdir(parents=True, exist_ok=True)
    flags = ["--data.root", str(data / "300w"), *arguments.flags]
    link_profiles(data / "300w_lp_afw", run / "profiles", load_recipe(RECIPE, flags))
    boxes = run / "boxes.csv"
    if not boxes.is_file():
        write_unlabelled(data / "unlabelled", boxes)
    flags += ["--data.also", str(run / "profiles"), "--self-training.unlabelled", str(boxes)]
    recipe = load_recipe(RECIPE, flags)
    network, info = load_checkpoint(self_train(recipe, run))
    weights = run / f"{recipe.name}.safetensors"
    save_checkpoint(weights, network, replace(info, name=recipe.name))
    assert recipe.self_training.teacher is not None
    ways = {path: measure(path, data) for path in (recipe.self_training.teacher, weights)}
    result = {load_checkpoint(path)[1].name: nmes for path, nmes in ways.items()}
    (Path(__file__).parent / "wild.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(weights: Path, data: Path) -> dict[str, float]:
    """NME in percent from true boxes, on 300-W's validation split, Common, and WFLW as 68 points."""
    network, info = load_checkpoint(weights)
    landmarker = FaceLandmarker(TorchModel(network, info))
    training, _, source = load_faces(data / "300w", "train")
    common, _, _ = load_faces(data / "300w", "common")
    wflw, _, other = load_faces(data / "wflw", None, info.scheme, measuring=True)
    faces = {
        "validation": (split_by_group(training, 0.05, seed=0)[1], source),
        "common": (common, source),
        "wflw": (wflw, other),
    }
    return {
        name: round(100 * float(evaluate(landmarker, decoded(samples), of).nmes.mean()), 4)
        for name, (samples, of) in faces.items()
    }


def link_profiles(source: Path, target: Path, recipe: Recipe) -> None:
    """A folder of the views of photos that are not validated on."""
    own = load_training_faces(recipe)
    kept_out = {photo_of(s.image.stem) for s in own.validation if s.name.startswith("afw/")}
    target.mkdir(exist_ok=True)
    for label in sorted(source.glob("*.pts")):
        for file in (label, label.with_suffix(".jpg")):
            if photo_of(label.stem) not in kept_out and not (target / file.name).is_symlink():
                (target / file.name).symlink_to(file.resolve())


def write_unlabelled(source: Path, table: Path) -> None:
    """One table of both collections, which says what their boxes are."""
    nowhere = table.parent / "frames"
    wider = [replace(face, kind="face") for face in load_unlabelled(source / "wider", nowhere)]
    lfw = load_unlabelled(source / "lfw", nowhere)
    chosen = np.random.default_rng(0).permutation(len(lfw))[:LFW]
    write_boxes(table, [*wider, *(replace(lfw[i], kind="rough") for i in sorted(chosen.tolist()))])


if __name__ == "__main__":
    main()
