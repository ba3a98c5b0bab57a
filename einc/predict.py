"""How long generated modules and nn.Linear take, from what a machine was seen to do.

In: a `Profile`, a number of tokens, and a `Calibration`. Out: seconds, and
what they go into. The operations are those of `codegen.operations`, one after the other:
what overlaps, and what one leaves in the caches for the next, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

from einc import compiler
from einc.analysis.profile import Profile
from einc.calibration import ITEMSIZE, Calibration, Rates
from einc.codegen.choices import Dtype
from einc.codegen.operations import Work, linear, work
from einc.codegen.recorder import (
    Counted,
    Elementwise,
    MatrixProduct,
    Operation,
    View,
)
from einc.codegen.strided import Copy
from einc.errors import UsageError
from einc.order import Order
from einc.sizes import Binding
from einc.times import crossover, faster

Pass = Literal["forward", "training"]
Bound = Literal["arithmetic", "bytes", "launches"]

SHOWN = (1, 16, 256, 2048)
"""Tokens a call."""
SEARCHED = tuple(1 << i for i in range(15))
"""Tokens a call, among which it is looked from where on the structure is faster."""


@dataclass(frozen=True)
class Seconds:
    """The seconds of a call, by what bounds the operations that they go into.

    An operation is bound by what asks for the most: its FLOPs at the ceiling of matrix
    products, its bytes at the best rate of copies as large, or its launch. Views and the
    rest of a call are launches, and taking memory is bytes.
    """

    by_bound: dict[Bound, float]

    @property
    def total(self) -> float:
        return sum(self.by_bound.values())

    @property
    def bound(self) -> Bound:
        """What most of the seconds go into."""
        return max(self.by_bound, key=self.by_bound.__getitem__)


@dataclass(frozen=True)
class Row:
    """One dtype, number of tokens and pass."""

    tokens: int
    dtype: str
    kind: Pass
    module: Seconds
    dense: Seconds

    @property
    def seconds(self) -> dict[str, float]:
        return {"module": self.module.total, "dense": self.dense.total}

    @property
    def ratio(self) -> float:
        return self.module.total / self.dense.total

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "dtype": self.dtype,
            "pass": self.kind,
            "seconds": self.seconds,
            "ratio": self.ratio,
            "parts": dict(self.module.by_bound),
            "bound": self.module.bound,
        }


@dataclass(frozen=True)
class Prediction:
    """Rows for the tokens that are `SHOWN`, and ratios by dtype and pass for more."""

    calibration: Calibration
    rows: tuple[Row, ...]
    ratios: dict[tuple[str, Pass], dict[int, float]]

    def sentences(self, name: str) -> list[str]:
        """From how many tokens on a structure is faster, among powers of two."""
        return [
            f"{dtype}, {kind}: {name} is {faster(ratios, 'predicted')}"
            for (dtype, kind), ratios in self.ratios.items()
        ]

    def to_json(self, name: str) -> dict[str, Any]:
        return {
            "machine": self.calibration.machine.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "faster_from": [
                {"dtype": dtype, "pass": kind, "tokens": crossover(ratios)}
                for (dtype, kind), ratios in self.ratios.items()
            ],
            "sentences": self.sentences(name),
        }


def prediction(
    binding: Binding,
    calibration: Calibration,
    shown: Sequence[int] = SHOWN,
    order: Order = "best",
) -> Prediction:
    """For each dtype and pass of a calibration, the module planned for each number.

    Raises `UsageError` for what cannot be predicted.
    """
    searched = sorted({*shown, *SEARCHED})
    structure, shape = binding.structure, (binding.d_in, binding.d_out)
    reports = {n: compiler.analyze(structure, *shape, n, order) for n in searched}
    rows = [
        row
        for dtype in calibration.rates
        for kind in get_args(Pass)
        for tokens, report in reports.items()
        for row in [predicted(report, tokens, dtype, kind, calibration)]
    ]
    ratios: dict[tuple[str, Pass], dict[int, float]] = {}
    for row in rows:
        ratios.setdefault((row.dtype, row.kind), {})[row.tokens] = row.ratio
    few = tuple(row for row in rows if row.tokens in shown)
    return Prediction(calibration, few, ratios)


def predicted(
    report: Profile, tokens: int, dtype: str, kind: Pass, calibration: Calibration
) -> Row:
    """A generated module and nn.Linear, in a dtype that was calibrated.

    Raises `UsageError` where `why_not` tells a reason.
    """
    reason = why_not(report, calibration)
    if reason is not None:
        raise UsageError(reason)
    on_cpu = calibration.machine.device == "cpu"
    planned: Dtype = "bfloat16" if on_cpu and dtype == "bfloat16" else "float32"
    module = compiler.module(report, dtype=planned)
    own, dense = (
        seconds(found, kind, dtype, calibration)
        for found in (
            work(module, tokens, in_chunks=on_cpu),
            linear(module.d_in, module.d_out, tokens),
        )
    )
    return Row(tokens, dtype, kind, own, dense)


def why_not(report: Profile, calibration: Calibration) -> str | None:
    """Why times cannot be predicted, if they cannot."""
    device = calibration.machine.device
    if report.structure.route is not None and device != "cpu":
        return "times of routed structures are predicted for CPUs alone"
    return None


def seconds(found: Work, kind: Pass, dtype: str, calibration: Calibration) -> Seconds:
    """The seconds of a call's operations, and those of the call itself."""
    times = _Times(calibration, dtype)
    overheads = calibration.overheads
    if kind == "forward":
        times.add(found.forward, overheads.call)
    else:
        kept = overheads.backward + found.nodes * overheads.node
        written = found.functions * overheads.function
        times.add(found.training, overheads.call + kept + written)
    return Seconds(times.by_bound)


