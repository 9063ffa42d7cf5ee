"""Devices of a training: types of numbers, workers, determinism. A GPU is mocked by its answers."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipnet.errors import RecipeError
from pipnet.inference.predict import predict_crops
from pipnet.io.image import read_image
from pipnet.model.checkpoint import load_checkpoint
from pipnet.model.device import autocast_dtype, convolution_settings, torch_device
from pipnet.model.torch_model import TorchModel
from pipnet.training.augment import Augmentation
from pipnet.training.dataset import FaceDataset
from pipnet.training.recipe import differences, load_recipe
from pipnet.training.runtime import resolve_workers, training_settings
from pipnet.training.trainer import Trainer, train
from pipnet.training.validation import face_errors

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "checkpoints" / "pipnet-tiny.safetensors"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RECIPE = """
workers: 0
precision: float32
data: {validation: 0.3}
initial: {pretrained: false}
model: {backbone: lcnet_050, input_size: 64, neighbors: 3}
optim: {batch_size: 4, epochs: 2, lr: 0.002}
"""


@pytest.fixture
def recipe(small_300w, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return load_recipe(path, ["--data.root", str(small_300w)])


class FakeGpu:
    """A GPU of a compute capability, by what torch says about it."""

    def __init__(self, monkeypatch, capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)

        def is_bf16_supported(including_emulation=True):
            return including_emulation or capability[0] >= 8

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((9, 0), torch.bfloat16),
        ((8, 6), torch.bfloat16),
        ((7, 5), torch.float16),  # a T4 would emulate bf16
        ((6, 1), torch.float32),
    ],
)
def test_autocast_dtype_follows_the_gpu(monkeypatch, capability, dtype):
    FakeGpu(monkeypatch, capability)
    assert torch_device() == CUDA
    assert autocast_dtype("auto", CUDA) == dtype
    assert autocast_dtype("float32", CUDA) == torch.float32
    assert autocast_dtype("bf16", CUDA) == torch.bfloat16
    assert autocast_dtype("float16", CUDA) == torch.float16


def test_autocast_dtype_on_a_cpu(recipe, tmp_path):
    assert autocast_dtype("auto", CPU) in (torch.bfloat16, torch.float32)
    assert autocast_dtype("bf16", CPU) == torch.bfloat16
    if torch_device() == CPU:
        with pytest.raises(RecipeError, match="float16 is for a GPU: use bf16 or float32"):
            train(replace(recipe, precision="float16"), tmp_path / "run")


def test_resolve_workers_fits_the_machine(monkeypatch):
    monkeypatch.setattr("pipnet.training.runtime.available_cores", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert resolve_workers("auto", CPU) == 1
    assert resolve_workers("auto", CUDA) == 11
    assert [resolve_workers(n, device) for n in (0, 5) for device in (CPU, CUDA)] == [0, 0, 5, 5]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert resolve_workers("auto", CUDA) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert resolve_workers("auto", CUDA) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr("pipnet.training.runtime.available_cores", lambda: 128)
    assert resolve_workers("auto", CUDA) == 16


def test_trainer_uses_the_recipes_workers(recipe, tmp_path):
    """A loader for a GPU pins its memory; one for the CPU, which would only warn, does not."""
    trainer = Trainer(replace(recipe, workers="auto"), tmp_path / "run")
    assert trainer.workers == resolve_workers("auto", torch_device())
    assert trainer.loader.num_workers == trainer.workers
    assert trainer.loader.pin_memory == (trainer.device.type == "cuda")
    setup = json.loads((tmp_path / "run" / "environment.jsonl").read_text())
    assert (setup["device"], setup["workers"]) == (str(trainer.device), trainer.workers)


def test_training_settings_are_restored(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    with training_settings():
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with training_settings(deterministic=False):
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert torch.are_deterministic_algorithms_enabled() == before
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with training_settings():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def cudnn_flags():
    cudnn = torch.backends.cudnn
    return cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32


def test_convolution_settings_are_those_of_a_gpu():
    """The flags can be set and read where no GPU is."""
    before = cudnn_flags()
    with convolution_settings(CPU, deterministic=True, exact=True):
        assert cudnn_flags() == before
    with convolution_settings(CUDA, deterministic=True, exact=True):
        assert cudnn_flags() == (False, True, False)
    with convolution_settings(CUDA, deterministic=False, exact=False):
        assert cudnn_flags() == (True, False, True)
    assert cudnn_flags() == before


def test_train_may_resume_with_another_determinism(recipe, tmp_path):
    train(recipe, tmp_path / "run", max_steps=2)
    other = replace(recipe, deterministic=False, workers="auto")
    assert differences(recipe.to_dict(), other.to_dict()) == []
    assert train(other, tmp_path / "run", resume=True).is_file()


def test_deterministic_changes_nothing_on_a_cpu(recipe, tmp_path):
    runs = [train(replace(recipe, deterministic=flag), tmp_path / str(flag)).parent for flag in (True, False)]
    a, b = ((run / "last.safetensors").read_bytes() for run in runs)
    assert torch_device() == CUDA or a == b


def test_face_errors_are_the_same_in_any_batches(recipe, tmp_path):
    """Each face keeps its place: the errors of batches of one, four and all are those of the same faces."""
    trainer = Trainer(recipe, tmp_path / "run")
    dataset = FaceDataset(
        trainer.split.training, trainer.split.scheme, recipe.crop, 64, Augmentation.none(), 0
    )
    model, faces = trainer.model.eval(), [5, 0, 3, 8, 1]
    results = []
    for size in (1, 4, 5):
        chunks = [faces[i : i + size] for i in range(0, 5, size)]
        batches = [
            [
                torch.from_numpy(np.stack(part))
                for part in [*zip(*map(dataset.__getitem__, chunk), strict=True)][:2]
            ]
            for chunk in chunks
        ]
        results.append(face_errors(model, dataset, faces, batches, trainer.device))
    assert len(set(results[0])) == 5
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-3)
    assert face_errors(model, dataset, [], (), trainer.device) == []


class Transfers(torch.overrides.TorchFunctionMode):
    """Counts what makes the processor wait for a GPU: values that are read from tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        waits = (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy)
        self.count += func in (*waits, torch.Tensor.__float__, torch.Tensor.__bool__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("head", ["pip", "map", "coord"])
def test_train_step_reads_no_value_from_the_device(recipe, tmp_path, head):
    model = replace(recipe.model, head=head, neighbors=3 if head == "pip" else 0)
    model = replace(model, stride=4 if head == "map" else 32)
    trainer = Trainer(replace(recipe, model=model), tmp_path / "run")
    batch = next(iter(trainer.loader))
    trainer._train_step(*batch)  # the first one makes the optimizer's state
    with Transfers() as transfers:
        terms = trainer._train_step(*batch)
        assert transfers.count == 0
        float(terms["loss"].detach())
        assert transfers.count == 1  # the mode works


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torch_model_runs_in_a_type(portrait, landmarker, dtype):
    image = read_image(portrait)
    box = landmarker(image)[0].box
    exact = predict_crops(TorchModel(*load_checkpoint(CHECKPOINT)), [image], [box[None]])
    other = TorchModel(*load_checkpoint(CHECKPOINT), dtype).to(torch_device())
    prediction = predict_crops(other, [image], [box[None]])
    assert prediction.points.dtype == np.float32
    np.testing.assert_allclose(prediction.points, exact.points, atol=0.05 * float((box[2:] - box[:2]).max()))
    assert np.array_equal(prediction.points, exact.points) == (dtype == torch.float32 and other.device == CPU)
