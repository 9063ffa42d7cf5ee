"""Depthwise convolutions equal those of torch, and freed memory is kept."""

import os

import pytest
import torch
from torch.nn import functional as F

from pipnet.training.cpu_speedups import FastDepthwise, keep_freed_memory

UNITS = {torch.float64: 32, torch.bfloat16: 0.5}
"""Tolerance beside twice torch's error, in units of the last place of the largest value."""
GEOMETRIES = [  # side, kernel, stride, padding, dilation
    (16, 3, 1, 1, 1),
    (16, 3, 2, 1, 1),
    (17, 3, 2, 0, 1),
    (16, 3, 1, 2, 2),
    (15, 3, 1, 2, 2),
    (16, 3, 2, 2, 2),
    (15, 5, 2, 2, 1),
    (17, 5, 1, 2, 1),
    (16, 5, 1, 4, 2),
    (16, 5, 2, 0, 1),
]


def gradients(image, weight, geometry, dtype):
    """Return output and gradients, for a gradient of the output that is exact in this type."""
    side, _, stride, padding, dilation = geometry
    output = F.conv2d(image, weight, None, (stride,) * 2, (padding,) * 2, (dilation,) * 2, len(weight))
    target = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return output, *torch.autograd.grad(output, (image, weight), target.to(output.dtype))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_fast_depthwise_is_as_exact_as_torch(geometry, dtype):
    """Compared with float64: the error is at most twice that of torch, plus `UNITS`."""
    torch.manual_seed(0)
    side, kernel, *_ = geometry
    image = torch.randn(2, 8, side, side, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(8, 1, kernel, kernel, dtype=dtype, requires_grad=True)
    exact = [part.detach().double().requires_grad_() for part in (image, weight)]
    truth = gradients(*exact, geometry, dtype)
    plain = gradients(image, weight, geometry, dtype)
    with FastDepthwise():
        fast = gradients(image, weight, geometry, dtype)
    for ours, theirs, true in zip(fast, plain, truth, strict=True):
        error, allowed = (float((part.double() - true).detach().abs().max()) for part in (ours, theirs))
        assert error <= 2 * allowed + UNITS[dtype] * torch.finfo(dtype).eps * float(true.detach().abs().max())


def test_fast_depthwise_ignores_other_convolutions():
    image, weight = torch.randn(1, 4, 8, 8), torch.randn(8, 4, 3, 3)
    with FastDepthwise():
        output = F.conv2d(image, weight, torch.ones(8), 2, 1)
    torch.testing.assert_close(output, F.conv2d(image, weight, torch.ones(8), 2, 1), rtol=0, atol=0)


def test_fast_depthwise_uses_the_type_of_autocast():
    image, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3)
    with torch.autocast("cpu", torch.bfloat16), FastDepthwise():
        assert F.conv2d(image, weight, None, (2, 2), (1, 1), (1, 1), 4).dtype == torch.bfloat16


def test_keep_freed_memory_avoids_page_faults():
    """Once the heap has grown, allocating again causes few page faults."""
    import resource

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            torch.ones(64 * 2**20 // 4)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with keep_freed_memory():
        for _ in range(5):
            faults()
        assert faults() < 4 * 64 * 2**20 / 4096 / 4


def test_keep_freed_memory_restores_the_defaults(monkeypatch):
    """Those of glibc: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX."""
    defaults = {-4: 65536, -1: 128 * 1024, -2: 128 * 1024, -8: 8 * os.cpu_count()}
    options = dict(defaults)

    class Library:
        def mallopt(self, option, value):
            options[option] = value

    monkeypatch.setattr("pipnet.training.cpu_speedups.ctypes.CDLL", lambda _: Library())
    with keep_freed_memory():
        assert all(options[option] != default for option, default in defaults.items())
    assert options == defaults
