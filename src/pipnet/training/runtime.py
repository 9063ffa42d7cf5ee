"""Devices, precision and processes of a training, and the global settings that it needs while it runs."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL
import timm
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState

import pipnet
from pipnet.errors import PipnetError, RecipeError
from pipnet.model.distributed import launched_world_size
from pipnet.training.cpu_speedups import keep_freed_memory
from pipnet.training.recipe import Recipe


@contextlib.contextmanager
def training_settings() -> Iterator[None]:
    """Make torch deterministic and quick on a CPU, and restore the settings of the process afterwards.

    The settings are the determinism flags, the memory allocator, the number of threads, and the state of the
    CPU's random number generator.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]), keep_freed_memory():
            torch.use_deterministic_algorithms(True, warn_only=True)
            # Filling takes time, and no code here reads uninitialized memory.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.set_num_threads(threads)


def resolve_precision(precision: str, on_cuda: bool | None = None) -> bool:
    """Return whether to compute in bf16.

    Args:
        precision: the recipe's; ``auto`` is bf16 where the device has instructions for it.
        on_cuda: whether a GPU computes; if None, whether there is one.
    """
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available() if on_cuda is None else on_cuda:
        return bool(torch.cuda.is_bf16_supported())
    capabilities = _cpu_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def build_accelerator(recipe: Recipe) -> Accelerator:
    """Return the accelerator for the device, the precision and the other processes of this training.

    Raises:
        RecipeError: the batch size is not divisible by the world size.
        PipnetError: the processes do not find each other.
    """
    count = launched_world_size()
    if recipe.optim.batch_size % count:
        raise RecipeError(f"optim.batch_size {recipe.optim.batch_size} is not divisible by {count} processes")
    # Accelerate keeps the precision of a process's first training for all later ones.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        # With cpu=True several processes share a CPU, and Apple's MPS, which has no float64, is not used.
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if resolve_precision(recipe.precision) else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if accelerator.num_processes != count:
        raise PipnetError(f"{count} processes were started, but {accelerator.num_processes} found each other")
    return accelerator


def environment() -> dict[str, Any]:
    """Return the versions and the machine, for the run folder."""
    return {
        "pipnet": pipnet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "machine": platform.platform(),
        "cpu": _cpu_capabilities().get("cpu_name"),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_capabilities() -> dict[str, Any]:
    return dict(getattr(torch.cpu, "get_capabilities", dict)())  # since torch 2.8
