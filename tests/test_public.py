"""The public interface: names, light imports, the shipped weights."""

import json
import subprocess
import sys
import zlib
from importlib import metadata
from pathlib import Path

import pytest

import pipnet
from pipnet.datasets.load import load_samples
from pipnet.errors import MissingExtraError
from pipnet.evaluation.evaluate import decoded, evaluate
from pipnet.hub import DEFAULT_MODEL, find_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_package_exports_names_and_all_errors():
    errors = {
        name
        for name, value in vars(pipnet.errors).items()
        if isinstance(value, type) and issubclass(value, pipnet.PipnetError) and name != "MissingDataError"
    }
    assert errors <= set(pipnet.__all__)
    assert all(hasattr(pipnet, name) for name in pipnet.__all__)
    assert pipnet.hub.DEFAULT_MODEL in pipnet.list_models()
    assert all(hasattr(pipnet, name) for name in pipnet.__all__)
    assert metadata.version("pipnet") == pipnet.__version__


def test_import_pipnet_is_light():
    code = "import pipnet, sys; print(*{'torch', 'timm', 'matplotlib', 'onnx', 'yaml'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_commands_without_torch_name_the_missing_extra():
    code = (
        "import sys; sys.modules['torch'] = None\nfrom pipnet.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    for arguments in (["train", "recipes/300w_mbv2.yaml"], ["export", "a.safetensors"]):
        command = [sys.executable, "-c", code, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert result.returncode == 1
        assert result.stderr == f"error: {MissingExtraError('torch', 'train')}\n"


# -- the shipped weights -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> dict:
    results = json.loads((ROOT / "benchmarks" / "accuracy" / "shipped_weights" / "results.json").read_text())
    return results["rows"][DEFAULT_MODEL]


def test_shipped_weights_sizes():
    assert find_model(DEFAULT_MODEL).stat().st_size < 20e6
    package = Path(pipnet.__file__).parent
    page = [p for p in (package / "web").rglob("*") if p.is_file()]  # only if `make web` built it
    files = [p for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert sum(p.stat().st_size for p in files if p not in page) < 40e6
    assert sum(len(zlib.compress(p.read_bytes())) for p in page) < 8e6, "the wheel grows by this"


def test_model_card_and_readme_state_the_measured_numbers(measured):
    card = (find_model(DEFAULT_MODEL).with_suffix(".md")).read_text()
    assert "research" in card
    for name in ("Common", "Challenging", "WFLW-68", "CFP"):
        nme = f"{measured[name]['pixels']['nme']:.2f}"
        assert nme in card, name
        assert nme in README, name


def test_shipped_weights_have_the_measured_nme(shared, landmarker, measured):
    samples, scheme, spec = load_samples(shared / "data" / "300w", "common")
    summary = evaluate(landmarker, decoded(samples), spec).summary(scheme)
    expected = measured["Common"]
    assert summary["faces"] == expected["faces"] == 554
    for frame in ("pixels", "offset_removed"):
        assert summary[frame]["nme"] == pytest.approx(expected[frame]["nme"], abs=0.005)
