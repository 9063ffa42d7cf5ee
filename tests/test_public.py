"""The public interface: names, light imports, the shipped weights."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import pipnet
from pipnet.datasets.load import load_samples
from pipnet.errors import MissingExtraError
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.hub import DEFAULT_MODEL, find_model, packaged_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MEASURED = ROOT / "benchmarks" / "accuracy" / "shipped_weights"


def test_package_exports_all_errors():
    errors = {
        name
        for name, value in vars(pipnet.errors).items()
        if isinstance(value, type) and issubclass(value, pipnet.PipnetError) and name != "MissingDataError"
    }
    assert errors <= set(pipnet.__all__)


def test_package_version_is_that_of_the_distribution():
    assert metadata.version("pipnet") == pipnet.__version__


def test_import_of_the_package_is_lazy_and_complete():
    code = (
        "import sys, pipnet\n"
        "loaded = {'numpy', 'torch', 'timm', 'matplotlib', 'onnx', 'yaml'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "assert set(pipnet.__all__) <= set(dir(pipnet))\n"
        "from pipnet import *\n"
        "print(FaceLandmarker.__module__, ImageError.__module__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout == "pipnet.inference.landmarker pipnet.errors\n", result.stderr
    with pytest.raises(AttributeError, match="module 'pipnet' has no attribute 'nothing'"):
        _ = pipnet.nothing


def test_commands_without_torch_name_the_missing_extra():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pipnet.cli import main\n"
        "for command in (['train', 'recipes/300w_mbv2.yaml'], ['export', 'a.safetensors']):\n"
        "    assert main(command) == 1\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stderr == 2 * f"error: {MissingExtraError('torch', 'train')}\n"


# -- the shipped weights -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> dict:
    results = json.loads((MEASURED / "results.json").read_text())
    return results["rows"][DEFAULT_MODEL]


def test_models_page_states_the_sizes_of_the_files():
    page = (ROOT / "docs" / "models.md").read_text()
    stated = dict(re.findall(r"^\| \[`([\w-]+)`\].*\| ([\d.]+) MB \|", page, re.MULTILINE))
    assert stated == {name: f"{path.stat().st_size / 1e6:.1f}" for name, path in packaged_models().items()}


def test_model_card_and_readme_state_the_measured_numbers(measured):
    card = (find_model(DEFAULT_MODEL).with_suffix(".md")).read_text()
    assert "research" in card
    for name in ("Common", "Challenging", "WFLW-68", "CFP"):
        nme = f"{measured[name]['pixels']['nme']:.2f}"
        assert nme in card, name
        assert nme in README, name


def test_shipped_weights_have_the_measured_nme_on_some_faces(shared, landmarker):
    samples, _, spec = load_samples(shared / "data" / "300w", "common")
    errors = evaluate(landmarker, decoded(samples[::40]), spec)
    with np.load(MEASURED / "faces.npz") as faces:
        expected = faces[f"{DEFAULT_MODEL}/Common/pixels"]
    assert len(expected) == len(samples)
    np.testing.assert_allclose(errors.nmes, expected[::40], atol=5e-4)


@pytest.mark.slow
def test_shipped_weights_have_the_measured_nme(shared, landmarker, measured):
    samples, scheme, spec = load_samples(shared / "data" / "300w", "common")
    summary = evaluate(landmarker, decoded(samples), spec).summary(scheme)
    expected = measured["Common"]
    assert summary["faces"] == expected["faces"] == 554
    for frame in ("pixels", "offset_removed"):
        assert summary[frame]["nme"] == pytest.approx(expected[frame]["nme"], abs=0.005)
