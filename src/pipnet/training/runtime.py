"""Devices, precision and processes of a training, and the global settings that it needs while it runs."""

from __future__ import annotations

import contextlib
import os
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
from pipnet.config import available_cores
from pipnet.errors import PipnetError, RecipeError
from pipnet.model.device import autocast_dtype, convolution_settings, torch_device
from pipnet.model.distributed import launched_world_size
from pipnet.training.cpu_speedups import keep_freed_memory
from pipnet.training.recipe import Recipe

_MAX_WORKERS = 16
"""Maximum of automatic workers: they prepare as many faces as a GPU can train on (`recipes/README.md`)."""
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Without this variable matrix products of a GPU are not deterministic; read when the first one starts."""


@contextlib.contextmanager
def training_settings(deterministic: bool = True, exact: bool = False) -> Iterator[None]:
    """Make torch deterministic and quick on a CPU, and restore the settings of the process afterwards.

    The settings are the determinism flags, the memory allocator, the number of threads, and the state of the
    CPU's random number generator.

    Args:
        deterministic: compute the same result each time; False lets a GPU choose its fastest algorithms.
        exact: let a GPU compute float32 as such instead of in TF32.
    """
    workspace = os.environ.get(_WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    threads = torch.get_num_threads()
    try:
        convolutions = convolution_settings(torch_device(), deterministic, exact)
        with torch.random.fork_rng(devices=[]), keep_freed_memory(), convolutions:
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            if deterministic:
                os.environ.setdefault(_WORKSPACE, ":4096:8")
            # Filling takes time, and no code here reads uninitialized memory.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.set_num_threads(threads)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


def resolve_precision(precision: str, on_cuda: bool | None = None) -> bool:
    """Return whether to compute in bf16, see `pipnet.model.device.autocast_dtype`.

    Args:
        precision: the recipe's.
        on_cuda: whether a GPU computes; if None, whether there is one.
    """
    device = torch_device() if on_cuda is None else torch.device("cuda" if on_cuda else "cpu")
    return autocast_dtype(precision, device) == torch.bfloat16


def resolve_workers(workers: int | str, device: torch.device) -> int:
    """Return the number of processes that prepare faces for one process of a training.

    On a CPU the training itself needs all cores, and one process prepares faces faster than it trains on
    them. A GPU waits for its faces, so all cores that its process may use prepare them.

    Args:
        workers: the recipe's; a number, or ``auto``.
        device: the device of the training.
    """
    if isinstance(workers, int):
        return workers
    if device.type == "cpu":
        return 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(available_cores() // processes - 1, 1), _MAX_WORKERS)


_MIXED_PRECISION = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "no"}
"""Accelerate's names; with ``fp16`` it scales the loss."""


def build_accelerator(recipe: Recipe) -> Accelerator:
    """Return the accelerator for the device, the precision and the other processes of this training.

    Raises:
        RecipeError: the batch size is not divisible by the world size.
        PipnetError: the processes do not find each other.
    """
    count, device = launched_world_size(), torch_device()
    if recipe.optim.batch_size % count:
        raise RecipeError(f"optim.batch_size {recipe.optim.batch_size} is not divisible by {count} processes")
    # Accelerate keeps the precision of a process's first training for all later ones.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device.type == "cpu",  # several processes may share it
        mixed_precision=_MIXED_PRECISION[autocast_dtype(recipe.precision, device)],
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=device.type == "cuda"),
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
