"""Training in several processes equals that in one: real processes on a CPU, started by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from pipnet.errors import PipnetError, RecipeError
from pipnet.model import distributed
from pipnet.model.distributed import all_reduce_mean, count_per_rank, sync_batch_norm
from pipnet.training.recipe import load_recipe
from pipnet.training.self_training import self_train
from pipnet.training.trainer import train

DOUBLE = """
import sys
import torch
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
from pipnet.cli import main
sys.exit(main())
"""
NOISE = 1e-9
"""Tolerated relative difference of losses and errors in float64 (measured: 1e-13). In float32 the order of
sums alone changes the loss of an untrained network by 0.4 % within six steps, and the NME by 0.7 %."""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same(some: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert a[key] == pytest.approx(b[key], rel=NOISE), key


@pytest.mark.slow
def test_train_in_two_processes_equals_one(small_recipe_file, small_300w, tmp_path):
    """One process trains; two processes train an epoch and one resumes: the results are equal in float64."""
    double = tmp_path / "double.py"
    double.write_text(DOUBLE)
    alone, run = tmp_path / "alone", tmp_path / "run"
    command = [str(double), "train", str(small_recipe_file), "--data", str(small_300w), "-o"]
    done = run_python(*command, str(alone))
    assert done.returncode == 0, done.stderr
    done = run_python(*TORCHRUN, *command, str(run), "--max-steps", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/2") == 1  # only rank zero prints
    assert done.stderr.count("export it: ") == 1
    assert json.loads((run / "environment.jsonl").read_text())["world_size"] == 2
    assert_same(rows(run), rows(alone)[:1])

    done = run_python(*command, str(run), "--resume")
    assert done.returncode == 0, done.stderr
    assert_same(rows(run), rows(alone))
    resumed, uninterrupted = (safetensors.torch.load_file(path / "last.safetensors") for path in (run, alone))
    # Except for pure rounding noise, such as in weights without influence, which Adam amplifies.
    torch.testing.assert_close(resumed, uninterrupted, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_train_ends_in_one_line_if_another_rank_fails(small_recipe_file, small_300w, tmp_path):
    """Rank zero cannot write; the other rank loses its peer in the middle of a training."""
    run = tmp_path / "run"
    (run / "metrics.jsonl").mkdir(parents=True)
    command = ["-m", "pipnet", "train", str(small_recipe_file), "--data", str(small_300w), "-o", str(run)]
    done = run_python(*TORCHRUN, *command)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any("metrics" in line for line in errors)
    assert all("metrics" in line or "another process" in line for line in errors)
    assert "pipnet/training/trainer.py" not in done.stderr  # no traceback of pipnet


def test_train_refuses_batch_not_divisible_by_world_size(
    small_recipe_file, small_300w, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RecipeError, match="batch_size 4 is not divisible by 3 processes"):
        train(load_recipe(small_recipe_file, ["--data.root", str(small_300w)]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "size", "expected", "message"),
    [
        (
            torch.distributed.DistNetworkError("gone"),
            2,
            PipnetError,
            "another process of this training failed",
        ),
        (RuntimeError("[gloo] closed"), 2, PipnetError, "another process of this training failed"),
        (RuntimeError("[gloo] closed"), 1, RuntimeError, "gloo"),
        (RuntimeError("other"), 2, RuntimeError, "other"),
    ],
)
def test_train_reports_the_failure_of_another_rank(
    small_recipe_file, small_300w, tmp_path, monkeypatch, error, size, expected, message
):
    """The rank that loses its peer ends with one line; other errors keep their traceback."""

    def fail(*_):
        raise error

    monkeypatch.setattr("pipnet.training.trainer.Trainer", fail)
    monkeypatch.setattr(distributed, "world_size", lambda: size)
    with pytest.raises(expected, match=message) as raised:
        train(load_recipe(small_recipe_file, ["--data.root", str(small_300w)]), tmp_path / "run")
    assert type(raised.value) is expected


def test_self_train_refuses_several_processes(small_recipe_file, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        self_train(load_recipe(small_recipe_file), tmp_path)


# -- parts, with two ranks simulated in one process -------------------------------------------------------


def test_sync_batch_norm_equals_the_complete_batch(monkeypatch):
    """Every rank has the same half of the batch, so the mean over ranks is that of the half."""
    monkeypatch.setattr(distributed, "_is_initialized", lambda: True)
    monkeypatch.setattr(distributed.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(3, 5, 4, 4, generator=generator) * 3 + 7
    weights = torch.randn(half.shape, generator=generator)
    synced, plain = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    for norm in (synced, plain):
        norm.load_state_dict({**norm.state_dict(), "weight": torch.linspace(0.5, 2, 5)})
    x = half.clone().requires_grad_()
    with sync_batch_norm():
        y = synced(x)
    (y * weights).sum().backward()
    whole = torch.cat([half, half]).requires_grad_()
    expected = plain(whole)
    (expected * torch.cat([weights, weights])).sum().backward()
    torch.testing.assert_close(y, expected[:3])
    torch.testing.assert_close(x.grad, whole.grad[:3], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(synced.state_dict(), plain.state_dict())
    with sync_batch_norm():
        torch.testing.assert_close(synced.eval()(half), plain.eval()(half))
    assert count_per_rank(torch.tensor(6)) == 6  # per rank
    assert count_per_rank(torch.tensor(0)) == 0.5


def test_distributed_functions_change_nothing_in_one_process():
    values = torch.ones(3, requires_grad=True)
    assert all_reduce_mean(values) is values
    assert count_per_rank(torch.tensor(0)) == 1
    with sync_batch_norm():
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        assert torch.equal(F.batch_norm(x, None, None, training=True), nn.BatchNorm1d(2)(x))
