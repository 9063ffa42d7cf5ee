"""How the shipped weights are made: label, train, tune, calibrate.

    python benchmarks/training/weights/run.py --runs RUNS pipnet-68          (resumes; Ctrl-C at any time)
    python benchmarks/training/weights/run.py --runs RUNS2 --round 2 --start START pipnet-68 --
        --initial.checkpoint START          (again for round 3; for round 4 also --optim.epochs 14 --seed 1,
        and the labels of round 3: copy RUNS3/pipnet-68/labels)
    python benchmarks/training/weights/run.py --runs RUNS2 pipnet-98 -- --initial.checkpoint START
        --optim.epochs 10
    python benchmarks/training/weights/run.py --runs RUNS2 --start START pipnet-tiny -- --optim.epochs 10
        --optim.lr 7e-4          (then twice more with --round 2, each time from the weights before, with the
        labels of pipnet-68's round 3: --optim.epochs 40 --optim.lr 7e-4 --augment.rotate_by 35
        --augment.downscale 0.2 --augment.stretch 0.1, and --seed 1 the second time)

    START is RUNS/pipnet-68/pipnet-68.safetensors of the round before, for the other networks of round 1.

1. Teachers (the Apache-2.0 networks of ``recipes/teachers``, and for 68 points ``--start``, by default the
  default before this one) label HELEN, WIDER and LFW; for 98 points also 300-W's training images, whose
  labels are not used.
2. The recipe trains on these. Networks of 68 points also train on 300-W without its label offset and without
   the three duplicates of test faces, on people 1 to 300 of CFP, and, in round 1, on 300W-LP's views of AFW
   photos that are not validated on. In later rounds the weights of the one before are a teacher, and the
   views are left out: in round 1 the final training without them lowered the NME on the validation split by
   0.04 and on CFP by 0.3.
3. Networks of 68 points train a few more epochs on the labeled faces alone. They are kept if the NME on the
   validation split and on people 301 to 350 of CFP, each as a ratio to that before, is lower on the mean.
4. Confidence is calibrated on faces that nothing was trained on: the validation split, and for 68 points the
  300W-LP views of its photos, and people 301 to 350 of CFP.

Writes ``NAME.safetensors`` into the run folder, which stays outside the checkout, and ``NAME.json`` beside
this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipnet.annotations.samples import FaceSample, evenly_spaced, split_by_group, without_label_offset
from pipnet.datasets.load import load_samples
from pipnet.datasets.registry import DatasetSpec
from pipnet.datasets.unlabeled import UnlabeledFace, load_unlabeled, write_boxes
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.geometry import tight_box
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.load import load_model
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.torch_model import TorchModel
from pipnet.scheme import LandmarkScheme
from pipnet.training.calibrate import calibrate
from pipnet.training.recipe import Recipe, load_recipe
from pipnet.training.self_training import LABELS, teach
from pipnet.training.teachers import Teacher
from pipnet.training.trainer import train

sys.path.append(str(Path(__file__).parents[2]))
from _common import earlier_checkpoint, provenance

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ROUND_2 = {
    "--optim.epochs": "7",
    "--optim.lr": "2.5e-4",
    "--augment.rotate_by": "45",
    "--augment.downscale": "0.3",
    "--augment.stretch": "0.2",
}
"""Settings of the second and later rounds, unless others are given: fewer epochs at a lower rate, and harder
views of the faces."""
BOX_FORMATS = {"helen": "yunet", "wider": "face", "lfw": "region"}
"""Box formats of the unlabeled folders."""
TUNE_EPOCHS, TUNE_RATE = 6, 1e-4
"""Epochs and learning rate of the final training on labeled faces."""
DATA = "300-W, 300W-LP's views of it, CFP, and pseudo-labeled images of HELEN, WIDER FACE and LFW"


class Model(NamedTuple):
    """A network that ships."""

    recipe: str
    scheme: str
    is_labeled: bool
    """Whether datasets with labels of its landmarks are here; otherwise teachers label 300-W's images too."""
    data: str = DATA
    start: str = ""
    """Earlier checkpoint that round 1 starts from."""


