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
from einc.agreed import common_sizes, tied_sizes
from einc.choose import WORK, Best, Later, Search, Side
from einc.covering import covering
from einc.errors import Diagnostic, InternalError, UsageError, counted
from einc.lint import lint_sizes
from einc.network import Network
from einc.source import Span
from einc.stated import MAX_SIZE, stated
from einc.structure import Axis, Role, Structure, Term
from einc.ties import first_use, joined, tied_indices

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
        self.stated = stated(structure, d_in, d_out, self.faults)
        self.laid_down = dict(self.stated.sizes)
        self.ties = tied_indices(structure, self.laid_down, self.faults)
        self.faults.stop_on_errors()
        self.sizes = dict(self.laid_down)
        self.covers = False
        """Whether sizes are such that no term leaves a later one too small."""

    def run(self) -> Binding:
        structure, told = self.structure, len(self.faults.found)
        try:
            padded = self._terms()
        except _TooSmall:
            shape, targets = (self.d_in, self.d_out), self.stated.targets
            shared = covering(structure, shape, self.laid_down, targets, self.ties)
            self.sizes = self.laid_down | shared
            self.covers = True
            del self.faults.found[told:]
            padded = self._terms()
        self._limits()
        self.faults.stop_on_errors()
        lint_sizes(structure, self.sizes, self.faults)
        return Binding(
            structure,
            self.d_in,
            self.d_out,
            {axis.name: self.sizes[axis.name] for axis in structure.axes},
            padded,
            self.stated.top,
            self.faults.warnings,
        )

    def _terms(self) -> tuple[tuple[int, int], ...]:
        terms = self.structure.terms
        return tuple(self._term(term, terms[i:]) for i, term in enumerate(terms, 1))

    def _term(self, term: Term, after: Sequence[Term]) -> tuple[int, int]:
        """Chooses the sizes of a term that no term before it has chosen."""
        sides = self._side(term, 0), self._side(term, 1)
        self.faults.stop_on_errors()
        network = Network(term, self.structure.routed)
        later = self._closed(after, {a.name for side in sides for a in side.free})
        padded = self._choose(network, sides, later)
        for tie in self.ties:
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

    def _side(self, term: Term, side: Literal[0, 1]) -> Side:
        axes = term.sides[side]
        count = (self.d_in, self.d_out)[side]
        free = tuple(a for a in axes if a.name not in self.sizes)
        fixed = math.prod(self.sizes[a.name] for a in axes if a.name in self.sizes)
        exact = self._exact(axes)
        least = -(-count // exact) * exact
        closed = not free and fixed < count
        if closed and not self.covers and any(a.size.kind != "exact" for a in axes):
            raise _TooSmall
        if least > EXACT_PADDING * count or closed:
            fixed = fixed if closed else exact
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
        total = math.log(count / fixed)
        ideal = _ideal(axes, free, total, self.stated.targets)
        return Side(count, fixed, free, ideal, limit)

    def _exact(self, axes: Sequence[Axis]) -> int:
        """The product of the sizes of a side that are exact as written."""
        return math.prod(self.sizes[a.name] for a in axes if a.size.kind == "exact")

    # Choosing

    def _choose(
        self,
        network: Network,
        sides: tuple[Side, Side],
        later: Sequence[Later],
    ) -> tuple[int, int]:
        top, ties = self.stated.top, self.ties
        best = Search(network, sides, dict(self.sizes), top, ties, later).run()
        if best is None and later:
            best = Search(network, sides, dict(self.sizes), top, ties).run()
        if best is None:
            return self._common(network, sides)
        self.sizes.update(best.sizes)
        for which, side in zip(_SIDES, sides, strict=True):
            self._warn_exact(network.term, side, which, best.levels[which])
        return best.levels

    def _warn_exact(
        self, term: Term, side: Side, which: Literal[0, 1], padded: int
    ) -> None:
        exact = self._exact(term.sides[which])
        if side.features % exact == 0:
            return
        below, above = side.features // exact * exact, padded
        nearest = f"{below} or {above}" if below and side.free else str(above)
        self.faults.add(
            errors.PADDED_EXACT,
            _side_span(term, which),
            tensor=f"`{_side_text(term, which)}`",
            features=side.features,
            padded=padded,
            nearest=nearest,
        )

    def _common(self, network: Network, sides: tuple[Side, Side]) -> tuple[int, int]:
        """No near sizes that agree where they must: each side is padded to them."""
        both = [{a.name} for a in sides[0].free if a.role is Role.BOTH]
        ties = joined([*self.ties, *both]) if self.ties else []
        options = tied_sizes(sides, ties) if ties else common_sizes(sides)
        best: Best | None = None
        for option in options:
            sizes = self.sizes | {a.name: s for a, s in option.items()}
            fixed = sides[0].fix(option), sides[1].fix(option)
            work = WORK // len(options)
            found = Search(network, fixed, sizes, self.stated.top, work=work).run()
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
        exact = any(a.size.kind == "exact" for s in network.term.sides for a in s)
        advice = f", or both sides with a common divisor near {target}" * (not exact)
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
