"""The device that torch computes on, its type of numbers, and the number of CPU cores."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from pipnet.errors import RecipeError


def torch_device() -> torch.device:
    """Return the CUDA GPU if there is one, otherwise the CPU; ``CUDA_VISIBLE_DEVICES=""`` hides the GPUs.

    Apple's MPS is not used: it has no float64, which the targets of the PIP head need.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type in which a network computes on a device; float32 means no autocast.

    Args:
        precision: ``bf16``, ``float16``, ``float32``, or ``auto``: bf16 where the device has instructions for
            it; on an older GPU (compute capability 7) float16, for which it has them; otherwise float32.
        device: the device.

    Raises:
        RecipeError: float16 on a CPU, which has no scaled loss.
    """
    if precision == "float16" and device.type == "cpu":
        raise RecipeError("precision float16 is for a GPU: use bf16 or float32 on a CPU")
    if precision == "auto":
        precision = _fastest_on_gpu(device) if device.type == "cuda" else _fastest_on_cpu()
    return {"bf16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)


def _fastest_on_gpu(device: torch.device) -> str:
    if torch.cuda.is_bf16_supported(including_emulation=False):  # emulated, it is slower than float32
        return "bf16"
    return "float16" if torch.cuda.get_device_capability(device)[0] >= 7 else "float32"


def _fastest_on_cpu() -> str:
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.8
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"


def convolution_settings(
    device: torch.device, deterministic: bool, exact: bool
) -> AbstractContextManager[None]:
    """Set how a GPU computes convolutions, until the end of the block. On a CPU nothing is set.

    Args:
        device: the device of the network.
        deterministic: use algorithms with the same result each time, instead of the fastest ones by trial.
        exact: compute float32 as such, instead of in TF32, which has 10 bits of it.
    """
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=not deterministic, deterministic=deterministic, allow_tf32=not exact
    )
    return flags
