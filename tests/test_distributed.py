"""Several processes train as one does: real ones, on a CPU, started by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipnet.errors import RecipeError
from pipnet.model import processes
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.processes import mean_over_processes, shared_count, synchronised_batch_norm
from pipnet.training.recipe import load_recipe
from pipnet.training.self_training import self_train
from pipnet.training.trainer import train

SMALL = """
name: small
workers: 0
precision: float32
data: {validation: 0.3}
initial: {pretrained: false}
model: {backbone: lcnet_050, input_size: 64, neighbors: 3}
optim: {batch_size: 4, epochs: 2, lr: 0.002}
"""
NOISE = 1e-3
"""Relative difference of losses and errors that the order of sums makes in two epochs (measured: 1e-5)."""


def together(count: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of pipnet in several processes."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "pipnet"]
    return subprocess.run(
        [sys.executable, *start, *words],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_alike(some: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert a[key] == pytest.approx(b[key], rel=NOISE), key


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def alone(recipe_file, small_300w, tmp_path_factory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train(load_recipe(recipe_file, ["--data.root", str(small_300w)]), run)
    return run


def test_two_processes_train_as_one_and_one_goes_on(recipe_file, small_300w, alone, tmp_path):
    """The first epoch by two processes, the second by one: both as if by one."""
    run = tmp_path / "run"
    words = ["train", str(recipe_file), "--data", str(small_300w), "-o", str(run)]
    done = together(2, *words, "--max-steps", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/2") == 1  # one speaks
    assert done.stderr.count("make it runnable") == 1
    assert_alike(rows(run), rows(alone)[:1])
    environment = json.loads((run / "environment.jsonl").read_text())
    assert environment["processes"] == 2

    train(load_recipe(recipe_file, ["--data.root", str(small_300w)]), run, resume=True)
    assert_alike(rows(run), rows(alone))
    assert rows(run)[1]["nme"] != rows(run)[0]["nme"]
    mine, theirs = (load_checkpoint(path / "last.safetensors")[0].state_dict() for path in (run, alone))
    for name, tensor in mine.items():
        if "running" in name:  # statistics of batch norm: of whole batches, not of their parts
            torch.testing.assert_close(tensor, theirs[name], rtol=0.01, atol=1e-3)


def test_bad_numbers_of_processes_are_one_line_each(recipe_file, small_300w, tmp_path):
    run = tmp_path / "run"
    done = together(3, "train", str(recipe_file), "--data", str(small_300w), "-o", str(run))
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert ours
    assert set(ours) == {"error: optim.batch_size 4 is not divisible by 3 processes"}
    assert not run.exists()


def test_a_process_that_fails_ends_the_others_with_a_line(recipe_file, small_300w, tmp_path):
    """The main process cannot write; the other one is left alone in the middle of a training."""
    run = tmp_path / "run"
    (run / "last.safetensors.partial").mkdir(parents=True)
    done = together(2, "train", str(recipe_file), "--data", str(small_300w), "-o", str(run))
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any("last.safetensors.partial" in line for line in ours)
    assert all("last.safetensors.partial" in line or "another process" in line for line in ours)
    assert "pipnet/training/trainer.py" not in done.stderr  # no traceback of ours


def test_self_training_in_several_processes_is_refused(recipe_file, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        self_train(load_recipe(recipe_file), tmp_path)


# -- the parts, with two processes played by one ---------------------------------------------------------


def test_batch_norm_over_processes_is_that_of_the_whole_batch(monkeypatch):
    """Every process has the same half, so that the mean over processes is the own: as two such halves."""
    monkeypatch.setattr(processes, "_together", lambda: True)
    monkeypatch.setattr(processes.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(processes.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(3, 5, 4, 4, generator=generator) * 3 + 7
    weights = torch.randn(half.shape, generator=generator)
    here, there = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    for norm in (here, there):
        norm.load_state_dict({**norm.state_dict(), "weight": torch.linspace(0.5, 2, 5)})
    x = half.clone().requires_grad_()
    with synchronised_batch_norm():
        y = here(x)
    (y * weights).sum().backward()
    whole = torch.cat([half, half]).requires_grad_()
    expected = there(whole)
    (expected * torch.cat([weights, weights])).sum().backward()
    torch.testing.assert_close(y, expected[:3])
    torch.testing.assert_close(x.grad, whole.grad[:3], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(here.state_dict(), there.state_dict())
    with synchronised_batch_norm():
        torch.testing.assert_close(here.eval()(half), there.eval()(half))
    assert shared_count(torch.tensor(6)) == 6  # per process
    assert shared_count(torch.tensor(0)) == 0.5


def test_one_process_is_left_as_it_is():
    values = torch.ones(3, requires_grad=True)
    assert mean_over_processes(values) is values
    assert shared_count(torch.tensor(0)) == 1
    with synchronised_batch_norm():
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        assert torch.equal(F.batch_norm(x, None, None, training=True), nn.BatchNorm1d(2)(x))
    assert np.isfinite(values.detach().numpy()).all()
