"""The fastest of the ways to lower a structure, measured on this machine.

In: a `Profile` at one shape. Out: the `Module` whose forward with backward took the
least time, in the tokens it was planned for. Only what is computed, and in which
layouts and chunks, is chosen: parameters have the same names and shapes in all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from einc import compiler
from einc.analysis.profile import Profile
from einc.codegen.choices import Backward, Dtype
from einc.codegen.nodes import Module, Native
from einc.errors import InternalError, UsageError
from einc.nn.compile import module_class
from einc.nn.machine import processor
from einc.nn.timing import take_turns

LAYOUTS: tuple[Dtype, ...] = ("float32", "bfloat16")
"""What layouts may be chosen for: the rules differ in which operands are read well."""
CHUNKS = (128, 256, 512, 1024, 2048)
"""Tokens of a chunk that are tried."""

Times = Callable[[dict[str, Callable[[], object]]], dict[str, tuple[float, ...]]]


def tuned(
    report: Profile,
    class_name: str = "",
    dtype: Dtype = "float32",
    backward: Backward = "manual",
    native: Native | None = None,
    times: Times = take_turns,
) -> Module:
    """The fastest module on the CPU, for as many tokens as were planned for.

    Layouts of all dtypes, with weights expanded or not, and a backward by autograd take
    turns, then chunks of several sizes, then the best of them and the `native` kernel.
    Without another way to lower it, nothing is measured. `UsageError` where the kernel
    does not compile.
    """
    tokens = report.plan.tokens or 1
    kinds: tuple[Backward, ...] = (backward, "autograd")
    ways = [
        compiler.module(report, class_name, layout, kind, expand=expand)
        for kind in kinds
        for layout in LAYOUTS
        for expand in (True, False)
    ]
    best = _fastest(report, ways, dtype, times)
    if best.chunks is not None:
        sizes = [size for size in CHUNKS if size < tokens]
        ways = [best] + [
            replace(best, chunks=replace(best.chunks, size=s)) for s in sizes
        ]
        best = _fastest(report, ways, dtype, times)
    if native is not None:
        kernel = replace(
            native, least=(min(native.least[0], tokens), min(native.least[1], tokens))
        )
        ways = [best, replace(best, native=kernel)]
        best = _fastest(report, ways, dtype, times)
    name = "".join(c for c in processor("cpu") if c.isascii() and c not in "\\\"'")
    told = [f"tuned for {dtype} on {name.strip()}, {torch.get_num_threads()} threads"]
    if native is not None and best.native is None:
        told.append("plain operations, which took less than the kernel in C")
    return replace(best, figures=(*best.figures, *told))


def _fastest(
    report: Profile, ways: Sequence[Module], dtype: Dtype, times: Times
) -> Module:
    """The one with the least median time, the first of equal ones."""
    different = list(_distinct(ways))
    if len(different) == 1:
        return different[0]
    calls = {str(i): _training(report, way, dtype) for i, way in enumerate(different)}
    found = times(calls)
    least = min(found, key=lambda name: median(found[name]))
    return different[int(least)]


def _distinct(ways: Iterable[Module]) -> Iterable[Module]:
    """Each way once, whatever its header says."""
    seen = []
    for way in ways:
        bare = replace(way, figures=())
        if bare not in seen:
            seen.append(bare)
            yield way


def _check_compiler(built: Any) -> None:
    """Raises `UsageError` where there is a C compiler, and it fails."""
    if not sys.modules[built.__module__].COMPILER:
        return
    try:
        built.KERNEL.compiled()
    except RuntimeError as error:
        raise UsageError(f"--tune with --kernels native: {error}") from error


def _training(report: Profile, module: Module, dtype: Dtype) -> Callable[[], object]:
    """A forward with the gradients of x and of all parameters."""
    if report.figures is None:
        raise InternalError("tuning what was analysed without features")
    source = compiler.source(report.structure, [module])
    built: Any = module_class(source, module.name, report.figures.binding)
    if module.native is not None:
        _check_compiler(built)
    kind = getattr(torch, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = built(dtype=kind)
        x = torch.randn(report.plan.tokens or 1, layer.in_features).to(kind)
    x.requires_grad_()
    pull = torch.ones(len(x), layer.out_features, dtype=kind)
    leaves = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), leaves, pull)
