"""Integers for the sizes of a structure at given features.

In: a `Structure`, d_in and d_out. Out: a `Binding`: one integer for each index, so
that the sizes of x multiply to d_in and those of y to d_out, or to a little more
(then the input is padded and the output cut, and no feature is dropped).

Both sides are chosen together. Candidates of a side are exact factorisations of
the features, or of a few more, near what `~` asks for. Of all pairs of candidates
taken is the least padding at which the cut bound on the rank comes within 5% of
that of the ideal real sizes; then the nearest to what was asked, in sizes and in
FLOPs; then the fewest sizes that are not multiples of 8; then the smallest sizes.
Rounding each size by itself loses features; factorising each side alone, rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from einc import errors, syntax
from einc.errors import Diagnostic, UsageError, counted
from einc.expressions import NoValue, Value, evaluate, shown, whole
from einc.network import Network, X, bits
from einc.resolve import NEAREST
from einc.source import Span
from einc.structure import Axis, Role, Structure, Term

MAX_SIZE = (1 << 31) - 1
MAX_ELEMENTS = 1 << 40
NEAR = 0.35
"""How far |log size - log target| may be, on average over the free indices."""
NEAR_UNPADDED = 0.5
"""The same where nothing is padded: features that factor well are left alone."""
SLACK = 0.95
"""The share of the ideal rank that is enough to stop padding."""
EXACT_PADDING = Fraction(105, 100)

_CANDIDATES = 64
_LEVELS = 256
_PAIRS = 60_000
_STEP = 0.05


@dataclass(frozen=True)
class Binding:
    """A structure with integers.

    `padded` has (D_in, D_out) for each term; `top` is the number of experts that a
    token takes where the structure is routed.
    """

    structure: Structure
    d_in: int
    d_out: int
    sizes: Mapping[str, int]
    padded: tuple[tuple[int, int], ...]
    top: int | None
    warnings: tuple[Diagnostic, ...] = field(default=(), compare=False, repr=False)

    @property
    def is_padded(self) -> bool:
        return any(pair != (self.d_in, self.d_out) for pair in self.padded)

    def size(self, axis: Axis) -> int:
        return self.sizes[axis.name]

    def shape(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        return tuple(self.sizes[axis.name] for axis in axes)

    def network(self, term: Term) -> Network:
        return Network(term, self.structure.routed)

    def active_size(self, axis: Axis) -> int:
        """The size of an axis for one token: `top` where it is routed."""
        if axis.name == self.structure.routed and self.top is not None:
            return self.top
        return self.sizes[axis.name]


def features(
    structure: Structure, d_in: int | None, d_out: int | None
) -> tuple[int, int] | None:
    """The features to bind to: as given, else what fixed sizes say, else d_in.

    None where that leaves d_in open. Raises `UsageError` outside of 1 to 2^31 - 1.
    """
    d_in = structure.fixed_features(0) if d_in is None else d_in
    if d_out is None:
        d_out = structure.fixed_features(1)
        d_out = d_in if d_out is None else d_out
    for value in (d_in, d_out):
        if value is not None and not 1 <= value <= MAX_SIZE:
            raise UsageError(f"features must be from 1 to {MAX_SIZE}, not {value}")
    return None if d_in is None or d_out is None else (d_in, d_out)


def bind(structure: Structure, d_in: int, d_out: int) -> Binding:
    """Chooses the sizes. Raises `SpecError` where exact sizes do not fit."""
    return _Binder(structure, d_in, d_out).run()


@dataclass(frozen=True)
class _Side:
    """One side of a term: what is fixed, what is free, and near what."""

    axes: tuple[Axis, ...]
    features: int
    fixed: int
    free: tuple[Axis, ...]
    targets: tuple[float, ...]  # logarithms of the ideal sizes of `free`
    limit: float  # the most padded features that are tried

    def levels(self) -> Iterator[int]:
        """Padded features to try, the fewest first."""
        first = -(-self.features // self.fixed) * self.fixed
        yield first
        if not self.free:
            return
        for step in range(1, _LEVELS):
            level = first + step * self.fixed
            if level > self.limit:
                return
            yield level


@dataclass(frozen=True)
class _Choice:
    """Sizes for the free axes of one side, and how far they are from the targets."""

    sizes: tuple[int, ...]
    distance: float


class _Binder:
    def __init__(self, structure: Structure, d_in: int, d_out: int) -> None:
        self.structure = structure
        self.d_in, self.d_out = d_in, d_out
        self.faults = structure.diagnostics()
        self.sizes: dict[str, int] = {}
        self.scope: dict[str, Value] = {}

    def run(self) -> Binding:
        structure = self.structure
        try:
            self.scope = structure.scope(Fraction(self.d_in), Fraction(self.d_out))
        except NoValue as fault:
            self.faults.add(fault.fault, fault.expr.span, **fault.values)
            self.faults.stop_on_errors()
        targets: dict[str, float] = {}
        for axis in structure.axes:
            self._lay_down(axis, targets)
        self.faults.stop_on_errors()
        top = self._top()
        (term,) = structure.terms
        network = Network(term, structure.routed)
        sides = tuple(self._side(term, side, targets) for side in (0, 1))
        self.faults.stop_on_errors()
        padded = self._choose(network, (sides[0], sides[1]), top)
        self._limits()
        self.faults.stop_on_errors()
        self._lint(network)
        return Binding(
            structure,
            self.d_in,
            self.d_out,
            {axis.name: self.sizes[axis.name] for axis in structure.axes},
            (padded,),
            top,
            self.faults.warnings,
        )

    # What the statements say

    def _lay_down(self, axis: Axis, targets: dict[str, float]) -> None:
        size, name = axis.size, axis.name
        if size.expr is None:
            return
        value = self._value(size.expr)
        if value is None:
            return
        if size.kind == "exact":
            whole = self._whole(size.expr, value, f"the size of `{name}`", NEAREST)
            if whole is not None:
                self.sizes[name] = whole
            return
        if value <= 0:
            self._fault(errors.NOT_POSITIVE, size.expr, value=shown(size.expr, value))
        elif value > MAX_SIZE:
            self._fault(errors.TOO_LARGE, size.expr, limit="sizes go up to 2^31 - 1")
        elif axis.role is Role.INNER:
            self.sizes[name] = max(1, math.floor(value + Fraction(1, 2)))
        else:
            targets[name] = math.log(value)

    def _value(self, expr: syntax.Expr) -> Value | None:
        try:
            return evaluate(expr, self.scope)
        except NoValue as fault:
            values = {k: v for k, v in fault.values.items() if k != "expr"}
            self._fault(fault.fault, fault.expr, **values)
            return None

    def _whole(
        self, expr: syntax.Expr, value: Value, what: str, advice: str
    ) -> int | None:
        number = whole(value)
        if number is None:
            told = shown(expr, value)
            fault = errors.NOT_AN_INTEGER
            self._fault(fault, expr, what=what, value=told, advice=advice)
        elif number > MAX_SIZE:
            self._fault(errors.TOO_LARGE, expr, limit="sizes go up to 2^31 - 1")
            return None
        return number

    def _fault(self, fault: errors.Fault, expr: syntax.Expr, **values: object) -> None:
        where = f" at {self.d_in} x {self.d_out}"
        text = syntax.unparse(expr)
        self.faults.add_once(fault, expr.span, where=where, expr=text, **values)

    def _top(self) -> int | None:
        route = self.structure.route
        if route is None:
            return None
        value = self._value(route.top)
        self.faults.stop_on_errors()
        assert value is not None
        top = self._whole(route.top, value, "`top`", "")
        self.faults.stop_on_errors()
        assert top is not None
        size = self.sizes[route.index]
        if top > size:
            self.faults.add(
                errors.TOP_RANGE,
                route.top.span,
                top=top,
                name=route.index,
                values=counted(size, "value"),
                size=size,
            )
            self.faults.stop_on_errors()
        return top

    def _side(
        self, term: Term, side: Literal[0, 1], targets: Mapping[str, float]
    ) -> _Side:
        axes = term.sides[side]
        count = (self.d_in, self.d_out)[side]
        free = tuple(a for a in axes if a.name not in self.sizes)
        fixed = math.prod(self.sizes[a.name] for a in axes if a.name in self.sizes)
        least = -(-count // fixed) * fixed
        if least > EXACT_PADDING * count or (not free and fixed < count):
            below = [] if not free else [count // fixed * fixed]
            nearest = [str(n) for n in (*below, least if free else fixed) if n]
            self.faults.add(
                errors.DOES_NOT_FIT,
                _side_span(term, side),
                tensor=_side_text(term, side),
                multiple=f"multiples of {fixed}" if free else counted(fixed, "feature"),
                features=counted(count, "feature"),
                nearest=f"{' or '.join(nearest)} feature{'s' * (nearest != ['1'])}",
            )
        limit = max(1.005 * count, count + 8)
        ideal = _ideal(axes, free, math.log(count / fixed), targets)
        return _Side(axes, count, fixed, free, ideal, limit)

    # Choosing

    def _choose(
        self, network: Network, sides: tuple[_Side, _Side], top: int | None
    ) -> tuple[int, int]:
        search = _Search(network, sides, dict(self.sizes), top)
        best = search.run()
        if best is None:
            return self._common(network, sides, top)
        self.sizes.update(best.sizes)
        for i, padded in enumerate(best.levels):
            self._warn_exact(network.term, sides[i], 0 if i == 0 else 1, padded)
        return best.levels

    def _warn_exact(
        self, term: Term, side: _Side, which: Literal[0, 1], padded: int
    ) -> None:
        if side.features % side.fixed == 0:
            return
        below, above = side.features // side.fixed * side.fixed, padded
        nearest = f"{below} or {above}" if below and side.free else str(above)
        self.faults.add(
            errors.PADDED_EXACT,
            _side_span(term, which),
            tensor=f"`{_side_text(term, which)}`",
            features=side.features,
            padded=padded,
            nearest=nearest,
        )

    def _common(
        self, network: Network, sides: tuple[_Side, _Side], top: int | None
    ) -> tuple[int, int]:
        """No near sizes for the indices of both sides: each side is padded to them."""
        both = [a for a in sides[0].free if a.role is Role.BOTH]
        targets = dict(zip(sides[0].free, sides[0].targets, strict=True))
        least = min(side.features // side.fixed for side in sides)
        wanted: dict[Axis, int] = {}
        for axis in both:
            wanted[axis] = max(1, min(round(math.exp(targets[axis])), least))
            least = max(1, least // wanted[axis])
        options = [wanted]
        if len(both) == 1:
            (axis,) = both
            spread = math.exp(NEAR)
            low = max(1, math.ceil(wanted[axis] / spread))
            high = max(low, math.floor(wanted[axis] * spread))
            near = sorted(range(low, high + 1), key=lambda s: abs(s - wanted[axis]))
            options = [{axis: s} for s in near[:_CANDIDATES]]
        best: _Best | None = None
        for option in options:
            sizes = self.sizes | {a.name: s for a, s in option.items()}
            fixed = tuple(_with_fixed(side, option) for side in sides)
            found = _Search(network, (fixed[0], fixed[1]), sizes, top).run()
            if found is not None:
                found = _Best(found.key, found.levels, sizes | found.sizes)
            if found is not None and (best is None or found.key < best.key):
                best = found
        assert best is not None, "fixed common sizes always have a multiple"
        self.sizes.update(best.sizes)
        for which, side in enumerate(sides):
            if best.levels[which] != side.features:
                self.faults.add(
                    errors.PADDED_BLOCK,
                    _side_span(network.term, 0 if which == 0 else 1),
                    tensor=f"`{_side_text(network.term, 0 if which == 0 else 1)}`",
                    features=side.features,
                    padded=best.levels[which],
                    name=both[0].name,
                    target=wanted[both[0]],
                )
        return best.levels

    # After choosing

    def _limits(self) -> None:
        for operand in self.structure.factors:
            elements = math.prod(self.sizes[a.name] for a in operand.axes)
            if elements > MAX_ELEMENTS:
                refs = [
                    r
                    for t in self.structure.terms
                    for r in t.equation.right
                    if r.tensor.text == operand.name
                ]
                self.faults.add(
                    errors.LIMIT,
                    refs[0].span,
                    what=f"factor `{operand.name}` has {elements} elements",
                    limit="2^40",
                    advice="",
                )

    def _lint(self, network: Network) -> None:
        """Inner indices past what the two factors that share them can use."""
        term = network.term
        for axis in term.axes:
            holders = [o for o in term.operands if axis in o.axes]
            if axis.role is not Role.INNER or axis.name == network.routed:
                continue
            if len(holders) != 2 or axis.size.expr is None:
                continue
            left, right = holders
            enough = min(
                math.prod(self.sizes[a.name] for a in one.axes if a not in other.axes)
                for one, other in ((left, right), (right, left))
            )
            if self.sizes[axis.name] > enough:
                self.faults.add(
                    errors.WASTED_RANK,
                    axis.size.span,
                    name=axis.name,
                    size=self.sizes[axis.name],
                    enough=enough,
                    left=left.name,
                    right=right.name,
                )


def _with_fixed(side: _Side, sizes: Mapping[Axis, int]) -> _Side:
    """The side with some of its free axes fixed."""
    fixed = side.fixed * math.prod(sizes[a] for a in side.free if a in sizes)
    free = tuple(a for a in side.free if a not in sizes)
    kept = [t for a, t in zip(side.free, side.targets, strict=True) if a not in sizes]
    # What the fixed ones take more or less than asked, the others give.
    excess = math.log(max(1.0, side.features / fixed)) - sum(kept)
    targets = tuple(max(0.0, t + excess / len(kept)) for t in kept)
    least = -(-side.features // fixed) * fixed
    return _Side(side.axes, side.features, fixed, free, targets, least + 8 * fixed)


def _ideal(
    axes: tuple[Axis, ...],
    free: tuple[Axis, ...],
    total: float,
    targets: Mapping[str, float],
) -> tuple[float, ...]:
    """Logarithms of the ideal sizes of `free`, which sum to `total`.

    Where what was asked multiplies to something else, the indices that grow and
    are not of both sides share the difference.
    """
    known = {a: targets[a.name] for a in free if a.name in targets}
    rest = total - sum(known.values())
    unknown = [a for a in free if a not in known]
    if unknown:
        known[unknown[0]] = max(0.0, rest)
        rest = min(0.0, rest)
    sharing = [a for a in free if a.theta > 0 and a.role is not Role.BOTH]
    if sharing and abs(rest) > 1e-12:
        for axis in sharing:
            known[axis] += rest / len(sharing)
    return tuple(max(0.0, known[a]) for a in free)


@dataclass(frozen=True, order=True)
class _Best:
    key: tuple[float, ...]
    levels: tuple[int, int]
    sizes: dict[str, int] = field(compare=False)


class _Search:
    """The choice among pairs of candidates; see the module's docstring."""

    def __init__(
        self,
        network: Network,
        sides: tuple[_Side, _Side],
        sizes: dict[str, int],
        top: int | None,
    ) -> None:
        self.network = network
        self.sides = sides
        self.cuts = [list(bits(cut)) for cut in network.cuts]
        self.steps = [list(bits(step)) for step in _written_steps(network)]
        self.base = [0.0] * len(network.axes)
        for i, axis in enumerate(network.axes):
            size = sizes.get(axis.name, 1)
            if axis.name == network.routed and top is not None:
                size = top
            self.base[i] = math.log(size)
        self.features = math.log(min(side.features for side in sides))
        ideal = list(self.base)
        for side in sides:
            for axis, target in zip(side.free, side.targets, strict=True):
                ideal[network.axes.index(axis)] = target
        self.ideal_rank = self._rank(ideal)
        self.ideal_flops = self._flops(ideal)
        self.shared = [
            (i, sides[1].free.index(axis))
            for i, axis in enumerate(sides[0].free)
            if axis in sides[1].free
        ]

    def run(self) -> _Best | None:
        """The best pair, or None where the sides have no common sizes at all."""
        pairs = 0
        best: _Best | None = None
        best_rank = -math.inf
        for levels in _in_order_of_padding(self.sides):
            choices = [
                self._near(side, level)
                for level, side in zip(levels, self.sides, strict=True)
            ]
            if pairs > _PAIRS:
                break
            found: list[tuple[float, tuple[int, ...], dict[str, int]]] = []
            for first in choices[0]:
                for second in choices[1]:
                    if any(first.sizes[i] != second.sizes[j] for i, j in self.shared):
                        continue
                    pairs += 1
                    found.append(self._judge(first, second))
            if not found:
                pairs += 1
                continue
            rank = max(entry[0] for entry in found)
            if rank <= best_rank + 1e-9:
                continue
            enough = min(rank, self.ideal_rank + math.log(SLACK))
            key, sizes = min(
                (entry[1:] for entry in found if entry[0] >= enough - 1e-9),
                key=lambda entry: entry[0],
            )
            padding = sum(
                level / side.features
                for level, side in zip(levels, self.sides, strict=True)
            )
            short = max(0.0, self.ideal_rank + math.log(SLACK) - rank)
            best, best_rank = _Best((short, padding, *key), levels, sizes), rank
            if short <= 1e-9:
                break
        return best

    def _near(self, side: _Side, level: int) -> tuple[_Choice, ...]:
        """The candidates of a side at a level, the nearest first."""
        first = next(side.levels())
        limit = NEAR_UNPADDED if level == first else NEAR
        choices = _factorisations(level // side.fixed, side.targets)
        near = [c for c in choices if c.distance <= limit * len(side.free) + 1e-9]
        if not near and level == first and not self.shared and not _any_near(side):
            near = [choices[0]]
        return tuple(near[:_CANDIDATES])

    def _judge(
        self, first: _Choice, second: _Choice
    ) -> tuple[float, tuple[int, ...], dict[str, int]]:
        logs, sizes = list(self.base), {}
        for side, choice in zip(self.sides, (first, second), strict=True):
            for axis, size in zip(side.free, choice.sizes, strict=True):
                logs[self.network.axes.index(axis)] = math.log(size)
                sizes[axis.name] = size
        distance = first.distance + second.distance
        distance += abs(self._flops(logs) - self.ideal_flops)
        ragged = sum(size % 8 != 0 for size in sizes.values())
        steps = math.floor(distance / _STEP + 1e-9)
        return self._rank(logs), (steps, ragged, *sizes.values()), sizes

    def _rank(self, logs: Sequence[float]) -> float:
        cut = min(sum(logs[i] for i in cut) for cut in self.cuts)
        return min(cut, self.features)

    def _flops(self, logs: Sequence[float]) -> float:
        parts = [sum(logs[i] for i in step) for step in self.steps]
        if not parts:
            return 0.0
        top = max(parts)
        return top + math.log(sum(math.exp(part - top) for part in parts))


def _written_steps(network: Network) -> list[int]:
    """What each contraction touches if x meets the factors in the written order."""
    joined, steps = X, []
    for i in range(1, len(network.tensors)):
        steps.append(network.touched(joined, 1 << i))
        joined |= 1 << i
    return steps


def _in_order_of_padding(sides: tuple[_Side, _Side]) -> Iterator[tuple[int, int]]:
    first, second = (list(side.levels()) for side in sides)
    yield first[0], second[0]
    pairs = [(i, o) for i in first for o in second][1:]
    pairs.sort(key=lambda p: (p[0] / sides[0].features + p[1] / sides[1].features, p))
    yield from pairs


def _any_near(side: _Side) -> bool:
    """Whether any padding at all brings a factorisation near the targets."""
    limit = NEAR * len(side.free) + 1e-9
    return any(
        _factorisations(level // side.fixed, side.targets)[0].distance <= limit
        for level in side.levels()
    )


@lru_cache(maxsize=1 << 12)
def _factorisations(value: int, targets: tuple[float, ...]) -> tuple[_Choice, ...]:
    """Factorisations of `value` near `targets` (logarithms), the nearest first.

    Index by index, the most promising partial ones are kept; never none.
    """
    divisors = _divisors(value)
    beam: list[tuple[float, float, int, tuple[int, ...]]] = [(0.0, 0.0, value, ())]
    for i, target in enumerate(targets):
        rest = sum(targets[i + 1 :])
        grown = []
        for _, distance, left, sizes in beam:
            options = [left]
            if i < len(targets) - 1:
                options = [s for s in divisors if left % s == 0]
                options.sort(key=lambda s: (abs(math.log(s) - target), s))
            for size in options[:_CANDIDATES]:
                total = distance + abs(math.log(size) - target)
                after = left // size
                # What is left over must be that far from what it should be.
                bound = total + abs(math.log(after) - rest)
                grown.append((bound, total, after, (*sizes, size)))
        grown.sort()
        beam = grown[: 8 * _CANDIDATES]
    return tuple(_Choice(sizes, total) for _, total, _, sizes in beam)


def _divisors(value: int) -> list[int]:
    """All divisors, by trial division: at most 46,341 steps for 31 bits."""
    divisors, left, prime = [1], value, 2
    while left > 1:
        if prime * prime > left:
            prime = left
        power, base = 1, list(divisors)
        while left % prime == 0:
            left //= prime
            power *= prime
            divisors += [d * power for d in base]
        prime += 1 if prime == 2 else 2
    return sorted(divisors)


def _side_text(term: Term, side: Literal[0, 1]) -> str:
    return syntax.unparse(_side_ref(term, side))


def _side_span(term: Term, side: Literal[0, 1]) -> Span:
    return _side_ref(term, side).span


def _side_ref(term: Term, side: Literal[0, 1]) -> syntax.Ref:
    if side == 1:
        return term.equation.left
    return next(r for r in term.equation.right if r.tensor.text == "x")
