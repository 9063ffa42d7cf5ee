"""What processes that train one model together have to agree on: counts, and batch norm's statistics.

Each process sees its part of every batch, and their gradients are averaged. That alone is not the training
of one process with the whole batch: a mean over the landmarks that are known is no mean of the parts'
means, and batch norm would see parts of batches. With what is here it is the same computation, up to the
order of sums. In a single process nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def processes() -> int:
    """How many train together."""
    return distributed.get_world_size() if _together() else 1


def launched_world_size() -> int:
    """How many torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return not _together() or distributed.get_rank() == 0


def mean_over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of what all processes have; gradients flow back to all of them."""
    if processes() == 1:
        return values
    mean: Tensor = _Mean.apply(values)
    return mean


def shared_count(count: Tensor) -> Tensor:
    """A count over all processes, per process; never 0.

    A sum divided by it, averaged over the processes as gradients are, is the sum over all divided by the
    count over all.
    """
    if processes() == 1:
        return count.clamp(min=1)
    return (mean_over_processes(count.float()) * processes()).clamp(min=1) / processes()


def synchronized_batch_norm() -> AbstractContextManager[Any]:
    """Within it, batch norm takes its mean and variance over all processes, also on a CPU.

    torch's own, ``SyncBatchNorm``, computes on graphics cards only, and takes the place of layers, of which
    it must know every kind. Here layers and weights stay what they are.
    """
    return nullcontext() if processes() == 1 else _SynchronizedBatchNorm()


def peer_process_failed(error: RuntimeError) -> bool:
    """Whether an error means that another process has ended."""
    return processes() > 1 and (isinstance(error, distributed.DistError) or "gloo" in str(error))


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Mean(torch.autograd.Function):
    """A mean over processes. What each of them does with it depends on all, so gradients are averaged too."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total / processes()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Mean.forward(_, gradient)


class _SynchronizedBatchNorm(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is F.batch_norm and given["training"]:
            return _batch_norm(*args, **given)
        return func(*args, **given)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """`F.batch_norm` in training, over the batches of all processes, which are of the same size."""
    assert training
    others = [d for d in range(x.dim()) if d != 1]
    each = [-1 if d == 1 else 1 for d in range(x.dim())]
    wide = x.float()
    mean = mean_over_processes(wide.mean(others))
    centerd = wide - mean.reshape(each)
    variance = mean_over_processes(centerd.square().mean(others))
    if running_mean is not None and running_var is not None:
        count = processes() * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    normed = centerd * scale.reshape(each)
    return (normed if bias is None else normed + bias.reshape(each)).to(x.dtype)
