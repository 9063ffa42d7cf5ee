"""The commands of Dockerfile and compose.yaml, run in a new environment: no container is built here."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["pipnet"]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^(?:HEALTHCHECK .*)?{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_image_copies_what_the_build_needs():
    ignore = (ROOT / ".dockerignore").read_text().split()
    copied = [name.strip("./") for line in instructions("COPY") for name in line.split()[:-1]]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "src", project["readme"], *project["license-files"]}
    assert all(Path(name).parts[0] in copied for name in needed)
    assert {f"!{name}" for name in copied} <= set(ignore)
    assert all((ROOT / name).exists() for name in copied)


def test_container_is_restricted():
    assert instructions("USER") == ["pipnet"]
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["ports"])
    assert COMPOSE["read_only"] is True
    assert COMPOSE["cap_drop"] == ["ALL"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment in which the commands of the Dockerfile that install pipnet ran, on the copied files."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIPNET_TOKEN")}
    variables["PATH"] = f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    source = folder / "src"
    source.mkdir()
    for line in instructions("COPY"):
        *names, target = line.split()
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, source / target)
    (install,) = (line for line in instructions("RUN") if line.startswith("pip install"))
    subprocess.run(install.replace("--no-cache-dir ", ""), shell=True, cwd=source, env=variables, check=True)
    yield variables
    shutil.rmtree(folder)


def post(address: str, photo: Path, token: str | None) -> tuple[int, dict]:
    request = urllib.request.Request(f"{address}/detect", photo.read_bytes(), {"Content-Type": "image/jpeg"})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.slow
@pytest.mark.parametrize("source", ["Dockerfile", "compose.yaml"])
def test_commands_of_the_image_serve_and_stop(environment, tmp_path, portrait, source):
    command = json.loads(instructions("CMD")[-1]) if source == "Dockerfile" else COMPOSE["command"]
    token, port = None, 8000
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if source == "compose.yaml":
        token = "a-token-of-32-characters-or-more-"
        (tmp_path / "token").write_text(token)
    command = [str(tmp_path / "token") if word == "/run/secrets/pipnet_token" else word for word in command]
    command = ["127.0.0.1" if word == "0.0.0.0" else word for word in command]
    command[0] = shutil.which(command[0], path=environment["PATH"])
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    (check,) = re.findall(r"^HEALTHCHECK .*?CMD (.*)$", DOCKERFILE, re.MULTILINE)
    probe = shlex.split(check.replace(":8000", f":{port}"))
    probe[0] = shutil.which(probe[0], path=environment["PATH"])
    try:
        deadline = time.monotonic() + 120
        while subprocess.run(probe, env=environment, capture_output=True).returncode:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        status, row = post(f"http://127.0.0.1:{port}", portrait, token)
        assert (status, len(row["faces"])) == (200, 1)
        if token:
            assert post(f"http://127.0.0.1:{port}", portrait, None)[0] == 401
    finally:
        process.terminate()
        _, err = process.communicate(timeout=70)
    assert process.returncode == 0, err
