"""Faster training on a CPU: freed memory is kept, and depthwise convolutions have a fast backward pass.

Neither changes the result, but for the rounding of sums. Measured in `benchmarks/speed/training/report.md`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_MALLOC_OPTIONS = {
    -4: (0, 65536),  # M_MMAP_MAX: large blocks come from the heap, like small ones,
    -1: (2**31 - 1, 128 * 2**10),  # M_TRIM_THRESHOLD: which does not shrink
    -2: (256 * 2**20, 128 * 2**10),  # M_TOP_PAD: and grows in large steps
    -8: (1, 8 * (os.cpu_count() or 1)),  # M_ARENA_MAX: one heap, as those of threads have no large blocks
}
"""Parameters of glibc's `mallopt` (malloc.h) by number: the value to keep memory, and the default, to which
it is restored because the previous value cannot be read."""


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let this process keep the memory that it frees, for reuse, until the end of the block.

    glibc returns every large block to the system when it is freed. A training step then asks for the same
    gigabytes again, which the system fills with zeros, page by page. With another C library nothing is done.
    """
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    mallopt = getattr(library, "mallopt", lambda *_: 0)
    for option, (keep, _) in _MALLOC_OPTIONS.items():
        mallopt(option, keep)
    try:
        yield
    finally:
        for option, (_, default) in _MALLOC_OPTIONS.items():
            mallopt(option, default)
        getattr(library, "malloc_trim", lambda _: 0)(0)  # return what was kept


class FastDepthwise(TorchFunctionMode):
    """A mode in which depthwise convolutions are trained quickly on the CPU.

    oneDNN's backward pass is slow for those with a stride, dilation, or a kernel of 5 x 5, above all in
    bf16: MobileNets and EfficientNets are made of them.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d and not kwargs and len(args) == 7 and args[0].device.type == "cpu":
            image, weight, bias, *geometry, groups = args
            plain = all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in geometry)
            kernel = weight.shape[2]
            plain = plain and kernel == weight.shape[3] and kernel % 2 == 1
            plain = plain and geometry[1][0] <= geometry[2][0] * (kernel - 1)
            if bias is None and plain and groups == weight.shape[0] == image.shape[1]:
                return depthwise_conv2d(image, weight, *(pair[0] for pair in geometry))
        return func(*args, **(kwargs or {}))


def depthwise_conv2d(
    image: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c 1 k k"],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Tensor, "b c i j"]:
    """Compute `F.conv2d` with one kernel a channel; under autocast in its type, like `F.conv2d`."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        image, weight = image.to(dtype), weight.to(dtype)
    kernel, (height, width) = weight.shape[2], image.shape[2:]
    result: Tensor
    if dilation == 1:
        result = _Depthwise.apply(image, weight, stride, padding)
        return result
    if stride > 1 or 2 * padding != dilation * (kernel - 1) or height % dilation or width % dilation:
        result = F.conv2d(image, weight, None, stride, padding, dilation, len(weight))
        return result
    # Only cells a dilation apart are combined: as separate images they need no dilation.
    batch, channels, d = len(image), len(weight), dilation
    split = image.reshape(batch, channels, height // d, d, width // d, d)
    parts = split.permute(3, 5, 0, 2, 4, 1).reshape(-1, height // d, width // d, channels)
    output: Tensor = _Depthwise.apply(parts.permute(0, 3, 1, 2), weight, 1, padding // d)
    joined = output.permute(0, 2, 3, 1).reshape(d, d, batch, height // d, width // d, channels)
    return joined.permute(2, 3, 0, 4, 1, 5).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    """A convolution with one kernel a channel, without dilation."""

    @staticmethod
    def forward(context: Any, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        context.save_for_backward(image, weight)
        context.stride, context.padding = stride, padding
        return F.conv2d(image, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        image, weight = context.saved_tensors
        geometry = context.stride, context.padding
        weight_gradient = _weight_gradient(gradient, image, weight, *geometry)
        image_gradient = None
        if context.needs_input_grad[0]:
            image_gradient = _image_gradient(gradient, image, weight, *geometry)
        return image_gradient, weight_gradient, None, None


def _image_gradient(gradient: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolve the output's gradient, its cells ``stride`` apart, with the kernels rotated by 180 degrees."""
    channels, kernel = len(weight), weight.shape[2]
    if stride > 1:
        rows, columns = (side + 2 * padding - kernel + 1 for side in image.shape[2:])
        spread = gradient.new_zeros(len(image), rows, columns, channels).permute(0, 3, 1, 2)
        spread[:, :, ::stride, ::stride] = gradient
        gradient = spread
    return F.conv2d(gradient, weight.flip(2, 3), None, 1, kernel - 1 - padding, 1, channels)


def _weight_gradient(gradient: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Use oneDNN, which is fast for 3 x 3; for 5 x 5, combine the four corners of 3 x 3, which overlap."""
    if weight.shape[2] != 5:
        return _plain_weight_gradient(gradient, image, weight, stride, padding)
    result = torch.empty_like(weight)
    image = F.pad(image, [padding] * 4)
    rows, columns = (stride * (side - 1) + 3 for side in gradient.shape[2:])
    for y, x in product((0, 2), repeat=2):
        corner = weight[:, :, y : y + 3, x : x + 3]
        part = image[:, :, y : y + rows, x : x + columns]
        result[:, :, y : y + 3, x : x + 3] = _plain_weight_gradient(gradient, part, corner, stride, 0)
    return result


def _plain_weight_gradient(
    gradient: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    fixed = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight)
    only_weight = [False, True, False]
    result: Tensor
    _, result, _ = torch.ops.aten.convolution_backward(gradient, image, weight, None, *fixed, only_weight)
    return result
