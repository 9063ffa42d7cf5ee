"""How the shipped 68-point weights are made: label, train, tune, calibrate.

    python benchmarks/training/weights/run.py --runs RUNS          (resumes; Ctrl-C at any time)

1. Teachers (the Apache-2.0 networks of ``recipes/teachers`` and the default before this one) label HELEN,
   WIDER and LFW.
2. ``recipes/pipnet_68.yaml`` trains on these, on 300-W without its label offset and without the three
   duplicates of test faces, on people 1 to 300 of CFP, and on 300W-LP's views of AFW photos that are not
   validated on.
3. A few more epochs on the labeled faces alone. They are kept if the NME on the validation split and on
   people 301 to 350 of CFP, as the mean of the ratios to those before, is lower.
4. Confidence is calibrated on held-out faces: the validation split, the 300W-LP views of
   its photos, and people 301 to 350 of CFP.

Writes ``NAME.safetensors`` into the run folder, which stays outside the checkout, and ``NAME.json`` beside
this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipnet.annotations.samples import FaceSample, evenly_spaced, split_by_group, without_label_offset
from pipnet.datasets.load import load_samples
from pipnet.datasets.registry import DatasetSpec
from pipnet.datasets.unlabeled import load_unlabeled, write_boxes
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.load import load_model
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.scheme import LandmarkScheme
from pipnet.training.calibrate import calibrate
from pipnet.training.recipe import Recipe, load_recipe
from pipnet.training.self_training import teach
from pipnet.training.teachers import Teacher
from pipnet.training.trainer import train

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
OWN_TEACHER = ROOT / "checkpoints" / "pipnet-wild-mbv2-wide.safetensors"
BOX_FORMATS = {"helen": "yunet", "wider": "face", "lfw": "region"}
"""Box formats of the unlabeled folders."""
TUNE_EPOCHS, TUNE_RATE = 6, 0.2
"""The final training on labeled faces; its learning rate is relative to that of the recipe."""
LICENSE = (
    "research use only: trained on 300-W, 300W-LP's views of it, CFP, and pseudo-labeled images of HELEN,"
    " WIDER FACE and LFW, all of which are for research; teachers: Apache-2.0 networks and earlier weights"
)


def main() -> None:
    """Run the missing steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--runs", type=Path, required=True, help="folder outside the checkout")
    parser.add_argument("--lfw", type=int, default=2000, help="how many of LFW's images")
    parser.add_argument("flags", nargs="*", help="further settings of the recipe")
    arguments = parser.parse_args()
    data, run = arguments.shared.resolve() / "data", arguments.runs.resolve()
    run.mkdir(parents=True, exist_ok=True)
    table = run / "labels" / "pseudo_labels.csv"
    if not table.is_file():
        label(data, run, arguments.lfw)
    views, held_out_views = link_views(data, run / "views")
    flags = ["--data.root", str(data / "300w"), "--pseudo.labels", str(table)]
    flags += ["--data.also", str(views), "--data.also", str(data / "cfp_profile"), *arguments.flags]
    recipe = load_recipe(ROOT / "recipes" / "pipnet_68.yaml", flags)
    trained = train(recipe, run / "train", resume=True)
    tuned = train(tuning(recipe, trained), run / "tune", resume=True)
    result = {name: measure(path, data) for name, path in (("trained", trained), ("tuned", tuned))}
    gain = np.mean([result["tuned"][key] / result["trained"][key] for key in ("validation", "CFP val")])
    chosen = "tuned" if gain < 1 else "trained"
    network, metadata = load_checkpoint(tuned if chosen == "tuned" else trained)
    profiles, _, _ = load_samples(data / "cfp_profile", "val")
    faces = [*held_out(data), *held_out_views, *profiles]
    calibration = calibrate(TorchModel(network, metadata), faces)
    metadata = replace(metadata, name=recipe.name, license=LICENSE, calibration=calibration)
    save_checkpoint(run / f"{recipe.name}.safetensors", network, metadata)
    results = {**result, "chosen": chosen, "training": metadata.training, **provenance()}
    (HERE / f"{recipe.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def label(data: Path, run: Path, lfw: int) -> None:
    """Label all unlabeled faces by the teachers."""
    faces = []
    for folder, box_format in BOX_FORMATS.items():
        loaded = load_unlabeled(data / "unlabelled" / folder, run / "frames")
        chosen = evenly_spaced(loaded, lfw) if folder == "lfw" else loaded
        faces += [replace(face, box_format=box_format) for face in chosen]
    write_boxes(run / "boxes.csv", faces)
    teachers = [Teacher.load(path) for path in sorted((ROOT / "recipes" / "teachers").glob("*.toml"))]
    teachers.append(Teacher.load(OWN_TEACHER))
    locator = load_model(find_model(DEFAULT_MODEL))
    teach(teachers, [run / "boxes.csv"], run / "labels", LandmarkScheme.load("300w"), locator)


def tuning(recipe: Recipe, weights: Path) -> Recipe:
    """Return the training on labeled faces alone that starts from these weights."""
    return replace(
        recipe,
        name=f"{recipe.name}-tuned",
        pseudo=replace(recipe.pseudo, labels=None),
        data=replace(
            recipe.data, also=recipe.data.also[1:]
        ),  # without the views, whose labels come from a fitted 3D model
        initial=replace(recipe.initial, checkpoint=weights),
        optim=replace(recipe.optim, epochs=TUNE_EPOCHS, lr=TUNE_RATE * recipe.optim.lr),
    )


def held_out(data: Path) -> list[FaceSample]:
    """Return the validation faces of the recipe."""
    faces, _, _ = load_samples(data / "300w", "train-deduplicated")
    return [without_label_offset(face) for face in split_by_group(faces, 0.05, seed=0)[1]]


def link_views(data: Path, folder: Path) -> tuple[Path, list[FaceSample]]:
    """Return a folder of the 300W-LP views to train on, and those of photos that are validated on."""
    photos = {photo_of(face.image.stem) for face in held_out(data) if face.name.startswith("afw/")}
    views, _, _ = load_samples(data / "300w_lp_afw", None, "300w")
    folder.mkdir(exist_ok=True)
    for view in views:
        for file in (view.image, view.image.with_suffix(".pts")):
            link = folder / file.name
            if photo_of(view.image.stem) not in photos and not link.is_symlink():
                link.symlink_to(file.resolve())
    return folder, [view for view in views if photo_of(view.image.stem) in photos]


def photo_of(stem: str) -> str:
    """Return AFW's number of a face's photo: ``AFW_134212_1_5`` and ``134212_2`` are of 134212."""
    return stem.removeprefix("AFW_").split("_")[0]


def measure(weights: Path, data: Path) -> dict[str, float]:
    """Return NMEs in percent with true boxes; those of tests are not used for choices."""
    network, metadata = load_checkpoint(weights)
    landmarker = FaceLandmarker(TorchModel(network, metadata))

    def nme(samples: Sequence[FaceSample], spec: DatasetSpec) -> tuple[float, float]:
        errors = evaluate(landmarker, decoded(samples), spec, norm=spec.norm)
        filed, removed = (np.nanmean(part, axis=1).mean() for part in (errors.pixels, errors.offset_removed))
        return round(100 * float(filed), 4), round(100 * float(removed), 4)

    _, _, w300 = load_samples(data / "300w", "common")
    result = {"validation": nme(held_out(data), w300)[1]}
    for title, (folder, subset) in {
        "CFP val": ("cfp_profile", "val"),
        "Common": ("300w", "common"),
        "Challenging": ("300w", "challenging"),
        "WFLW-68": ("wflw", "test"),
        "CFP test": ("cfp_profile", "test"),
    }.items():
        samples, _, spec = load_samples(data / folder, subset, metadata.scheme, for_evaluation=True)
        filed, removed = nme(samples, spec)
        result[title] = filed
        if removed != filed:
            result[f"{title}, offset removed"] = removed
    return result


def provenance() -> dict[str, str]:
    """Return commit and machine."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    return {"commit": commit, "machine": torch.cpu.get_capabilities().get("cpu_name") or platform.processor()}


if __name__ == "__main__":
    main()
