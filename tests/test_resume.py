"""Resuming a training: the weights equal those of one without interruption, and nothing is overwritten."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipnet.errors import ModelError, PipnetError, RecipeError, WriteError
from pipnet.model.checkpoint import load_checkpoint, save_checkpoint
from pipnet.training.initial_model import build_model
from pipnet.training.recipe import load_recipe
from pipnet.training.trainer import Trainer, train
from test_training import assert_same_weights, metrics

pytestmark = pytest.mark.usefixtures("no_curves")


def test_train_resumes_network_with_random_numbers(small_recipe_file, small_300w, tmp_path, monkeypatch):
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
    recipe = load_recipe(small_recipe_file, ["--data.root", str(small_300w), "--workers", "1"])
    train(recipe, tmp_path / "uninterrupted")
    train(recipe, tmp_path / "parts", max_steps=2)
    train(recipe, tmp_path / "parts", resume=True)
    assert drawn.count(True) == 8  # the steps of both trainings
    assert_same_weights(tmp_path / "uninterrupted", tmp_path / "parts")


def test_train_refuses_resume_with_other_mean_face(small_recipe_file, first_epoch_run, small_300w, tmp_path):
    """The neighbors follow from the mean face of the initial checkpoint: without it, they differ."""
    network, metadata = load_checkpoint(first_epoch_run / "last.safetensors")
    swapped = replace(metadata, mean_face=metadata.mean_face[:, ::-1].copy())
    save_checkpoint(tmp_path / "swapped.safetensors", network, swapped)
    flags = ["--data.root", str(small_300w), "--workers", "0"]
    more = ["--initial.checkpoint", str(tmp_path / "swapped.safetensors")]
    train(load_recipe(small_recipe_file, [*flags, *more]), tmp_path / "run", max_steps=2)
    with pytest.raises(RecipeError, match="the mean face of initial.checkpoint"):
        train(load_recipe(small_recipe_file, flags), tmp_path / "run", resume=True)


def test_train_interrupted_while_saving_and_resumed_equals_uninterrupted(
    small_recipe, finished_run, resumable_run, monkeypatch
):
    """The weights and metrics of the second epoch are written, its state is not."""

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_state", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(small_recipe, resumable_run, resume=True)
    assert len(metrics(resumable_run)) == 2
    train(small_recipe, resumable_run, resume=True)
    assert_same_weights(resumable_run, finished_run)
    assert [row["epoch"] for row in metrics(resumable_run)] == [1, 2]


@pytest.mark.slow
def test_train_killed_and_resumed_equals_uninterrupted(small_recipe_file, small_300w, tmp_path):
    flags = ["--data.root", str(small_300w), "--optim.epochs", "4"]
    uninterrupted = train(load_recipe(small_recipe_file, flags), tmp_path / "uninterrupted")
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "pipnet", "train", str(small_recipe_file), "--data", str(small_300w)]
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
    assert_same_weights(run, uninterrupted.parent)
    assert [row["epoch"] for row in metrics(run)] == [1, 2, 3, 4]


def test_train_mentions_saved_files_only_if_there_are_any(small_recipe, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/run")):
        with pytest.raises(WriteError) as error:
            train(small_recipe, folder)
        assert "saved files" not in str(error.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_train_explains_that_memory_is_not_enough(error, small_recipe, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(PipnetError, match="not enough memory: lower optim.batch_size, or workers"):
        train(small_recipe, tmp_path / "run")


def test_train_does_not_overwrite_a_training(small_recipe, small_recipe_file, small_300w, resumable_run):
    with pytest.raises(RecipeError, match="--resume"):
        train(small_recipe, resumable_run)
    flags = ["--data.root", str(small_300w), "--workers", "1"]
    with pytest.raises(RecipeError, match=r"another recipe; it differs in optim\.lr$"):
        train(load_recipe(small_recipe_file, [*flags, "--optim.lr", "1"]), resumable_run, resume=True)
    assert Trainer(load_recipe(small_recipe_file, flags), resumable_run, resume=True).epoch == 1


def test_train_stopped_within_an_epoch_restarts(small_recipe, tmp_path):
    """There is no state to resume from within an epoch."""
    run = tmp_path / "run"
    train(small_recipe, run, max_steps=1)
    assert not (run / "last.pt").exists()
    assert "1 step of 2 epochs" in load_checkpoint(run / "last.safetensors")[1].training
    with pytest.raises(RecipeError, match=r"holds a training \(.*safetensors\)"):
        train(small_recipe, run)  # it has weights
    train(small_recipe, run, resume=True)
    assert [row["step"] for row in metrics(run)] == [2, 4]
    with pytest.raises(RecipeError, match="max_steps must be at least 1, not 0"):
        train(small_recipe, tmp_path / "other", max_steps=0)


def test_trainer_keeps_best_weights_of_the_saved_state(small_recipe, resumable_run):
    """The best weights within an unfinished epoch are not those of the state that a resume starts from."""
    before = (resumable_run / "best.safetensors").read_bytes()
    trainer = Trainer(small_recipe, resumable_run, resume=True)
    trainer.epoch, trainer.step = 2, 3
    (row,) = metrics(resumable_run)
    trainer._save({**row, "nme": row["nme"] / 2, "epoch": 2, "step": 3})
    assert (resumable_run / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "without keys"])
def test_train_refuses_damaged_state_in_one_line(small_recipe, tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    if content is None:
        torch.save({"epoch": 1}, run / "last.pt")
    else:
        (run / "last.pt").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be resumed from") as error:
        train(small_recipe, run, resume=True)
    assert "\n" not in str(error.value)


def test_train_resumes_with_a_cut_off_row_of_metrics(small_recipe, resumable_run):
    with (resumable_run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    train(small_recipe, resumable_run, resume=True)
    assert [row["epoch"] for row in metrics(resumable_run)] == [1, 2]


def test_train_runs_no_code_of_a_state(small_recipe, resumable_run, tmp_path):
    witness = tmp_path / "witness"

    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(witness)!r}, 'w').close()",))

    torch.save(Hostile(), resumable_run / "last.pt")
    with pytest.raises(ModelError, match="cannot be resumed from") as error:
        train(small_recipe, resumable_run, resume=True)
    assert "\n" not in str(error.value)
    assert not witness.exists()


def test_train_states_how_to_continue_a_finished_training(
    small_recipe_file, small_300w, finished_run, tmp_path
):
    further = load_recipe(small_recipe_file, ["--data.root", str(small_300w), "--optim.epochs", "3"])
    with pytest.raises(
        RecipeError, match=r"differs in optim\.epochs\. .* is finished: .*initial\.checkpoint"
    ):
        train(further, finished_run, resume=True)
    initial = replace(further.initial, checkpoint=finished_run / "best.safetensors")
    train(replace(further, initial=initial), tmp_path / "further", max_steps=1)
