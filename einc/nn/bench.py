"""Times of a structure's generated module beside other ways to compute the same.

In: `Profile`s at one shape, one for each number of tokens. Out: a `Row` for each dtype,
number of tokens and pass, in which all contestants took turns; what it says beyond
times is computed from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import torch

from einc import predict
from einc.analysis.profile import Figures, Profile
from einc.calibration import Calibration, Machine
from einc.codegen.choices import Kernels
from einc.errors import InternalError, UsageError
from einc.nn import beside
from einc.nn.contestants import (
    COMPILED,
    DENSE,
    MODULE,
    PLAIN,
    Contestant,
    Field,
    field,
)
from einc.nn.machine import wait_for
from einc.nn.timing import Clock, Spread, take_turns
from einc.predict import Pass

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}
"""How far results of the same map are apart at most, over the largest entry."""


@dataclass(frozen=True)
class Row:
    """One dtype, number of tokens and pass.

    `times` has seconds a call, by contestant and round; `share` the FLOPs of the
    structure over those of the dense layer; `needs` the seconds that each of the
    machine's ceilings asks for at the least; `predicted` what a calibration says.
    """

    tokens: int
    dtype: str
    kind: Pass
    times: Mapping[str, Sequence[float]]
    share: float
    needs: Mapping[str, float]
    left_out: tuple[str, ...] = ()
    predicted: predict.Row | None = None

    @cached_property
    def seconds(self) -> dict[str, Spread]:
        return {name: Spread.of(times) for name, times in self.times.items()}

    @cached_property
    def ratios(self) -> dict[str, Spread]:
        """Times over the dense layer's in the same round."""
        dense = self.times[DENSE]
        return {
            name: Spread.of([a / b for a, b in zip(times, dense, strict=True)])
            for name, times in self.times.items()
        }

    @property
    def ideal(self) -> float:
        """The dense layer's seconds, were they in proportion to FLOPs."""
        return self.seconds[DENSE].median * self.share

    def times_ideal(self, name: str = MODULE) -> float | None:
        """A contestant's seconds over the ideal; None where there are no FLOPs."""
        return self.seconds[name].median / self.ideal if self.ideal else None

    @property
    def bound(self) -> str:
        """The ceiling that is met first."""
        return max(self.needs, key=self.needs.__getitem__)

    @property
    def predicted_seconds(self) -> dict[str, float]:
        """By contestant, where any are predicted. No prediction knows of a kernel."""
        found = {} if self.predicted is None else dict(self.predicted.seconds)
        if PLAIN in self.times and MODULE in found:
            found[PLAIN] = found.pop(MODULE)
        return found

    def to_json(self) -> dict[str, Any]:
        ratios = self.ratios
        return {
            "tokens": self.tokens,
            "dtype": self.dtype,
            "pass": self.kind,
            "rounds": len(self.times[DENSE]),
            "seconds": {name: asdict(found) for name, found in self.seconds.items()},
            "ratio": {name: found.median for name, found in ratios.items()},
            "ratio_spread": {
                name: {"low": found.low, "high": found.high}
                for name, found in ratios.items()
            },
            "ideal": self.ideal,
            "times_ideal": self.times_ideal(),
            "needs": dict(self.needs),
            "bound": self.bound,
            "predicted": self.predicted_seconds or None,
        }


def rows(
    reports: Mapping[int, Profile],
    dtypes: Sequence[str],
    passes: Sequence[Pass],
    machine: Machine,
    compiled: bool = False,
    calibration: Calibration | None = None,
    clock: Clock = perf_counter,
    makers: Mapping[str, beside.Maker] | None = None,
    kernels: Kernels = "torch",
) -> Iterator[Row]:
    """Measures; `reports` by number of tokens, as planned for so many.

    Predicts beside it, where a calibration of the device and dtype is given. `makers`
    make layers more. Raises `UsageError` where one of those fails or computes another
    map, and where `compiled` is asked for and torch.compile fails.
    """
    for dtype in dtypes:
        for tokens, report in reports.items():
            kind = getattr(torch, dtype)
            device = machine.device
            competing = field(report, tokens, kind, device, compiled, kernels)
            layer = competing.contestants[MODULE].layer
            own = beside.contestants(makers or {}, layer)
            competing = Field(
                competing.contestants | own,
                (*competing.left_out, *beside.notes(own, layer)),
            )
            for a_pass in passes:
                calls = _calls(competing, tokens, a_pass)
                with torch.set_grad_enabled(a_pass == "training"):
                    _check(competing, calls, a_pass, TOLERANCES[dtype])
                    times = take_turns(calls, clock, wait_for(machine.device))
                yield Row(
                    tokens,
                    dtype,
                    a_pass,
                    times,
                    share(report),
                    needs(report, tokens, dtype, a_pass, machine),
                    competing.left_out,
                    _predicted(report, tokens, dtype, a_pass, calibration),
                )


