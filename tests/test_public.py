"""The public interface: names, light imports, the README, the shipped weights."""

import json
import re
import shlex
import subprocess
import sys
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


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    line.split("  #")[0].strip()
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("pipnet ")
]


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


# -- README --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, shared):
    """Return a folder like a checkout beside the shared data, which commands can write into."""
    base = tmp_path_factory.mktemp("readme")
    (base / "shared").symlink_to(shared)
    (base / "main").mkdir()
    for name in ("examples", "recipes", "checkpoints"):
        (base / "main" / name).symlink_to(ROOT / name)
    return base / "main"


def test_readme_commands_work(checkout):
    assert len(COMMANDS) > 8
    for line in COMMANDS:
        arguments = shlex.split(line)
        if arguments[1] == "train":  # a few steps on a few faces
            arguments += shlex.split("--max-steps 2 --data.limit 64 --workers 0")
        if arguments[1] == "self-train":  # the same, from weights whose pseudo-labels are usable
            arguments += shlex.split("--max-steps 1 --data.limit 40 --self-training.limit 20 --workers 0")
            arguments += ["--initial.checkpoint", "checkpoints/pipnet-68.safetensors"]
            arguments += ["--model.last-width", "640"]
        command = [sys.executable, "-m", *arguments]
        result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, f"{line}\n{result.stderr}"


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_readme_python_blocks_work(block, checkout):
    subprocess.run([sys.executable, "-c", block], cwd=checkout, check=True, timeout=300)


def test_readme_tree_names_existing_files():
    tree = re.search(r"```\n(recipes/.*?)```", README, re.DOTALL)
    assert tree
    package = ROOT / "src/pipnet"
    places = [ROOT, package, *(path for path in package.iterdir() if path.is_dir())]
    for line in tree[1].splitlines():
        names = re.match(r" *((?:[\w/.]+(?:, )?)+)", line)
        for name in names[1].split(", ") if names else []:
            if "/" in name or name.endswith(".py"):
                assert any((place / name).exists() for place in places), name


# -- the shipped weights -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> dict:
    results = json.loads((ROOT / "benchmarks" / "accuracy" / "shipped_weights" / "results.json").read_text())
    return results["rows"][DEFAULT_MODEL]


def test_shipped_weights_sizes():
    assert find_model(DEFAULT_MODEL).stat().st_size < 20e6
    package = Path(pipnet.__file__).parent
    assert sum(p.stat().st_size for p in package.rglob("*") if p.suffix != ".pyc") < 40e6


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
