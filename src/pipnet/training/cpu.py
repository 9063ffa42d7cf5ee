"""What makes training on a CPU bearable: freed memory that is kept, and quick depthwise convolutions.

Neither changes what is computed, but for the rounding of sums. Measured in `benchmarks/speed.md`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
"""glibc's numbers of what `mallopt` sets (malloc.h)."""


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for what it needs next.

    glibc gives every large block back to the system when it is freed. A training step then asks for the same
    gigabytes again, and the system fills them with zeros, a page at a time. Where the C library is another
    one nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(MMAP_MAX, 0)  # large blocks out of the heap, like small ones
    mallopt(TRIM_THRESHOLD, 2**31 - 1)  # and the heap does not shrink
    mallopt(TOP_PAD, 256 * 2**20)  # it grows in large steps
    mallopt(ARENA_MAX, 1)  # one heap: those of other threads cannot hold large blocks


class FastDepthwise(TorchFunctionMode):
    """Within it, depthwise convolutions are trained quickly on the CPU.

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
    """`F.conv2d` with a kernel a channel; under autocast, in its type, as there."""
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        image, weight = image.to(kind), weight.to(kind)
    kernel, (height, width) = weight.shape[2], image.shape[2:]
    result: Tensor
    if dilation == 1:
        result = _Depthwise.apply(image, weight, stride, padding)
        return result
    if stride > 1 or 2 * padding != dilation * (kernel - 1) or height % dilation or width % dilation:
        result = F.conv2d(image, weight, None, stride, padding, dilation, len(weight))
        return result
    # Cells a dilation apart see only each other: as pictures of their own they are convolved plainly.
    batch, channels, d = len(image), len(weight), dilation
    split = image.reshape(batch, channels, height // d, d, width // d, d)
    parts = split.permute(3, 5, 0, 2, 4, 1).reshape(-1, height // d, width // d, channels)
    done: Tensor = _Depthwise.apply(parts.permute(0, 3, 1, 2), weight, 1, padding // d)
    joined = done.permute(0, 2, 3, 1).reshape(d, d, batch, height // d, width // d, channels)
    return joined.permute(2, 3, 0, 4, 1, 5).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    """A convolution with a kernel a channel, without dilation."""

    @staticmethod
    def forward(context: Any, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        context.save_for_backward(image, weight)
        context.stride, context.padding = stride, padding
        return F.conv2d(image, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        image, weight = context.saved_tensors
        geometry = context.stride, context.padding
        of_weight = _gradient_of_weight(gradient, image, weight, *geometry)
        wanted = context.needs_input_grad[0]
        of_image = _gradient_of_image(gradient, image, weight, *geometry) if wanted else None
        return of_image, of_weight, None, None


def _gradient_of_image(gradient: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """A convolution of the output's gradient, its cells ``stride`` apart, by kernels turned half around."""
    channels, kernel = len(weight), weight.shape[2]
    if stride > 1:
        rows, columns = (side + 2 * padding - kernel + 1 for side in image.shape[2:])
        apart = gradient.new_zeros(len(image), rows, columns, channels).permute(0, 3, 1, 2)
        apart[:, :, ::stride, ::stride] = gradient
        gradient = apart
    return F.conv2d(gradient, weight.flip(2, 3), None, 1, kernel - 1 - padding, 1, channels)


def _gradient_of_weight(gradient: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """oneDNN's, which is quick for 3 x 3; of 5 x 5 the four corners of 3 x 3, which overlap."""
    if weight.shape[2] != 5:
        return _plain_gradient_of_weight(gradient, image, weight, stride, padding)
    result = torch.empty_like(weight)
    image = F.pad(image, [padding] * 4)
    rows, columns = (stride * (side - 1) + 3 for side in gradient.shape[2:])
    for y, x in product((0, 2), repeat=2):
        corner = weight[:, :, y : y + 3, x : x + 3]
        seen = image[:, :, y : y + rows, x : x + columns]
        result[:, :, y : y + 3, x : x + 3] = _plain_gradient_of_weight(gradient, seen, corner, stride, 0)
    return result


def _plain_gradient_of_weight(
    gradient: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    fixed = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight)
    only_weight = [False, True, False]
    result: Tensor
    _, result, _ = torch.ops.aten.convolution_backward(gradient, image, weight, None, *fixed, only_weight)
    return result