class _Times:
    """Adds up what operations take, by what bounds them."""

    def __init__(self, calibration: Calibration, dtype: str) -> None:
        self.calibration = calibration
        self.machine = calibration.machine
        self.rates: Rates = calibration.rates[dtype]
        self.itemsize = ITEMSIZE[dtype]
        self.peak = self.machine.matmul[dtype]
        self.by_bound: dict[Bound, float] = dict.fromkeys(get_args(Bound), 0.0)

    def add(self, counted: Counted, launched: float) -> None:
        """What a call does, and what launching it takes besides."""
        self.by_bound["launches"] += launched
        for operation, count in counted.operations.items():
            self.by_bound[self._bound(operation)] += count * self.of(operation)
        fresh = {n * self.itemsize: count for n, count in counted.fresh.items()}
        self.by_bound["bytes"] += self.calibration.seconds_of_fresh(fresh)

    def _bound(self, operation: Operation) -> Bound:
        """What asks for the most: the FLOPs, the bytes, or the launch."""
        work, least = 0, 0.0
        match operation:
            case View():
                return "launches"
            case MatrixProduct(batch=b, m=m, k=k, n=n):
                work = 2 * b * m * k * n
                values = b * (m * k + k * n + m * n)
                least = 2 / self.rates.products[operation.layouts].at(1, 1, 1, 1)
            case Copy():
                values = 2 * operation.elements
                least = 2 * self.itemsize / self.rates.copy.at(1)
            case Elementwise():
                values = operation.moved
                least = 3 * self.itemsize / self.rates.elementwise.at(1)
            case _:
                assert_never(operation)
        moved = values * self.itemsize
        needs: dict[Bound, float] = {
            "arithmetic": work / self.peak,
            "bytes": moved / self._copied_at_best(moved),
            "launches": least,
        }
        return max(needs, key=needs.__getitem__)

    def _copied_at_best(self, moved: int) -> float:
        """Bytes a second of a copy of so many or more: without its launch."""
        copies = self.rates.copy
        rates = [rate for (size,), rate in copies.rates.items() if size >= moved]
        return max(rates, default=copies.at(moved))

    def of(self, operation: Operation) -> float:
        """The seconds of one operation, into memory that is there."""
        match operation:
            case View():
                return self.calibration.overheads.view
            case MatrixProduct(batch=b, m=m, k=k, n=n):
                rate = self.rates.products[operation.layouts].at(b, m, k, n)
                copies = sum(self._of_copy(copy) for copy in operation.interleaved)
                interleaved = self.rates.interleaved * copies
                apart = b * self.rates.apart if operation.is_apart and b > 1 else 0.0
                return 2 * b * m * k * n / rate + interleaved + apart
            case Copy():
                return self._of_copy(operation)
            case Elementwise():
                moved = operation.moved * self.itemsize
                return moved / self.rates.elementwise.at(moved)
            case _:
                assert_never(operation)

    def _of_copy(self, copy: Copy) -> float:
        moved = 2 * copy.elements * self.itemsize
        found = moved / self.rates.copy.at(moved)
        if copy.rows == 1:
            return found
        slow = moved / self.rates.transpose.at(copy.rows, copy.columns)
        return max(found, slow)