MODELS = {
    "pipnet-68": Model("pipnet_68.yaml", "300w", True, start="pipnet-wild-mbv2"),
    "pipnet-98": Model(
        "pipnet_98.yaml", "wflw", False, "pseudo-labeled images of 300-W, HELEN, WIDER FACE and LFW"
    ),
    "pipnet-tiny": Model("pipnet_tiny.yaml", "300w", True, start="pipnet-tiny"),
}


def main() -> None:
    """Run the missing steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--runs", type=Path, required=True, help="folder outside the checkout")
    parser.add_argument(
        "--start", type=Path, help="our own teacher; if not given, the weights before the first round"
    )
    parser.add_argument("--round", type=int, choices=(1, 2), default=1, help="2: also all later ones")
    parser.add_argument("--lfw", type=int, default=2000, help="how many of LFW's images")
    parser.add_argument("flags", nargs="*", help="further settings of the recipe")
    arguments = parser.parse_args()
    model, data = MODELS[arguments.model], arguments.shared.resolve() / "data"
    run = arguments.runs.resolve() / arguments.model
    run.mkdir(parents=True, exist_ok=True)
    teachers = [str(path) for path in sorted((ROOT / "recipes" / "teachers").glob("*.toml"))]
    if model.is_labeled:
        teachers.append(str(arguments.start or earlier_checkpoint("pipnet-wild-mbv2-wide")))
    flags = [
        "--pseudo.labels",
        str(label(unlabeled_faces(data, run, arguments.lfw), run / "labels", teachers, model)),
    ]
    views, held_out_views = link_views(data, run / "views")
    if model.is_labeled:
        flags += ["--data.root", str(data / "300w"), "--data.also", str(data / "cfp_profile")]
        settings = ROUND_2
        if arguments.round == 1:
            start = earlier_checkpoint(model.start)
            settings = {"--data.also": str(views), "--initial.checkpoint": str(start)}
        flags += [word for item in settings.items() if item[0] not in arguments.flags for word in item]
    else:
        table = label(faces_without_labels(data), run / "labels_300w", teachers, model)
        flags += ["--data.root", str(table), "--data.scheme", model.scheme]
    recipe = load_recipe(ROOT / "recipes" / model.recipe, [*flags, *arguments.flags])
    weights = train(recipe, run / "train", resume=True)
    result = {"trained": measure(weights, data, recipe)}
    if model.is_labeled:
        tuned = train(tuning(recipe, weights), run / "tune", resume=True)
        result["tuned"] = measure(tuned, data, recipe)
        ratios = [result["tuned"][key] / result["trained"][key] for key in ("validation", "CFP val")]
        weights = tuned if np.mean(ratios) < 1 else weights
    network, metadata = load_checkpoint(weights)
    faces = held_out(recipe)[0]
    if model.is_labeled:
        faces += [*held_out_views, *load_samples(data / "cfp_profile", "val")[0]]
    metadata = replace(
        metadata,
        name=recipe.name,
        license=f"research use only: trained on {model.data}, all of which are for research; teachers:"
        " Apache-2.0 networks" + (" and earlier weights" if model.is_labeled else ""),
        calibration=calibrate(TorchModel(network, metadata), faces),
    )
    save_checkpoint(run / f"{recipe.name}.safetensors", network, metadata)
    results = {**result, "chosen": weights.parent.name, "training": metadata.training, **provenance()}
    (HERE / f"{recipe.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def unlabeled_faces(data: Path, run: Path, lfw: int) -> list[UnlabeledFace]:
    """Return the faces of the unlabeled folders."""
    faces: list[UnlabeledFace] = []
    for folder, box_format in BOX_FORMATS.items():
        loaded = load_unlabeled(data / "unlabelled" / folder, run / "frames")
        chosen = evenly_spaced(loaded, lfw) if folder == "lfw" else loaded
        faces += [replace(face, box_format=box_format) for face in chosen]
    return faces


def faces_without_labels(data: Path) -> list[UnlabeledFace]:
    """Return 300-W's training faces as unlabeled ones with their landmark boxes."""
    samples, _, _ = load_samples(data / "300w", "train-deduplicated")
    moved = [without_label_offset(sample) for sample in samples]
    return [UnlabeledFace(s.image, tight_box(s.points), s.name, "landmarks") for s in moved]


