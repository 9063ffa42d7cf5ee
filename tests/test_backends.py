"""ONNX Runtime and OpenVINO: the same landmarks, the same refusals."""

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
from pipnet.geometry import crop
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends.load import load_model
from pipnet.inference.backends.onnxruntime import OnnxModel
from pipnet.inference.backends.openvino import OpenVinoModel
from pipnet.io.image import read_image

SHIPPED = find_model(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def faces(portrait):
    """A real face, cut at several scales."""
    image, size = read_image(portrait), OnnxModel(SHIPPED).metadata.input_size
    boxes = [[165 - d, 75 - d, 283 + d, 193 + d] for d in range(0, 50, 10)]
    return np.stack([crop(image, np.float32(box), size) for box in boxes])


def test_openvino_finds_what_onnxruntime_finds(faces):
    expected = OnnxModel(SHIPPED)(faces)
    exact = load_model(SHIPPED, RuntimeConfig(backend="openvino", threads=1))(faces)
    for a, b in zip(exact, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    rough = load_model(SHIPPED, RuntimeConfig(precision="bf16"))
    assert isinstance(rough, OpenVinoModel)
    assert np.abs(rough(faces).points - expected.points).mean() < 0.01


def test_results_of_one_run_outlive_the_next(faces):
    model = OpenVinoModel(SHIPPED)
    first = model(faces[:1])
    kept = first.points.copy()
    model(faces[1:2])
    np.testing.assert_array_equal(first.points, kept)
    assert model(faces[:0]).points.shape == (0, 68, 2)


@pytest.mark.parametrize("model", [OnnxModel, OpenVinoModel])
def test_two_threads_get_their_own_faces(model, faces):
    """One model serves them all, as in a web service."""
    shared = model(SHIPPED)
    expected = [shared(face[None]).points for face in faces]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: shared(faces[i % len(faces)][None]).points, range(60)))
    for i, points in enumerate(found):
        np.testing.assert_allclose(points, expected[i % len(faces)], atol=1e-4)


@pytest.mark.parametrize("model", [OnnxModel, OpenVinoModel])
def test_a_model_may_be_sent_to_another_process(model, faces):
    here = model(SHIPPED, threads=1)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(here))(faces).points, here(faces).points)


@pytest.mark.parametrize("model", [OnnxModel, OpenVinoModel])
def test_bad_files_are_refused(model, tmp_path):
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "take the backend openvino"),
        ({"backend": "openvino", "device": "cuda"}, "not on cuda"),
    ],
)
def test_what_does_not_go_together_is_said(words, message):
    with pytest.raises(PipnetError, match=message):
        FaceLandmarker.from_pretrained(**words)


def test_unknown_words_are_said():
    """In a process of its own: in this one types are checked before."""
    script = """
from pipnet import FaceLandmarker
from pipnet.errors import PipnetError
for words in ({"backend": "tensorflow"}, {"precision": "f16"}, {"device": "tpu"}):
    try:
        FaceLandmarker.from_pretrained(**words)
    except PipnetError as error:
        print(error)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        "no backend 'tensorflow': auto, onnxruntime, openvino",
        "no precision 'f16': f32, bf16",
        "no device 'tpu': auto, cpu, cuda, coreml, directml",
    ]


def test_without_openvino_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"\[openvino\]'"):
        FaceLandmarker.from_pretrained(backend="openvino")


def test_on_the_command_line(portrait, capsys):
    assert main(["detect", str(portrait), "--json", "--backend", "openvino", "--threads", "1"]) == 0
    one = capsys.readouterr().out
    assert main(["detect", str(portrait), "--json", "--threads", "1"]) == 0
    a, b = (json.loads(text)["faces"][0]["points"] for text in (one, capsys.readouterr().out))
    np.testing.assert_allclose(a, b, atol=0.01)
    assert main(["detect", str(portrait), "--backend", "onnxruntime", "--precision", "bf16"]) == 1
