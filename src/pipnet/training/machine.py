"""What the machine can do, and what it is, for the record."""

from __future__ import annotations

import platform
from typing import Any

import cv2
import numpy as np
import PIL
import timm
import torch

import pipnet


def computes_in_bf16(precision: str) -> bool:
    """Whether to use bf16: asked for, or ``auto`` on a machine that has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    able = _cpu()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def environment() -> dict[str, Any]:
    """Where this runs, for the record."""
    return {
        "pipnet": pipnet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "machine": platform.platform(),
        "cpu": _cpu().get("cpu_name"),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu() -> dict[str, Any]:
    """What torch knows of the processor; older ones cannot tell."""
    tell = getattr(torch.cpu, "get_capabilities", dict)
    return dict(tell())
