"""What a machine is, and the most that it was seen to do.

In: a device and dtypes. Out: a `Machine`, with rates measured here: they are ceilings to
hold other times against, not figures of its maker.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from einc.calibration import Machine
from einc.nn.timing import no_wait, seconds

SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
"""Rows and columns of the matrices that are multiplied."""
COPIED = 1 << 27
"""Bytes that are copied: more than caches hold."""
ALLOCATOR = (
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)
"""Variables that set it, besides those named MALLOC_ and more."""
BUDGET = 0.2
"""Seconds for the best time of one operation."""


def machine(device: str, dtypes: Sequence[str]) -> Machine:
    """Measures the ceilings of `device`, "cpu" or "cuda", for dtypes by torch's names."""
    return Machine(
        device,
        processor(device),
        torch.get_num_threads(),
        torch.__version__,
        allocator(os.environ),
        {name: matmul_rate(getattr(torch, name), device) for name in dtypes},
        copy_rate(device),
        launch(device),
    )


def wait_for(device: str) -> Callable[[], None]:
    """What returns when the device has done all that it was given."""
    return torch.cuda.synchronize if device == "cuda" else no_wait


def processor(device: str) -> str:
    """The name of the processor, or of the graphics card."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()


def allocator(environment: Mapping[str, str]) -> str:
    """The settings that move memory's cost, as they stand in the environment.

    >>> allocator({"MALLOC_ARENA_MAX": "1", "HOME": "/"})
    'MALLOC_ARENA_MAX=1'
    """
    told = [
        f"{name}={value}"
        for name, value in sorted(environment.items())
        if value and (name in ALLOCATOR or name.startswith("MALLOC_"))
    ]
    glibc = platform.libc_ver()[0] == "glibc"
    return " ".join(told) or ("glibc's default" if glibc else "the system's default")


def matmul_rate(dtype: torch.dtype, device: str) -> float:
    """The best FLOPs a second of square products, in each form that torch has."""
    best = 0.0
    for n in SIZES[device]:
        for call in _products(n, dtype, device):
            with torch.no_grad():
                best = max(best, 2 * n**3 / least(call, device))
    return best


def _products(
    n: int, dtype: torch.dtype, device: str
) -> Iterator[Callable[[], torch.Tensor]]:
    """n x n times n x n, in forms that reach different libraries on CPUs.

    A convolution on CUDA would be no fair ceiling: its float32 is TF32 by default.
    """
    a, b = torch.randn(2, n, n).to(device, dtype)
    yield lambda: a @ b
    yield lambda: nn.functional.linear(a, b)
    if device == "cuda":
        return
    wide = a.T.reshape(1, n, 32, -1).contiguous(memory_format=torch.channels_last)
    kernel = b.reshape(n, n, 1, 1).contiguous(memory_format=torch.channels_last)
    yield lambda: nn.functional.conv2d(wide, kernel)


def copy_rate(device: str) -> float:
    """Bytes a second of a copy, those read and those written."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / least(lambda: target.copy_(source), device)


def launch(device: str) -> float:
    """Seconds of an operation with nothing to do, one of many in a row."""
    one = torch.ones((), device=device)
    with torch.no_grad():
        return least(lambda: one + one, device, repeats=100)


def least(call: Callable[[], object], device: str, repeats: int = 1) -> float:
    """The least seconds of a call within `BUDGET`, at least one after warming up."""
    wait = wait_for(device)
    seconds(call, repeats, wait=wait)
    best = float("inf")
    end = perf_counter() + BUDGET
    while True:
        best = min(best, seconds(call, repeats, wait=wait))
        if perf_counter() > end:
            return best