def _predicted(
    report: Profile,
    tokens: int,
    dtype: str,
    kind: Pass,
    calibration: Calibration | None,
) -> predict.Row | None:
    if calibration is None or dtype not in calibration.rates:
        return None
    if predict.why_not(report, calibration) is not None:
        return None
    return predict.predicted(report, tokens, dtype, kind, calibration)


Results = Callable[[], tuple[torch.Tensor, ...]]


def _calls(competing: Field, tokens: int, kind: Pass) -> dict[str, Results]:
    """One pass of each contestant: y; or the gradients of x and the parameters.

    They are returned and not accumulated: nothing is left to clear.
    """
    layer: Any = competing.contestants[MODULE].layer
    bias = layer.bias
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, layer.in_features, generator=generator).to(bias)
    pull = torch.randn(tokens, layer.out_features, generator=generator).to(bias)

    def forward(one: Contestant) -> Results:
        return lambda: (one.layer(x),)

    def training(one: Contestant) -> Results:
        leaf = x.detach().requires_grad_()
        leaves = [leaf, *one.layer.parameters()]
        pulled = pull if one.order is None else pull[:, one.order]
        return lambda: torch.autograd.grad(one.layer(leaf), leaves, pulled)

    made = forward if kind == "forward" else training
    return {name: made(one) for name, one in competing.contestants.items()}


def _check(
    competing: Field, calls: Mapping[str, Results], kind: Pass, tolerance: float
) -> None:
    """Raises `InternalError` where contestants disagree, on y or on x's gradient.

    `UsageError`, where one is the user's.
    """
    expected = calls[MODULE]()[0]
    largest = expected.abs().max().item()
    for name, one in competing.contestants.items():
        try:
            found = calls[name]()[0]
        except Exception as error:
            if name != COMPILED and not one.own:
                raise
            reason = str(error).strip().partition("\n")[0]
            who = "torch.compile" if name == COMPILED else name
            raise UsageError(f"{who} fails here: {reason}") from error
        same = expected
        if one.order is not None and kind == "forward":
            same = expected[:, one.order]
        if found.shape != same.shape:
            raise UsageError(f"{name} gives {[*found.shape]}, not {[*same.shape]}")
        apart = (found - same).abs().max().item()
        # Not the other way round: NaN is apart, too.
        if one.agrees and not apart <= tolerance * largest:
            kind_of_error = UsageError if one.own else InternalError
            raise kind_of_error(
                f"{name} is {apart:.3g} apart from the module, of {largest:.3g}"
            )


# What times are held against


def share(report: Profile) -> float:
    """FLOPs over the dense layer's, the router's among them.

    The same for both passes: what backward computes again is no part of an ideal.
    """
    figures = _figures(report)
    own = figures.work.matrix + figures.parameters.router
    return float(own / figures.dense)


def needs(
    report: Profile, tokens: int, dtype: str, kind: Pass, machine: Machine
) -> dict[str, float]:
    """The seconds that a call needs at each ceiling, the router's bytes left out."""
    figures = _figures(report)
    work, router = figures.work, figures.parameters.router
    backward = kind == "training"
    macs = work.training_matrix + 3 * router if backward else work.matrix + router
    # Each contraction reads and writes the same three tensors, whichever it solves for.
    times = 3 if backward else 1
    itemsize = getattr(torch, dtype).itemsize
    moved = times * figures.memory.bytes_moved * tokens * itemsize / 4
    return {
        "arithmetic": float(2 * macs * tokens) / machine.matmul[dtype],
        "bytes": float(moved) / machine.copy,
        "launches": times * operations(report, tokens) * machine.launch,
    }


def operations(report: Profile, tokens: int) -> int:
    """The contractions of a forward, and the sums that join terms and bias.

    What experts compute counts for each that a token can take: copies and what a
    router does count for nothing.
    """
    figures = _figures(report)
    binding = figures.binding
    count = len(report.plan.steps) + len(report.plan.terms)
    if binding.top is not None:
        experts = binding.sizes[binding.structure.routed or ""]
        once = sum(len(term.expert_steps) for term in report.plan.terms)
        count += (min(experts, tokens * binding.top) - 1) * once
    return count


def _figures(report: Profile) -> Figures:
    assert report.figures is not None, "times need features"
    return report.figures
