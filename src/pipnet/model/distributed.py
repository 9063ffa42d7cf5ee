"""Distributed training with the result of one process: counts and batch norm over all ranks.

Each rank trains its part of every batch, and gradients are averaged. That alone is not the training of one
process with the whole batch: a mean over the known landmarks is not the mean of the parts' means, and batch
norm would see parts of batches. The functions here make it the same computation, up to the order of sums. In
a single process they change nothing.
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


def world_size() -> int:
    """Return the number of processes of this training."""
    return distributed.get_world_size() if _is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _is_initialized() else 0


def is_rank_zero() -> bool:
    """Return whether this is the process that writes files and messages."""
    return rank() == 0


def launched_world_size() -> int:
    """Return the number of processes that torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def all_reduce_mean(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the mean over all ranks; gradients flow back to all of them."""
    if world_size() == 1:
        return values
    mean: Tensor = _Mean.apply(values)
    return mean


def count_per_rank(count: Tensor) -> Tensor:
    """Return a count over all ranks, divided by the world size; the count is at least 1.

    A sum divided by it, averaged over the ranks as gradients are, is the sum over all ranks divided by the
    count over all ranks.
    """
    if world_size() == 1:
        return count.clamp(min=1)
    return (all_reduce_mean(count.float()) * world_size()).clamp(min=1) / world_size()


def sync_batch_norm() -> AbstractContextManager[Any]:
    """Make batch norm take its mean and variance over all ranks, also on a CPU.

    torch's ``SyncBatchNorm`` runs on GPUs only, and replaces layers of known types. Here layers and weights
    stay the same.
    """
    return nullcontext() if world_size() == 1 else _SyncBatchNorm()


def is_peer_failure(error: RuntimeError) -> bool:
    """Return whether an error means that another process of the training has ended."""
    return world_size() > 1 and (isinstance(error, distributed.DistError) or "gloo" in str(error))


def _is_initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Mean(torch.autograd.Function):
    """A mean over ranks. Each rank's result depends on all values, so gradients are averaged too."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total / world_size()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Mean.forward(_, gradient)


class _SyncBatchNorm(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs["training"]:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


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
    """`F.batch_norm` in training, over the batches of all ranks, which have the same size."""
    assert training
    axes = [d for d in range(x.dim()) if d != 1]
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    wide = x.float()
    mean = all_reduce_mean(wide.mean(axes))
    centered = wide - mean.reshape(shape)
    variance = all_reduce_mean(centered.square().mean(axes))
    if running_mean is not None and running_var is not None:
        count = world_size() * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    normed = centered * scale.reshape(shape)
    return (normed if bias is None else normed + bias.reshape(shape)).to(x.dtype)
