"""The time of generated code beside that of nn.Linear.

In: a `Profile` at one shape. Out: the median ratio of forward times, of calls that take
turns: what else the machine does slows both.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import nn

from einc import compiler
from einc.analysis.profile import Profile
from einc.errors import UsageError
from einc.nn.compile import module_class

ROUNDS = 7
FEWER = 1
"""Rounds for what the first one shows to be slower than `SLOW`: it is no candidate."""
SLOW = 2.0


def against_dense(profile: Profile, tokens: int) -> float:
    """Forward time over nn.Linear's, in float32 on the CPU, without gradients."""
    if profile.figures is None:
        raise UsageError("times need features")
    binding = profile.figures.binding
    module = compiler.module(profile)
    source = compiler.source(profile.structure, [module])
    torch.manual_seed(0)
    structured = module_class(source, module.name, binding)().eval()
    dense = nn.Linear(binding.d_in, binding.d_out).eval()
    x = torch.randn(tokens, binding.d_in)
    with torch.no_grad():
        return ratio(lambda: structured(x), lambda: dense(x))


def ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """The median, over `ROUNDS`, of the first's time over the second's."""
    _seconds(second)
    warm_up = _seconds(first) / _seconds(second)
    rounds = ROUNDS if warm_up <= SLOW else FEWER
    return median(_seconds(first) / _seconds(second) for _ in range(rounds))


def _seconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start