def label(faces: Sequence[UnlabeledFace], folder: Path, teachers: Sequence[str], model: Model) -> Path:
    """Label faces by the teachers, unless that is done, and return the table."""
    if not (folder / LABELS).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_boxes(folder / "boxes.csv", faces)
        locator, scheme = load_model(find_model(DEFAULT_MODEL)), LandmarkScheme.load(model.scheme)
        teach([Teacher.load(name) for name in teachers], [folder / "boxes.csv"], folder, scheme, locator)
    return folder / LABELS


def tuning(recipe: Recipe, weights: Path) -> Recipe:
    """Return the training on labeled faces alone that starts from these weights."""
    return replace(
        recipe,
        name=f"{recipe.name}-tuned",
        pseudo=replace(recipe.pseudo, labels=None),
        data=replace(recipe.data, also=recipe.data.also[:1]),  # without the views, which a model fitted
        initial=replace(recipe.initial, checkpoint=weights),
        optim=replace(recipe.optim, epochs=TUNE_EPOCHS, lr=TUNE_RATE),
    )


def held_out(recipe: Recipe) -> tuple[list[FaceSample], DatasetSpec]:
    """Return the validation faces of the recipe, and the dataset that they are from."""
    assert recipe.data.root is not None
    faces, _, spec = load_samples(recipe.data.root, recipe.data.subset, recipe.data.scheme)
    chosen = split_by_group(faces, recipe.data.validation, seed=0)[1]
    return [without_label_offset(face) for face in chosen], spec


def link_views(data: Path, folder: Path) -> tuple[Path, list[FaceSample]]:
    """Return a folder of the 300W-LP views to train on, and those of photos that are validated on."""
    faces, _, _ = load_samples(data / "300w", "train-deduplicated")
    validated = split_by_group(faces, 0.05, seed=0)[1]
    photos = {photo_of(face.image.stem) for face in validated if face.name.startswith("afw/")}
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


def measure(weights: Path, data: Path, recipe: Recipe) -> dict[str, float]:
    """Return NMEs in percent from true boxes; those of tests choose nothing."""
    network, metadata = load_checkpoint(weights)
    landmarker = FaceLandmarker(TorchModel(network, metadata))

    def nme(samples: Sequence[FaceSample], spec: DatasetSpec) -> tuple[float, float]:
        errors = evaluate(landmarker, decoded(samples), spec, norm=spec.norm)
        filed, removed = (np.nanmean(part, axis=1).mean() for part in (errors.pixels, errors.offset_removed))
        return round(100 * float(filed), 4), round(100 * float(removed), 4)

    result = {"validation": nme(*held_out(recipe))[1]}
    tests = {"WFLW": ("wflw", "test")}
    if metadata.scheme.name == "300w":
        tests |= {
            "CFP val": ("cfp_profile", "val"),
            "Common": ("300w", "common"),
            "Challenging": ("300w", "challenging"),
            "CFP test": ("cfp_profile", "test"),
        }
    for title, (folder, subset) in tests.items():
        samples, _, spec = load_samples(data / folder, subset, metadata.scheme, for_evaluation=True)
        filed, removed = nme(samples, spec)
        result[title] = filed
        if removed != filed:
            result[f"{title}, offset removed"] = removed
    return result


if __name__ == "__main__":
    main()
