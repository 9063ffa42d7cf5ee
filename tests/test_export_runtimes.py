"""Export for other runtimes: models that end at the maps, and OpenVINO's own format."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from pipnet import FaceLandmarker, ModelError, PipnetError
from pipnet.cli import main
from pipnet.config import RuntimeConfig
from pipnet.export.score_maps import export_score_maps
from pipnet.hub import packaged_models
from pipnet.inference.backends.load import load_model
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.io.image import read_image, write_image
from pipnet.model.checkpoint import save_checkpoint
from pipnet.warp import crop

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "export"


@pytest.fixture(scope="module")
def decode():
    """The function of the documentation, as it is printed there."""
    text = (ROOT / "docs" / "export.md").read_text()
    (code,) = re.findall(r"```python\n(import numpy as np\n.*?)```", text, re.DOTALL)
    namespace = {}
    exec(code, namespace)
    return namespace["decode"]


@pytest.fixture(scope="module")
def real_crops(landmarker, portrait):
    """Crops around a real face, as a detector's inexact boxes would cut them."""
    image, (box,) = read_image(portrait), landmarker(portrait).crop_boxes
    regions = [box + shift for shift in ([0, 0, 0, 0], [8, -6, 8, -6], [-30, -30, 40, 40], [-5, 9, -5, 9])]
    metadata = landmarker.model.metadata
    shapes = [metadata.crop.region(np.float32(region), *image.shape[1::-1]) for region in regions]
    return lambda size: np.stack([crop(image, region, size) for region in shapes])


