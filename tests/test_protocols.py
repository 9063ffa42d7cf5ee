"""v1's protocols with removed labels: which faces stay labeled, and what is written."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.annotations.samples import FaceSample
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.datasets.pseudo_labels import read_pseudo_labels
from pipnet.errors import RecipeError
from pipnet.model.config import ModelConfig
from pipnet.papers.protocols import EvaluationSet, tmd, tsd
from pipnet.training.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("no_curves")

ROOT = Path(__file__).parents[1]
CONFIG = ModelConfig("lcnet_050", input_size=64, stride=64, neighbors=0, reduction="coordinates")
RECIPE = """
name: protocol
workers: 0
precision: float32
data: {{validation: 0}}
initial: {{checkpoint: {checkpoint}}}
model: {{backbone: lcnet_050, input_size: 64, stride: 64, neighbors: 0, reduction: coordinates}}
optim: {{batch_size: 2, epochs: 1, lr: 0.002, ema: null}}
self_training: {{tasks: [full]}}
"""
"""Networks that learn one prediction for all faces, so that their pseudo-labels are always usable."""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory, mean_face_checkpoint):
    path = tmp_path_factory.mktemp("recipe") / "protocol.yaml"
    path.write_text(RECIPE.format(checkpoint=mean_face_checkpoint(CONFIG)))
    return path


def test_tsd_command_labels_the_unlabeled_faces(recipe_file, small_300w, tmp_path):
    run = tmp_path / "run"
    command = [
        "protocol",
        "tsd",
        str(recipe_file),
        "--data",
        str(small_300w),
        "--share",
        "0.5",
        "-o",
        str(run),
    ]
    assert main([*command, "--test", f"{small_300w}:challenging", "--test", str(small_300w)]) == 0
    table = (run / "results.md").read_text()
    assert re.search(r"\| 50% of the labels \| round1 \| [\d.]+ \| [\d.]+ \|", table)
    assert "| | round | 300-W challenging | 300-W common |" in table
    assert (run / "results.png").stat().st_size > 1000
    summary = json.loads((run / "share0.5" / "results.json").read_text())
    assert (summary["labeled"], summary["unlabeled"]) == (6, 6)
    with (run / "share0.5" / "boxes.csv").open() as file:
        unlabeled = {row["image"].split("/", 1)[1] for row in csv.DictReader(file)}
    assert len(unlabeled) == 6
    labels = (run / "share0.5" / "round1" / "pseudo_labels.csv").read_text()
    assert len(labels.splitlines()) == 7


class StoppedError(Exception):
    """Raised instead of training."""


def choose_labels(recipe, share: float, run: Path, monkeypatch) -> tuple[int, str]:
    """Return how many faces TSD keeps the labels of, and the table of the others, without training."""

    def stop(limited, *_):
        raise StoppedError(limited.data.limit)

    monkeypatch.setattr("pipnet.papers.protocols.self_train", stop)
    with pytest.raises(StoppedError) as stopped:
        tsd(recipe, share, run, [EvaluationSet(recipe.data.root, None)])
    return stopped.value.args[0], (run / "boxes.csv").read_text()


def test_tsd_chooses_labels_by_seed(recipe_file, small_300w, tmp_path, monkeypatch):
    texts = []
    for number, seed in enumerate(("0", "0", "1")):
        recipe = load_recipe(recipe_file, ["--data.root", str(small_300w), "--seed", seed])
        texts.append(choose_labels(recipe, 0.5, tmp_path / str(number), monkeypatch)[1])
    assert texts[0] == texts[1] != texts[2]


def test_tsd_share_is_of_the_limited_faces(recipe_file, small_300w, tmp_path, monkeypatch):
    recipe = load_recipe(recipe_file, ["--data.root", str(small_300w), "--data.limit", "8"])
    labeled, unlabeled = choose_labels(recipe, 0.5, tmp_path / "run", monkeypatch)
    assert (labeled, len(unlabeled.splitlines())) == (4, 1 + 4)


def test_tsd_refuses_impossible_shares_before_training(recipe_file, small_300w, tmp_path, capsys):
    command = ["protocol", "tsd", str(recipe_file), "--data", str(small_300w), "-o", str(tmp_path / "run")]
    assert main([*command, "--share", "0.5", "--share", "1.5"]) == 1
    assert "between 0 and 1, not 1.5" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tmd_errors_are_in_widths_of_crops(recipe_file, small_300w, mean_face_checkpoint, tmp_path):
    flags = ["--data.root", str(small_300w), "--data.scheme", "aflw"]
    flags += ["--initial.checkpoint", str(mean_face_checkpoint(CONFIG, "aflw"))]
    results = tmd(
        load_recipe(recipe_file, flags),
        [small_300w],
        tmp_path / "run",
        [EvaluationSet(small_300w, "common")],
        1,
    )
    assert list(results) == ["round0", "round1"]
    summary = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (summary["norm"], summary["unlabeled"]) == ("width", len(load_samples(small_300w, "train")[0]))
    assert all(np.isfinite(row["300-W common"]) for row in results.values())
    labels = (tmp_path / "run" / "round1" / "pseudo_labels.csv").read_text()
    assert len(labels.splitlines()) == 1 + summary["unlabeled"]
    # Faces that lost their labels have their landmark boxes; a table of boxes needs no labels.
    table = tmp_path / "run" / "boxes.csv"
    with table.open() as file:
        assert {row["box_format"] for row in csv.DictReader(file)} == {"landmarks"}
    again = tmd(
        load_recipe(recipe_file, flags), [table], tmp_path / "again", [EvaluationSet(small_300w, "common")], 1
    )
    assert again == results
    lines = table.read_text().splitlines(keepends=True)
    (tmp_path / "fewer").mkdir()
    (tmp_path / "fewer" / "boxes.csv").write_text("".join(lines[:-1]))
    with pytest.raises(RecipeError, match="other unlabeled faces"):
        tmd(load_recipe(recipe_file, flags), [tmp_path / "fewer"], tmp_path / "again", [])


def test_protocols_keep_the_crops_of_v1(recipe_file, small_300w, mean_face_checkpoint, tmp_path):
    common = [EvaluationSet(small_300w, "common")]
    flags = ["--data.root", str(small_300w), "--data.paper-crops", "v1", "--crop.no-square", "--crop.clip"]
    tsd(load_recipe(recipe_file, flags), 0.5, tmp_path / "tsd", common, 1)
    flags += ["--data.scheme", "aflw", "--initial.checkpoint", str(mean_face_checkpoint(CONFIG, "aflw"))]
    tmd(load_recipe(recipe_file, flags), [small_300w], tmp_path / "tmd", common, 1)
    for run in ("tsd", "tmd"):
        with (tmp_path / run / "boxes.csv").open() as file:
            assert {row["box_format"] for row in csv.DictReader(file)} == {"crop"}
        labels = read_pseudo_labels(tmp_path / run / "round1" / "pseudo_labels.csv")
        assert all(label.sample.crop_box is not None for label in labels)


def test_tmd_searches_images_without_boxes_and_uses_a_teacher(recipe_file, small_300w, portrait, tmp_path):
    (tmp_path / "list.txt").write_text(f"{portrait}\n")
    checkpoint = ROOT / "checkpoints" / "pipnet-68.safetensors"
    flags = ["--data.root", str(small_300w), "--self-training.teacher", str(checkpoint)]
    recipe = load_recipe(recipe_file, flags)
    results = tmd(recipe, [tmp_path / "list.txt"], tmp_path / "run", [EvaluationSet(small_300w, "common")])
    assert list(results) == ["teacher", "round1"]
    assert results["teacher"]["300-W common"] < 3  # in widths of the crop
    labels = (tmp_path / "run" / "round1" / "pseudo_labels.csv").read_text()
    assert len(labels.splitlines()) == 2


def test_tsd_tests_on_own_annotations(recipe_file, small_300w, tmp_path):
    samples, scheme, _ = load_samples(small_300w, "full")
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    moved = []
    for number, sample in enumerate(samples):
        image = tmp_path / "images" / f"{number}{sample.image.suffix}"
        shutil.copy(sample.image, image)
        name = f"images/{image.name}"
        attributes = frozenset({"test"}) if number < 3 else frozenset()
        moved.append(FaceSample(image, sample.points, name, name, attributes=attributes))
    table = tmp_path / "labels" / "labels.csv"
    write_annotations(table, Annotations(moved, scheme.landmark_names))
    flags = ["--data.root", str(table), "--data.images", str(tmp_path), "--data.scheme", "300w"]
    results = tsd(
        load_recipe(recipe_file, flags), 0.5, tmp_path / "run", [EvaluationSet(table, None)], max_steps=1
    )
    assert list(results) == ["round0", "round1"]


def test_tsd_names_the_teacher_in_the_results(recipe_file, small_300w, tmp_path):
    checkpoint = ROOT / "checkpoints" / "pipnet-68.safetensors"
    command = ["protocol", "tsd", str(recipe_file), "--data", str(small_300w), "--share", "0.5"]
    more = ["--self-training.teacher", str(checkpoint), "--max-steps", "1", "-o", str(tmp_path / "run")]
    assert main([*command, *more]) == 0
    table = (tmp_path / "run" / "results.md").read_text()
    assert "| teacher |" in table
    assert "| round1 |" in table


def test_protocol_refuses_wrong_arguments(recipe_file, small_300w, tmp_path, capsys):
    command = ["protocol", "tsd", str(recipe_file), "--data", str(small_300w), "-o", str(tmp_path / "run")]
    assert main([*command, "--share", "0"]) == 1
    assert "share of the labels must be between 0 and 1" in capsys.readouterr().err
    assert main(["protocol", "tmd", str(recipe_file), "--data", str(small_300w), "-o", "x"]) == 2
    command += ["--share", "0.5", "--self-training.unlabeled", str(tmp_path)]
    assert main(command) == 1
    assert "a protocol chooses its unlabeled faces itself" in capsys.readouterr().err
