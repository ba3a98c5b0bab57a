"""The time of calls that take turns: what else the machine does slows all of them.

In: a `Profile` at one shape, or calls by name. Out: the median ratio of forward times,
generated code over nn.Linear; or seconds a call by name and round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median, quantiles
from time import perf_counter

import torch
from torch import nn

from einc.analysis.profile import Profile
from einc.errors import UsageError
from einc.nn.compile import class_of

Call = Callable[[], object]
Clock = Callable[[], float]
"""Seconds since some moment."""

ROUNDS = 7
FEWER = 1
"""Rounds for what the first one shows to be slower than `SLOW`: it is no candidate."""
SLOW = 2.0

ALONE = 2e-2
"""Seconds for which a call has the machine to itself before it is timed: caches, memory and
clock rate are then as it leaves them, and not as the call before did."""
SHORT = 2e-3
"""Seconds until which a call is repeated within a round."""
LONG = 1.0
"""Seconds of a call from which on `FEW` rounds do."""
FEW, MOST = 3, 25
ENOUGH = 1.0
"""Seconds for which there are more than `ROUNDS` rounds, up to `MOST`."""


def against_dense(profile: Profile, tokens: int) -> float:
    """Forward time over nn.Linear's, in float32 on the CPU, without gradients."""
    if profile.figures is None:
        raise UsageError("times need features")
    binding = profile.figures.binding
    torch.manual_seed(0)
    structured = class_of(profile)().eval()
    dense = nn.Linear(binding.d_in, binding.d_out).eval()
    x = torch.randn(tokens, binding.d_in)
    with torch.no_grad():
        return ratio(lambda: structured(x), lambda: dense(x))


def ratio(first: Call, second: Call) -> float:
    """The median, over `ROUNDS`, of the first's time over the second's."""
    seconds(first), seconds(second)  # a first call is no measure
    rounds = ROUNDS if seconds(first) / seconds(second) <= SLOW else FEWER
    return median(seconds(first) / seconds(second) for _ in range(rounds))


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and the quartiles: half of them are between."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


def no_wait() -> None:
    """On a CPU a call has ended when it returns."""


def take_turns(
    calls: Mapping[str, Call],
    clock: Clock = perf_counter,
    wait: Callable[[], None] = no_wait,
    rounds: int | None = None,
    short: float | None = None,
    alone: float = ALONE,
) -> dict[str, tuple[float, ...]]:
    """Seconds a call by name and round; each round times every call once.

    A call is repeated in its turn: first untimed, once or more, for `alone` seconds, and
    then, if it is a short one, for `short` seconds (`SHORT`); it stands with its mean.
    What comes first, without a place in the result, warms up and says how
    long calls are, and so how many rounds there are unless `rounds` says it. `wait`
    returns when the device has done all that it was given.
    """
    if short is None:
        short = SHORT
    expected = {name: _expected(call, clock, wait) for name, call in calls.items()}
    repeats = {name: max(1, ceil(short / t)) for name, t in expected.items()}
    before = {name: ceil(alone / t) for name, t in expected.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    if rounds is None:
        a_round = sum((before[n] + repeats[n]) * t for n, t in expected.items())
        enough = min(max(ROUNDS, ceil(ENOUGH / a_round)), MOST)
        rounds = FEW if max(expected.values()) > LONG else enough
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(before[name]):
                call()
            found[name].append(seconds(call, repeats[name], clock, wait))
    return {name: tuple(times) for name, times in found.items()}


def _expected(call: Call, clock: Clock, wait: Callable[[], None]) -> float:
    once = seconds(call, 1, clock, wait)
    # A first call is no measure of a short one.
    found = once if once > SHORT else seconds(call, 10, clock, wait)
    return max(found, 1e-7)


def seconds(
    call: Call,
    repeats: int = 1,
    clock: Clock = perf_counter,
    wait: Callable[[], None] = no_wait,
) -> float:
    """The mean seconds of a call; what the last one returns is freed after that."""
    wait()
    start = clock()
    for _ in range(repeats):
        kept = call()
    wait()
    end = clock()
    del kept
    return (end - start) / repeats