def maps_of(path, crops):
    """The outputs of a model that ends at the maps, for each crop."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for image in crops:
        outputs = session.run(None, {"image": image.transpose(2, 0, 1)[None].astype(np.float32)})
        yield dict(zip(names, (output[0] for output in outputs), strict=True))


def assert_same(full, path, crops, decode):
    expected, constants = full(crops), json.loads(path.with_suffix(".json").read_text())
    size = full.metadata.input_size
    for i, maps in enumerate(maps_of(path, crops)):
        points, scores, vote_std = decode(maps, constants)
        assert np.abs(points - expected.points[i]).max() * size < 0.01
        np.testing.assert_allclose(scores, expected.scores[i], atol=1e-4)
        np.testing.assert_allclose(vote_std, expected.vote_std[i], atol=1e-3)


@pytest.mark.parametrize("name", ["pipnet-68", "pipnet-tiny", "pipnet-98"])
def test_score_maps_of_a_shipped_model_decode_to_its_landmarks(name, real_crops, decode, tmp_path):
    path = tmp_path / "maps.onnx"
    assert main(["export", name, "--format", "scores", "-o", str(path)]) == 0
    full = OnnxModel(packaged_models()[name], "cpu")
    assert_same(full, path, real_crops(full.metadata.input_size), decode)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {"Gather", "GatherElements", "GatherND", "ArgMax", "Cast", "Einsum", "Transpose"}
    table = json.loads(path.with_suffix(".json").read_text())
    assert table["metadata"]["license"] == full.metadata.license


def test_score_maps_of_a_format_1_model_decode_to_its_landmarks(real_crops, decode, tmp_path):
    source = Path(__file__).parent / "format1" / "model.onnx"
    export_score_maps(source, tmp_path / "maps.onnx")
    full = OnnxModel(source, "cpu")
    assert_same(full, tmp_path / "maps.onnx", real_crops(full.metadata.input_size), decode)


@pytest.mark.parametrize(
    "settings",
    [
        {"merge": "official", "score_loss": "focal"},
        {"neighbors": 0},
        {"stride": 16, "neighbors": 3},
        {"stride": 64},
    ],
    ids=str,
)
def test_score_maps_of_other_networks_decode_to_their_landmarks(settings, exported_network, decode, tmp_path):
    _, full = exported_network(**settings)
    export_score_maps(full, tmp_path / "maps.onnx")
    crops = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    assert_same(OnnxModel(full, "cpu"), tmp_path / "maps.onnx", crops, decode)


def test_documented_decode_is_that_of_the_examples():
    text = (ROOT / "docs" / "export.md").read_text()
    (code,) = re.findall(r"```python\nimport numpy as np\n(.*?)```", text, re.DOTALL)
    assert code.strip() in (EXAMPLES / "decode.py").read_text()


def test_export_scores_refuses_models_without_maps(exported_network, tmp_path):
    with pytest.raises(ModelError, match="full precision"):
        export_score_maps(packaged_models()["pipnet-68-int8"], tmp_path / "maps.onnx")
    _, coord = exported_network(input_size=64, neck_width=16, head="coord")
    with pytest.raises(ModelError, match="no Pixel-in-Pixel head"):
        export_score_maps(coord, tmp_path / "maps.onnx")
    export_score_maps(packaged_models()["pipnet-tiny"], tmp_path / "maps.onnx")
    with pytest.raises(ModelError, match="ends at the maps"):
        FaceLandmarker(tmp_path / "maps.onnx", device="cpu")


def test_export_openvino_of_a_checkpoint_equals_onnx(exported_network, real_crops, tmp_path):
    pytest.importorskip("openvino")
    network, onnx_file = exported_network(neighbors=0)
    checkpoint, full = tmp_path / "a.safetensors", OnnxModel(onnx_file, "cpu")
    save_checkpoint(checkpoint, network, full.metadata)
    assert main(["export", str(checkpoint), "--format", "openvino"]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"a.safetensors", "a.xml", "a.bin"}
    crops = real_crops(128)
    result, expected = load_model(tmp_path / "a.xml", RuntimeConfig())(crops), full(crops)
    np.testing.assert_allclose(result.points, expected.points, atol=1e-4)
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-4)
    with pytest.raises(PipnetError, match="use the backend openvino"):
        load_model(tmp_path / "a.xml", RuntimeConfig(backend="onnxruntime"))


@pytest.mark.parametrize("model", ["pipnet-tiny", "pipnet-68-int8"])
def test_export_openvino_of_a_shipped_model(model, portrait, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    assert main(["export", model, "--format", "openvino", "--half"]) == 0
    box = [[178, 63, 267, 175]]
    expected = FaceLandmarker(model, backend="openvino")(portrait, box)
    result = FaceLandmarker(f"{model}.xml")(portrait, box)
    assert np.linalg.norm(result.points - expected.points, axis=2).mean() < 0.1


def test_export_names_files_after_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "pipnet-tiny", "--format", "scores"]) == 0
    (tmp_path / "folder").mkdir()
    copy = tmp_path / "folder" / "mine.v2.onnx"
    copy.write_bytes(packaged_models()["pipnet-tiny"].read_bytes())
    assert main(["export", "folder/mine.v2.onnx", "--format", "scores"]) == 0
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.json")) == [
        "folder/mine.v2_scores.json",
        "pipnet-tiny_scores.json",
    ]
    assert "pipnet-tiny_scores.onnx: " in capsys.readouterr().err


def test_export_refuses_wrong_combinations(capsys):
    for command, message in (
        (["pipnet-tiny"], "not a checkpoint"),
        (["pipnet-tiny", "--format", "openvino", "--int8", "--data", "x"], "not a checkpoint"),
        (["a.safetensors", "--format", "scores", "--half"], "leave --int8 and --half out"),
        (["a.safetensors", "--format", "openvino", "-o", "a.onnx"], "must end in .xml"),
        (["none.onnx", "--format", "scores"], "no such model"),
    ):
        assert main(["export", *command]) == 1
        assert message in capsys.readouterr().err
    assert main(["export", "pipnet-tiny", "--format", "tflite"]) == 2


@pytest.mark.slow
def test_opencv_dnn_example_equals_onnx(landmarker, real_crops, tmp_path):
    """In an environment of its own, with the newest OpenCV; needs a package index."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    packages = ["opencv-python-headless", "pillow", "numpy"]
    subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    size, crops = landmarker.model.metadata.input_size, real_crops(landmarker.model.metadata.input_size)
    files = [tmp_path / f"{i}.png" for i in range(len(crops))]
    for file, image in zip(files, crops, strict=True):
        write_image(file, image)
    export_score_maps(landmarker.model.path, tmp_path / "maps.onnx")
    command = [str(python), str(EXAMPLES / "opencv_dnn.py"), str(tmp_path / "maps.onnx"), *map(str, files)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    points = np.array([json.loads(line)["points"] for line in output.splitlines()])
    assert np.abs(points - (landmarker.model(crops).points * size - 0.5)).max() < 0.01
