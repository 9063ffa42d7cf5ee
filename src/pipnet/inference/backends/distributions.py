"""The installed distributions of ONNX Runtime, and how to install the one for NVIDIA graphics cards.

``onnxruntime``, ``onnxruntime-gpu`` and others install the same module. The last one that is installed
overwrites files of the one before, so only one may be installed.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from pathlib import Path


def onnxruntime_distributions() -> list[str]:
    """Return the names of the installed distributions of ONNX Runtime; more than one is a fault."""
    return sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", [])))


def install_command(for_cuda: bool) -> str:
    """Return the commands that leave one distribution: the CPU's, or NVIDIA's with CUDA and cuDNN."""
    name, extras = ("onnxruntime-gpu", "[cuda,cudnn]") if for_cuda else ("onnxruntime", "")
    install = f'pip install "{name}{extras}"'
    installed = onnxruntime_distributions()
    return install if installed in ([], [name]) else f"pip uninstall -y {' '.join(installed)} && {install}"


def has_nvidia_card() -> bool:
    """Return whether the driver of an NVIDIA card is loaded."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False
    return listed.stdout.startswith(b"GPU ")
