"""An exported or quantized model predicts the same as the network."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipnet import DataError, FaceLandmarker, ModelError
from pipnet.cli import main
from pipnet.export.onnx import export_onnx
from pipnet.export.quantize import calibration_crops, quantize_onnx
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.io.image import read_image, write_image
from pipnet.model.checkpoint import save_checkpoint
from pipnet.model.config import ModelConfig
from test_atomic import max_file_size

MEAN = {"backbone": "test_efficientnet"}
SETTINGS = [MEAN, {"merge": "official", "score_loss": "focal"}, {"neighbors": 0}]


@pytest.fixture(scope="module")
def exported(exported_network):
    return exported_network(**MEAN)


def crops(count: int, size: int = 128) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_export_onnx_equals_torch_for_any_batch(exported_network, settings):
    model, path = exported_network(**settings)
    for batch in (1, 7, 64):
        image = crops(batch)
        out, expected = OnnxModel(path)(image), model.predict(torch.from_numpy(image))
        np.testing.assert_allclose(out.points, expected.points, atol=1e-4)
        np.testing.assert_allclose(out.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(out.vote_std, expected.vote_std, atol=1e-4)


@pytest.mark.parametrize("shift", [20.0, -1e30, float("nan")])
def test_export_refuses_weights_of_a_diverged_training(shift, mean_face_checkpoint, tmp_path, capsys):
    checkpoint = mean_face_checkpoint(ModelConfig("lcnet_050", 64, neighbors=3), shift=shift)
    target = tmp_path / "model.onnx"
    assert main(["export", str(checkpoint), "-o", str(target)]) == 1
    error = capsys.readouterr().err
    assert "68 of 68 landmarks of a drawn face are not within ten crops, such as jaw_0" in error
    assert "lower optim.lr" in error
    assert not target.exists()


def test_export_onnx_has_documented_interface(exported):
    _, path = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(uint8)", [128, 128, 3])
    assert [o.name for o in session.get_outputs()] == ["landmarks", "scores", "vote_std"]
    assert isinstance(image.shape[0], str), "the batch size is dynamic"
    metadata = session.get_modelmeta().custom_metadata_map
    assert set(metadata) == {"pipnet", "license"}
    assert OnnxModel(path).metadata.config["backbone"] == "test_efficientnet"


def test_onnx_model_without_crops_returns_no_landmarks(exported):
    out = OnnxModel(exported[1])(crops(0))
    assert out.points.shape == (0, 68, 2)


def test_onnx_alone_example_equals_pipnet(landmarker, portrait):
    root = Path(__file__).parents[1]
    arguments = [str(landmarker.model.path), str(portrait), "178", "63", "267", "175"]
    command = [sys.executable, "-I", str(root / "examples" / "onnx_alone.py"), *arguments]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    expected = landmarker(portrait, boxes=[[178, 63, 267, 175]])[0]
    np.testing.assert_allclose(result["points"], expected.points, atol=0.3)
    np.testing.assert_allclose(result["scores"], expected.scores, atol=0.05)


def test_onnx_alone_example_supports_stretched_and_clipped_crops(landmarker, portrait, tmp_path):
    model = onnx.load(landmarker.model.path)
    (entry,) = [p for p in model.metadata_props if p.key == "pipnet"]
    table = json.loads(entry.value)
    table["crop"] |= {"square": False, "clip": True, "scale": 1.4}
    entry.value = json.dumps(table)
    onnx.save(model, tmp_path / "stretched.onnx")
    photo, box = tmp_path / "photo.png", [178, -9, 267, 103]
    write_image(photo, read_image(portrait)[72:])  # the crop ends at the image's upper border
    root = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-I",
        str(root / "examples" / "onnx_alone.py"),
        str(tmp_path / "stretched.onnx"),
    ]
    done = subprocess.run([*command, str(photo), *map(str, box)], capture_output=True, text=True, check=True)
    landmarker = FaceLandmarker(tmp_path / "stretched.onnx")
    expected = landmarker(photo, boxes=[box])[0]
    assert np.abs(json.loads(done.stdout)["points"] - expected.points).mean() < 0.25, done.stdout


def test_export_onnx_half_is_half_the_size(exported, tmp_path):
    model, path = exported
    metadata = OnnxModel(path).metadata
    export_onnx(model, metadata, tmp_path / "half.onnx", half=True)
    assert (tmp_path / "half.onnx").stat().st_size < 0.62 * path.stat().st_size
    a, b = OnnxModel(path)(crops(8)), OnnxModel(tmp_path / "half.onnx")(crops(8))
    assert np.median(np.abs(a.points - b.points)) < 1e-3


def test_export_command_writes_atomically(exported_network, tmp_path, monkeypatch, capsys):
    """The network is traced once; what fails is the writing."""
    model, path = exported_network(neighbors=0)
    trace, programs = torch.onnx.export, []

    def trace_once(*arguments, **options):
        if not programs:
            programs.append(trace(*arguments, **options))
        return programs[0]

    monkeypatch.setattr(torch.onnx, "export", trace_once)
    checkpoint = tmp_path / "a.safetensors"
    save_checkpoint(checkpoint, model, OnnxModel(path).metadata)
    assert main(["export", str(checkpoint)]) == 0
    image = crops(2)
    np.testing.assert_array_equal(OnnxModel(tmp_path / "a.onnx")(image).points, OnnxModel(path)(image).points)
    assert main(["export", str(tmp_path / "none.safetensors")]) == 1
    assert main(["export", str(checkpoint), "-o", "/dev/null/a.onnx"]) == 1
    assert capsys.readouterr().err.count("error: ") == 2
    with max_file_size(100_000):
        assert main(["export", str(checkpoint)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'a.onnx'}: cannot be written: File too large\n"
    np.testing.assert_array_equal(OnnxModel(tmp_path / "a.onnx")(image).points, OnnxModel(path)(image).points)
    assert {file.name for file in tmp_path.iterdir()} == {"a.safetensors", "a.onnx"}


@pytest.mark.parametrize(
    ("name", "faces", "size", "integer_layers"),
    [("pipnet-tiny", 3, 0.95, 44), pytest.param("pipnet-68", 200, 0.8, 51, marks=pytest.mark.slow)],
)
def test_export_int8_keeps_landmarks(
    name, faces, size, integer_layers, small_300w, portrait, tmp_path, monkeypatch
):
    """On real weights and faces: a third of the size, and landmarks hardly move."""
    monkeypatch.setattr("pipnet.export.quantize.FACES", faces)
    checkpoint = Path(f"checkpoints/{name}.safetensors")
    small = tmp_path / "int8.onnx"
    assert main(["export", str(checkpoint), "--int8", "--data", str(small_300w), "-o", str(small)]) == 0
    assert small.stat().st_size < size * checkpoint.stat().st_size, "the checkpoint is in half precision"
    assert OnnxModel(small).metadata.name == f"{name}-int8"
    box = [[178, 63, 267, 175]]
    model = OnnxModel(small)
    a, b = FaceLandmarker(model)(portrait, box), FaceLandmarker(name)(portrait, box)
    side = (b.points[0].max(axis=0) - b.points[0].min(axis=0)).max()
    distance = np.linalg.norm(a.points - b.points, axis=2).mean() / side
    assert 0 < distance < 0.015
    compiled = onnxruntime.SessionOptions()
    compiled.optimized_model_filepath = str(tmp_path / "compiled.onnx")
    compiled.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(small), compiled, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "compiled.onnx").graph.node)
    assert kinds["QLinearConv"] == integer_layers, "all convolutions but the last two are in integers"
    assert kinds["Conv"] + kinds["FusedConv"] == 2


def test_export_int8_refuses_missing_requirements(exported, small_300w, tmp_path, capsys):
    assert main(["export", "a.safetensors", "--int8"]) == 1
    assert main(["export", "a.safetensors", "--data", str(small_300w)]) == 1
    assert capsys.readouterr().err.count("use --int8 and --data together") == 2
    assert main(["export", "a.safetensors", "--int8", "--half", "--data", str(small_300w)]) == 1
    assert "leave --half out" in capsys.readouterr().err
    good = tmp_path / "good.onnx"
    good.write_bytes(b"an earlier file")
    command = ["export", "checkpoints/pipnet-tiny.safetensors", "--int8", "--data", str(tmp_path / "none")]
    assert main([*command, "-o", str(good)]) == 1
    assert good.read_bytes() == b"an earlier file"
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not an ONNX model"):
        quantize_onnx(other, other, crops(1))
    with pytest.raises(DataError, match="no faces"):
        calibration_crops(OnnxModel(exported[1]).metadata, [])
