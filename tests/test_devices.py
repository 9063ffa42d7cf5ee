"""Devices, distributions and telemetry of ONNX Runtime. A list of providers stands for a graphics card."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from pipnet import FaceLandmarker, RuntimeConfig
from pipnet.cli import main
from pipnet.errors import ModelError, PipnetError
from pipnet.hub import DEFAULT_MODEL, find_model
from pipnet.inference.backends import distributions
from pipnet.inference.backends import onnxruntime as backend
from pipnet.inference.backends.onnxruntime import OnnxModel

SHIPPED = find_model(DEFAULT_MODEL)
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
INSTALL = 'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'


@pytest.fixture(autouse=True)
def _one_distribution(monkeypatch):
    """One distribution of ONNX Runtime: to look for others, all installed packages are read."""
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"onnxruntime": ["onnxruntime"]})


class FakeRuntime:
    """ONNX Runtime with a list of providers, of which those that work start; sessions run on the CPU."""

    def __init__(self, monkeypatch, listed, working):
        self.requested, self.preloaded = [], 0
        self._working, self._session = working, onnxruntime.InferenceSession
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
        monkeypatch.setattr(onnxruntime, "InferenceSession", self._start)
        monkeypatch.setattr(onnxruntime, "preload_dlls", self._preload)
        backend._load_cuda.cache_clear()
        backend._warn_once.cache_clear()

    def _preload(self):
        self.preloaded += 1
        print("Failed to load libcublas.so")  # as the real one reports it

    def _start(self, path, options, providers, **kwargs):
        self.requested.append(providers)
        session = self._session(path, options, [CPU], **kwargs)
        names = [name if isinstance(name, str) else name[0] for name in providers]
        started = [name for name in names if name in self._working]
        session.get_providers = lambda: started
        return session


@pytest.mark.parametrize("device", ["cuda:", "cuda:a", "cuda:-1", "cuda:1000", "gpu", "cpu:0", "", "CUDA", 0])
def test_runtime_config_refuses_other_devices(device):
    """In a separate process: in this one types are checked before."""
    script = f"from pipnet import RuntimeConfig\nRuntimeConfig(device={device!r})"
    error = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr
    message = f"device is one of auto, cpu, cuda, cuda:N, coreml, directml, not {device!r}"
    assert error.splitlines()[-1] == f"pipnet.errors.PipnetError: {message}"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "coreml", "directml"])
def test_runtime_config_takes_all_devices(device):
    assert RuntimeConfig(device=device).device == device


@pytest.mark.parametrize(
    ("device", "provider"), [("cuda", CUDA), ("cuda:1", (CUDA, {"device_id": "1"})), ("auto", CUDA)]
)
def test_session_starts_on_cuda(monkeypatch, capsys, device, provider):
    fake = FakeRuntime(monkeypatch, [CUDA, CPU], [CUDA, CPU])
    for _ in range(2):
        assert OnnxModel(SHIPPED, device).provider == CUDA
    assert fake.requested == [[provider, CPU]] * 2
    assert fake.preloaded == 1
    assert capsys.readouterr().out == ""  # results are printed there


def test_session_on_the_cpu_loads_no_cuda(monkeypatch):
    fake = FakeRuntime(monkeypatch, [CUDA, CPU], [CUDA, CPU])
    assert OnnxModel(SHIPPED, "cpu").provider == CPU
    assert fake.preloaded == 0
    assert fake.requested == [[CPU]]


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_session_names_the_commands_without_the_cuda_provider(monkeypatch, device):
    FakeRuntime(monkeypatch, [CPU], [CPU])
    with pytest.raises(PipnetError) as error:
        OnnxModel(SHIPPED, device)
    where = f"the installed onnxruntime cannot run on {device}, only on cpu"
    assert str(error.value) == f"{where}: {distributions.install_command(for_cuda=True)}"


def test_session_reports_cuda_that_does_not_start(monkeypatch):
    FakeRuntime(monkeypatch, [CUDA, CPU], [CPU])
    with pytest.raises(PipnetError, match="onnxruntime cannot start on cuda: check the card with nvidia-smi"):
        OnnxModel(SHIPPED, "cuda")


def test_auto_warns_once_if_it_falls_back_to_the_cpu(monkeypatch, caplog):
    FakeRuntime(monkeypatch, [CUDA, CPU], [CPU])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert OnnxModel(SHIPPED).provider == CPU
    (record,) = caplog.records
    assert record.getMessage().startswith("onnxruntime cannot start on cuda and uses the CPU: check the card")


def test_auto_falls_back_if_cuda_raises(monkeypatch, caplog):
    fake = FakeRuntime(monkeypatch, [CUDA, CPU], [CPU])
    start = onnxruntime.InferenceSession

    def raise_on_cuda(path, options, providers, **kwargs):
        if CUDA in providers:
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
        return start(path, options, providers, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", raise_on_cuda)
    assert OnnxModel(SHIPPED).provider == CPU
    assert len(caplog.records) == 1
    assert fake.preloaded == 1
    with pytest.raises(ModelError, match="cannot be started on cuda: CUDA failure 100"):
        OnnxModel(SHIPPED, "cuda")


def test_auto_on_the_cpu_logs_nothing(caplog):
    assert OnnxModel(SHIPPED).provider == CPU
    assert not caplog.records


def test_detect_with_cuda_ends_in_one_line(portrait, capsys):
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime runs on CUDA")
    assert main(["detect", str(portrait), "--device", "cuda:0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('pip install "onnxruntime-gpu[cuda,cudnn]"')


@pytest.mark.parametrize(
    ("installed", "for_cuda", "command"),
    [
        (["onnxruntime"], True, INSTALL),
        (["onnxruntime-gpu"], True, 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
        (
            ["onnxruntime", "onnxruntime-gpu"],
            True,
            'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "onnxruntime-gpu[cuda,cudnn]"',
        ),
        (
            ["onnxruntime", "onnxruntime-directml"],
            False,
            'pip uninstall -y onnxruntime onnxruntime-directml && pip install "onnxruntime"',
        ),
    ],
)
def test_install_command_leaves_one_distribution(monkeypatch, installed, for_cuda, command):
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"onnxruntime": installed * 2})
    assert distributions.onnxruntime_distributions() == installed
    assert distributions.install_command(for_cuda) == command


def test_doctor_names_the_commands_for_an_nvidia_card(monkeypatch, capsys):
    monkeypatch.setattr(distributions, "has_nvidia_card", lambda: True)
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"onnxruntime": ["onnxruntime"]})
    FakeRuntime(monkeypatch, [CPU], [CPU])
    assert main(["doctor"]) == 0
    assert f"there is an NVIDIA card; to use it: {INSTALL}" in capsys.readouterr().out


def test_doctor_prints_no_hint_if_cuda_works(monkeypatch, capsys):
    monkeypatch.setattr(distributions, "has_nvidia_card", lambda: True)
    FakeRuntime(monkeypatch, [CUDA, CPU], [CUDA, CPU])
    assert main(["doctor"]) == 0
    assert "NVIDIA" not in capsys.readouterr().out


def test_doctor_reports_two_distributions(monkeypatch, capsys):
    installed = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: installed)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "onnxruntime and onnxruntime-gpu overwrite each other's files: keep one: pip uninstall -y" in out


def test_has_nvidia_card_asks_nvidia_smi(monkeypatch, tmp_path):
    if os.name == "nt" or Path("/proc/driver/nvidia/version").exists():
        pytest.skip("needs a shell, and a machine without an NVIDIA card")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not distributions.has_nvidia_card()
    command = tmp_path / "nvidia-smi"
    for script, expected in (
        ("echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'", True),
        ("echo 'NVIDIA-SMI has failed'; exit 9", False),
        ("echo 'No devices were found'", False),
    ):
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        assert distributions.has_nvidia_card() is expected


def new_files(script: str, home: Path, **variables: str) -> list[str]:
    """Run a script of a user without files, outside of CI, where ONNX Runtime has no telemetry anyway."""
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    for key in ("CI", "GITHUB_ACTIONS", "TF_BUILD", "PIPNET_CACHE"):
        environment.pop(key, None)
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), **variables}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


SCRIPT = """
import os, numpy
before = dict(os.environ)
from pipnet.inference.detectors import yunet  # imports onnxruntime itself
from pipnet import FaceLandmarker
FaceLandmarker(detector="full_image")(numpy.zeros((64, 64, 3), numpy.uint8))
assert dict(os.environ) == before
"""


@pytest.mark.parametrize("variables", [{}, {"ORT_DISABLE_TELEMETRY": "1"}])
def test_model_leaves_no_files_of_telemetry(tmp_path, variables):
    assert new_files(SCRIPT, tmp_path / "home", **variables) == []


def test_users_choice_of_telemetry_is_kept(tmp_path):
    plain = new_files("import onnxruntime", tmp_path / "plain")
    chosen = new_files(SCRIPT, tmp_path / "chosen", ORT_DISABLE_TELEMETRY="0")
    assert bool(chosen) == bool(plain)  # empty for versions without telemetry


def test_landmarker_runs_on_a_device_by_name(portrait):
    assert len(FaceLandmarker(device="cpu")(portrait)) == 1


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([python, "-m", *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_documented_installation_for_a_gpu(tmp_path, portrait):
    """In an empty environment, without CUDA and cuDNN: with them it needs 2.4 GB."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def pip(*command: str) -> None:
        done = run(python, "pip", *command, "--quiet", "--disable-pip-version-check")
        assert done.returncode == 0, done.stderr

    pip("install", str(Path(__file__).parents[1]))
    pip("uninstall", "-y", "onnxruntime")
    pip("install", "onnxruntime-gpu")
    doctor = run(python, "pipnet", "doctor").stdout
    assert re.search(rf"onnxruntime providers .*{CUDA}", doctor)
    assert "another package provides its module: onnxruntime-gpu" in doctor
    if not distributions.has_nvidia_card():
        fallback = run(python, "pipnet", "detect", str(portrait), "--json")
        assert json.loads(fallback.stdout)["faces"]
        assert fallback.stderr.count("onnxruntime cannot start on cuda and uses the CPU") == 1
        cuda = run(python, "pipnet", "detect", str(portrait), "--device", "cuda")
        assert cuda.returncode == 1
        assert "error: onnxruntime cannot start on cuda: check the card with nvidia-smi" in cuda.stderr
    pip("install", "onnxruntime")
    doctor = run(python, "pipnet", "doctor").stdout
    assert "onnxruntime and onnxruntime-gpu overwrite each other's files: keep one: pip uninstall" in doctor
    shutil.rmtree(tmp_path / "venv")
