"""Integers for the sizes of a structure at given features.

In: a `Structure`, d_in and d_out. Out: a `Binding`: one integer for each index, so
that the sizes of x multiply to d_in and those of y to d_out, or to a little more
(then the input is padded and the output cut, and no feature is dropped).

`~` alone never fails, ties apart. Exact sizes may not fit; then the nearest features
that do are named. How sizes are chosen where they are free is in `choose`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from einc import errors, syntax
from einc.choose import WORK, Best, Later, Search, Side, common_sizes, tied_sizes
from einc.covering import covering
from einc.errors import Diagnostic, InternalError, UsageError, counted
from einc.expressions import NoValue, Value, evaluate, shown, whole
from einc.lint import lint_sizes
from einc.network import Network
from einc.source import Span
from einc.statements import NEAREST
from einc.structure import Axis, Role, Structure, Term
from einc.ties import first_use, joined, tied_indices

MAX_SIZE = (1 << 31) - 1
MAX_ELEMENTS = 1 << 40
EXACT_PADDING = Fraction(105, 100)

_SIDES: tuple[Literal[0, 1], ...] = (0, 1)


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


class _TooSmall(Exception):
    """Sizes that terms before have chosen leave a side without its features."""


class _Binder:
    def __init__(self, structure: Structure, d_in: int, d_out: int) -> None:
        self.structure = structure
        self.d_in, self.d_out = d_in, d_out
        self.faults = structure.diagnostics()
        self.sizes: dict[str, int] = {}
        self.scope: dict[str, Value] = {}
        self.covers = False
        """Whether sizes are such that no term leaves a later one too small."""

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
        ties = tied_indices(structure, self.sizes, self.faults)
        self.faults.stop_on_errors()
        laid_down, told = dict(self.sizes), len(self.faults.found)
        try:
            padded = self._terms(targets, top, ties)
        except _TooSmall:
            shape = self.d_in, self.d_out
            shared = covering(structure, shape, laid_down, targets, ties)
            self.sizes = laid_down | shared
            self.covers = True
            del self.faults.found[told:]
            padded = self._terms(targets, top, ties)
        self._limits()
        self.faults.stop_on_errors()
        lint_sizes(structure, self.sizes, self.faults)
        return Binding(
            structure,
            self.d_in,
            self.d_out,
            {axis.name: self.sizes[axis.name] for axis in structure.axes},
            padded,
            top,
            self.faults.warnings,
        )

    def _terms(
        self, targets: Mapping[str, float], top: int | None, ties: Sequence[Set[str]]
    ) -> tuple[tuple[int, int], ...]:
        terms = self.structure.terms
        return tuple(
            self._term(term, terms[i:], targets, top, ties)
            for i, term in enumerate(terms, 1)
        )

    def _term(
        self,
        term: Term,
        after: Sequence[Term],
        targets: Mapping[str, float],
        top: int | None,
        ties: Sequence[Set[str]],
    ) -> tuple[int, int]:
        """Chooses the sizes of a term that no term before it has chosen."""
        sides = (
            self._side(term, 0, targets),
            self._side(term, 1, targets),
        )
        self.faults.stop_on_errors()
        network = Network(term, self.structure.routed)
        later = self._closed(after, {a.name for side in sides for a in side.free})
        padded = self._choose(network, sides, top, ties, later)
        for tie in ties:
            self.sizes.update(
                (name, self.sizes[known])
                for known in sorted(tie & self.sizes.keys())[:1]
                for name in tie
            )
        self._verify(term, padded)
        return padded

    def _closed(self, terms: Sequence[Term], free: Set[str]) -> list[Later]:
        """The sides of later terms that will have no free index any more."""
        found = []
        for term in terms:
            for axes, count in zip(term.sides, (self.d_in, self.d_out), strict=True):
                open_ = [a.name for a in axes if a.name not in self.sizes]
                if open_ and free >= set(open_):
                    known = [self.sizes[n.name] for n in axes if n.name in self.sizes]
                    found.append(Later(count, math.prod(known), tuple(open_)))
        return found

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
    ) -> Side:
        axes = term.sides[side]
        count = (self.d_in, self.d_out)[side]
        free = tuple(a for a in axes if a.name not in self.sizes)
        fixed = math.prod(self.sizes[a.name] for a in axes if a.name in self.sizes)
        stated = self._stated(axes)
        least = -(-count // stated) * stated
        closed = not free and fixed < count
        if closed and not self.covers and any(a.size.kind != "exact" for a in axes):
            raise _TooSmall
        if least > EXACT_PADDING * count or closed:
            fixed = fixed if closed else stated
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
        return Side(count, fixed, free, ideal, limit)

    def _stated(self, axes: Sequence[Axis]) -> int:
        """The product of the sizes of a side that are exact as written."""
        return math.prod(self.sizes[a.name] for a in axes if a.size.kind == "exact")

    # Choosing

    def _choose(
        self,
        network: Network,
        sides: tuple[Side, Side],
        top: int | None,
        ties: Sequence[Set[str]],
        later: Sequence[Later],
    ) -> tuple[int, int]:
        best = Search(network, sides, dict(self.sizes), top, ties, later).run()
        if best is None and later:
            best = Search(network, sides, dict(self.sizes), top, ties).run()
        if best is None:
            return self._common(network, sides, top, ties)
        self.sizes.update(best.sizes)
        for which, side in zip(_SIDES, sides, strict=True):
            self._warn_exact(network.term, side, which, best.levels[which])
        return best.levels

    def _warn_exact(
        self, term: Term, side: Side, which: Literal[0, 1], padded: int
    ) -> None:
        stated = self._stated(term.sides[which])
        if side.features % stated == 0:
            return
        below, above = side.features // stated * stated, padded
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
        self,
        network: Network,
        sides: tuple[Side, Side],
        top: int | None,
        ties: Sequence[Set[str]],
    ) -> tuple[int, int]:
        """No near sizes that agree where they must: each side is padded to them."""
        both = [{a.name} for a in sides[0].free if a.role is Role.BOTH]
        ties = joined([*ties, *both]) if ties else []
        options = tied_sizes(sides, ties) if ties else common_sizes(sides)
        best: Best | None = None
        for option in options:
            sizes = self.sizes | {a.name: s for a, s in option.items()}
            fixed = sides[0].fix(option), sides[1].fix(option)
            found = Search(network, fixed, sizes, top, work=WORK // len(options)).run()
            if found is None:
                raise InternalError("fixed common sizes always have a multiple")
            found = Best(found.key, found.levels, sizes | found.sizes)
            if best is None or found.key < best.key:
                best = found
        if best is None:
            raise InternalError("no common sizes to try")
        self.sizes.update(best.sizes)
        if ties:
            self._warn_tied(network.term, sides, best.levels)
            return best.levels
        shared = next(a for a in sides[0].free if a.role is Role.BOTH)
        target = max(1, round(math.exp(sides[0].targets[sides[0].free.index(shared)])))
        stated = any(a.size.kind == "exact" for s in network.term.sides for a in s)
        advice = f", or both sides with a common divisor near {target}" * (not stated)
        for which, side in zip(_SIDES, sides, strict=True):
            if best.levels[which] != side.features:
                self.faults.add(
                    errors.PADDED_BLOCK,
                    _side_span(network.term, which),
                    tensor=f"`{_side_text(network.term, which)}`",
                    features=side.features,
                    padded=best.levels[which],
                    name=shared.name,
                    target=target,
                    advice=advice,
                )
        return best.levels

    def _warn_tied(
        self, term: Term, sides: tuple[Side, Side], levels: tuple[int, int]
    ) -> None:
        for which, side in zip(_SIDES, sides, strict=True):
            if levels[which] != side.features:
                self.faults.add(
                    errors.PADDED_TIED,
                    _side_span(term, which),
                    tensor=f"`{_side_text(term, which)}`",
                    features=side.features,
                    padded=levels[which],
                )

    # After choosing

    def _verify(self, term: Term, padded: tuple[int, int]) -> None:
        features = self.d_in, self.d_out
        for axes, product, least in zip(term.sides, padded, features, strict=True):
            if (
                math.prod(self.sizes[a.name] for a in axes) != product
                or product < least
            ):
                raise InternalError(f"sizes {self.sizes} drop features: {padded}")

    def _limits(self) -> None:
        for operand in self.structure.factors:
            elements = math.prod(self.sizes[a.name] for a in operand.axes)
            if elements > MAX_ELEMENTS:
                self.faults.add(
                    errors.LIMIT,
                    first_use(self.structure, operand.name),
                    what=f"factor `{operand.name}` has {elements} elements",
                    limit="2^40",
                    advice="",
                )


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


def _side_text(term: Term, side: Literal[0, 1]) -> str:
    return syntax.unparse(_side_ref(term, side))


def _side_span(term: Term, side: Literal[0, 1]) -> Span:
    return _side_ref(term, side).span


def _side_ref(term: Term, side: Literal[0, 1]) -> syntax.Ref:
    if side == 1:
        return term.equation.left
    return next(r for r in term.equation.right if r.tensor.text == "x")
