"""What the machine can do: precision, devices, processes; and what it is, for the record."""

from __future__ import annotations

import platform
from typing import Any

import cv2
import numpy as np
import PIL
import timm
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState

import pipnet
from pipnet.errors import PipnetError, RecipeError
from pipnet.model.distributed import launched_world_size
from pipnet.training.recipe import Recipe


def resolve_precision(precision: str, on_cuda: bool | None = None) -> bool:
    """Whether to use bf16: asked for, or ``auto`` on a machine that has instructions for it.

    Args:
        precision: of the recipe.
        on_cuda: whether the graphics card is to compute; if it is there, if None.
    """
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available() if on_cuda is None else on_cuda:
        return bool(torch.cuda.is_bf16_supported())
    able = _cpu()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def build_accelerator(recipe: Recipe) -> Accelerator:
    """What knows of devices, precision, and the other processes of this training.

    Raises:
        RecipeError: the batch cannot be shared out evenly.
        PipnetError: the processes do not find each other.
    """
    count = launched_world_size()
    if recipe.optim.batch_size % count:
        raise RecipeError(f"optim.batch_size {recipe.optim.batch_size} is not divisible by {count} processes")
    # Accelerate keeps one precision a process; another training in it may have another.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        # Told so, it takes several on a CPU; and not Apple's MPS, which has no float64.
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if resolve_precision(recipe.precision) else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if accelerator.num_processes != count:
        raise PipnetError(f"{count} processes were started, {accelerator.num_processes} found each other")
    return accelerator


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
