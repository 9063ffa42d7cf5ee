"""Checkpoints in half precision, as those in ``checkpoints/``: every command reads them like others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.io.image import read_image
from pipnet.model.checkpoint import load_checkpoint, read_checkpoint, start_from
from pipnet.model.pipnet import PIPNet
from pipnet.training.recipe import load_recipe
from pipnet.training.teachers import Teacher
from pipnet.training.trainer import train
from pipnet.warp import crop

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "checkpoints" / "pipnet-tiny.safetensors"
RECIPE = """
workers: 0
precision: float32
data: {validation: 0}
optim: {batch_size: 4, epochs: 1, lr: 0.0001}
"""


def save_as(path: Path, dtype: torch.dtype) -> Path:
    """Write the checkpoint with its floating-point weights in a type."""
    tensors, metadata = read_checkpoint(CHECKPOINT)
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    safetensors.torch.save_file(tensors, path, {"pipnet": metadata.to_json()})
    return path


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A checkpoint in half precision, and one with the same numbers in float32."""
    folder = tmp_path_factory.mktemp("half")
    path = save_as(folder / "half.safetensors", torch.float16)
    tensors, metadata = read_checkpoint(path)
    assert {v.dtype for v in tensors.values() if v.is_floating_point()} == {torch.float16}
    exact = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    safetensors.torch.save_file(exact, folder / "float32.safetensors", {"pipnet": metadata.to_json()})
    return path, folder / "float32.safetensors"


def recipe_of(half_path, small_300w, tmp_path, *flags):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    config = read_checkpoint(half_path)[1].config
    model = [
        word
        for key in ("backbone", "input_size", "neighbors", "last_width")
        if config.get(key) is not None
        for word in (f"--model.{key.replace('_', '-')}", str(config[key]))
    ]
    return load_recipe(path, ["--data.root", str(small_300w), *model, *flags])


def test_load_checkpoint_computes_in_float32(half):
    """A network of a half checkpoint has float32 weights, and those of the file."""
    networks = [load_checkpoint(path)[0] for path in half]
    for a, b in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert a.dtype == b.dtype != torch.float16
        assert torch.equal(a, b)


def test_start_from_reads_half_precision(half):
    states = []
    for path in half:
        _, metadata = read_checkpoint(path)
        network = PIPNet(load_checkpoint(path)[0].config, metadata.mean_face)
        assert start_from(network, path) == []
        states.append(network.state_dict())
    for a, b in zip(*(state.values() for state in states), strict=True):
        assert a.dtype != torch.float16
        assert torch.equal(a, b)


def test_train_starts_from_half_precision(half, small_300w, tmp_path):
    """Fine-tuning starts at the same numbers, and its result is in float32."""
    results = []
    for path in half:
        run = tmp_path / path.stem
        recipe = recipe_of(path, small_300w, tmp_path, "--initial.checkpoint", str(path))
        results.append(read_checkpoint(train(recipe, run))[0])
    for a, b in zip(*(result.values() for result in results), strict=True):
        assert a.dtype != torch.float16
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def exported(half, tmp_path_factory):
    """The export of the checkpoint in half precision."""
    path = tmp_path_factory.mktemp("exported") / "half.onnx"
    assert main(["export", str(half[0]), "-o", str(path)]) == 0
    return path


def test_export_reads_half_precision(half, exported, portrait):
    """The exported network is float32 and predicts what that of the float32 file does."""
    network, metadata = load_checkpoint(half[1])
    shipped = FaceLandmarker("pipnet-tiny")(portrait)
    box = metadata.crop.region(shipped.crop_boxes[0], *shipped.image.shape[1::-1])
    crops = crop(shipped.image, box, metadata.input_size)[None]
    points = OnnxModel(exported)(crops).points
    np.testing.assert_allclose(points, network.eval().predict(torch.from_numpy(crops)).points, atol=1e-4)
    distance = np.abs(FaceLandmarker(exported)(portrait).points - shipped.points)
    assert distance.max() < 0.02 * np.ptp(shipped.points[0], axis=0).max()


def test_evaluate_runs_an_export_of_half_precision(exported, small_300w, tmp_path):
    arguments = ["--data", str(small_300w), "--subset", "challenging", "-o", str(tmp_path / "out")]
    assert main(["evaluate", str(exported), *arguments]) == 0


def test_teacher_reads_half_precision(half, portrait, landmarker):
    image = read_image(portrait)
    box = landmarker(image)[0].box
    scheme = landmarker.model.metadata.scheme
    labels = [Teacher.load(path).label([image], box[None], scheme) for path in half]
    np.testing.assert_array_equal(*labels)


def test_self_training_accepts_a_teacher_in_half_precision(half, small_300w, tmp_path):
    from pipnet.training.self_training import self_train

    unlabeled = ("--self-training.unlabeled", str(small_300w / "afw"), "--self-training.tasks", "full")
    flags = (*unlabeled, "--self-training.teacher", str(half[0]), "--initial.pretrained=false")
    recipe = recipe_of(half[0], small_300w, tmp_path, *flags)
    weights = self_train(replace(recipe, name="half"), tmp_path / "run", 1)
    assert weights.parent.name == "round1"


def test_load_official_reads_half_precision(tmp_path):
    """The authors' checkpoint in half precision gives the network of the same numbers in float32."""
    from pipnet.papers.authors_weights import load_official
    from test_authors_weights import AuthorsNetwork, N, face

    torch.manual_seed(0)
    half_state = AuthorsNetwork("mobilenetv2_100").half().state_dict()
    np.savetxt(tmp_path / "meanface.txt", face(N).reshape(1, -1))
    states = []
    for name, state in (("half", half_state), ("exact", {k: v.float() for k, v in half_state.items()})):
        torch.save(state, tmp_path / f"{name}.pth")
        model, _ = load_official(
            tmp_path / f"{name}.pth", tmp_path / "meanface.txt", "cofw", "mobilenetv2_100"
        )
        states.append(model.state_dict())
    for a, b in zip(*(state.values() for state in states), strict=True):
        assert a.dtype != torch.float16
        assert torch.equal(a, b)
