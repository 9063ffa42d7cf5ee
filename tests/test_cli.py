"""The command line as a shell sees it: exit codes, closed pipes, help, and small commands."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys

import pytest

from pipnet.cli import COMMANDS, main
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.io.image import read_image
from test_detect_command import rows, run

pytestmark = pytest.mark.usefixtures("loaded_once")


# -- the process ---------------------------------------------------------------------------------------


def test_wrong_usage_is_the_exit_code_of_the_process():
    assert run("detct", "a").returncode == 2


def test_closed_pipe_is_no_error(portrait, tmp_path):
    for number in range(30):
        shutil.copy(portrait, tmp_path / f"{number}.jpg")
    command = f"{sys.executable} -m pipnet detect {tmp_path} --json | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert len(rows(result.stdout)) == 1
    assert "Traceback" not in result.stderr


def test_ctrl_c_is_exit_code_130(portrait, tmp_path, start):
    for number in range(200):
        shutil.copy(portrait, tmp_path / f"{number}.jpg")
    with start("detect", str(tmp_path), "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(2)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"


def test_detect_does_not_import_training_packages(portrait):
    code = (
        "import sys\n"
        "from pipnet.cli import main\n"
        f"assert main(['detect', {str(portrait)!r}, '--json']) == 0\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'onnx', 'yaml', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


# -- other commands ------------------------------------------------------------------------------------


def test_info_prints_the_metadata_of_a_model(capsys):
    assert main(["info", DEFAULT_MODEL]) == 0
    text = capsys.readouterr().out
    assert "research use only" in text
    assert re.search("^confidence +calibrated$", text, re.MULTILINE)
    assert "1.2 x the landmark box" in text
    assert main(["info", str(find_model(DEFAULT_MODEL)), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["scheme"]["landmarks"] == 68


def test_info_prints_and_draws_landmarks(capsys, tmp_path):
    figure = tmp_path / "landmarks.png"
    assert main(["info", "--landmarks", "-o", str(figure)]) == 0
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("300w: ")
    assert header.split() == ["index", "name", "region", "mirror", "partner"]
    assert len(rows) == 68
    assert rows[36].split() == ["36", "right_eye_0", "right_eye", "45", "left_eye_3"]
    assert rows[30].split() == ["30", "nose_3", "nose", "itself"]
    assert read_image(figure).std() > 10
    assert main(["info", "wflw", "--landmarks", "--json", "-o", str(figure)]) == 0
    assert json.loads(capsys.readouterr().out)["landmark_names"][96:] == ["right_pupil_0", "left_pupil_0"]


def test_info_landmarks_reports_missing_options_and_schemes(capsys, tmp_path):
    figure = tmp_path / "landmarks.png"
    assert main(["info", "-o", str(figure)]) == 1
    assert "add --landmarks" in capsys.readouterr().err
    assert main(["info", "menpo39", "--landmarks", "-o", str(figure)]) == 1
    assert "no mean face to draw" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "none.toml"), "--landmarks"]) == 1
    assert "no such scheme file" in capsys.readouterr().err


def test_doctor_lists_packages_and_cameras(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "onnxruntime" in text
    assert "works" in text
    missing = [line for line in text.splitlines() if "missing" in line]
    assert not [line for line in missing if line.split()[0] in ("pillow", "onnxruntime")]
    assert re.search(r"^cameras +(none|\S+ \()", text, re.MULTILINE)


def test_doctor_recognizes_a_module_of_another_package(capsys, monkeypatch):
    """onnxruntime-gpu has the module of onnxruntime: installing both breaks it."""
    packages, version = ("onnxruntime", "pillow"), importlib.metadata.version

    def version_of_others(package):
        if package in packages:
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr("importlib.metadata.version", version_of_others)
    # All installed packages are read otherwise.
    monkeypatch.setattr("importlib.metadata.packages_distributions", dict)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for package in packages:
        assert re.search(
            rf"^{package} +not installed, but another package provides its module$", text, re.MULTILINE
        )


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS])
def test_every_command_has_help(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert f"Usage: pipnet {command}" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["", "data", "detector", "teacher", "protocol"])
def test_help_lists_each_command_in_one_line_of_80_columns(group, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*group.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, _, help_line in COMMANDS:
        prefix, _, command = name.rpartition(" ")
        if prefix == group:
            pattern = f"│ {command} +{re.escape(help_line)} "
            assert len([line for line in lines if re.match(pattern, line)]) == 1
    assert not [line for line in lines if line.startswith("│   ")]  # a line that is continued


def test_help_of_a_command_is_its_complete_docstring(capsys):
    assert main(["detect", "--help"]) == 0
    assert "An image that cannot be read is reported" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["export"], ["import", "--mean-face", "m.txt", "--scheme", "wflw"]])
def test_export_and_import_do_not_overwrite_a_checkpoint(tmp_path, command, capsys):
    weights = tmp_path / "a.weights"
    weights.write_bytes(b"precious")
    assert main([command[0], str(weights), *command[1:], "-o", str(weights)]) == 1
    assert "a.weights" in capsys.readouterr().err
    assert weights.read_bytes() == b"precious"
