"""The exponents omega, psi and nu of a structure, and its class.

In: a `Structure` whose sides grow with d. Out: exact rationals along
d_in = d_out = d, over orders in which every contraction holds x:

- nu: the fewest multiply-adds per token grow as d^(1 + nu);
- omega: multiply-adds over parameters grow as d^omega;
- psi: the rank grows as d^psi.

Dense is (0, 1, 1). For the paper's two-factor family with the first factor first,
nu = 1 + rho - min(alpha, epsilon) and omega = min(alpha + delta, beta + epsilon)
- min(alpha, epsilon) (Potapczynski et al. 2024, section 3); the best order has
max(min(alpha, epsilon), min(beta, delta)) for min(alpha, epsilon).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, assert_never

from einc.errors import InternalError
from einc.network import Network, X, bits
from einc.order import least_exponent_order
from einc.structure import Axis, Operand, Structure, Term
from einc.syntax import Binary, Call, Expr, Number, Variable

MAX_SYMBOLIC_FACTORS = 4
"""Up to so many factors all x-first orders are listed, to write nu as a formula."""


@dataclass(frozen=True)
class Triple:
    """(omega, psi, nu). Without a factor there is no work: omega and nu are None."""

    omega: Fraction | None
    psi: Fraction
    nu: Fraction | None


@dataclass(frozen=True)
class Exponents:
    """The exponents of the order named, and those of orders that may merge.

    `order` names the factors as they join x. `merged` lets factors be merged before
    x comes, at no cost since infinitely many tokens share it. With a tied factor psi is
    an upper bound only.
    """

    structure: Structure = field(repr=False)
    best: Triple
    order: tuple[str, ...]
    merged: Triple
    psi_is_exact: bool

    @cached_property
    def formulas(self) -> Mapping[str, str]:
        """The best order's three in the parameters that stand in exponents.

        Piecewise linear in them; empty without a factor, and above
        `MAX_SYMBOLIC_FACTORS`. Found when asked for, with sympy.
        """
        return _formulas(self.structure) if self.order else {}


def exponents(structure: Structure, given: bool = False) -> Exponents:
    """The exponents over x-first orders; of the order as written, if `given`.

    A sum works as hard as its hardest term and ranks as its best one.

    >>> from einc.library import structure
    >>> exponents(structure("low_rank")).best
    Triple(omega=Fraction(0, 1), psi=Fraction(1, 2), nu=Fraction(1, 2))
    """
    best, steps = triple(structure, given), x_first_steps(structure, given)
    if not steps:
        return Exponents(structure, best, (), best, True)
    merged = max(
        _merged_work(Network(term, structure.routed), _active(structure, term))
        for term in structure.terms
        if term.operands
    )
    return Exponents(
        structure,
        best,
        tuple(step.operand.name for step in steps),
        Triple(merged - parameters(structure), best.psi, merged - 1),
        not structure.tied,
    )


@dataclass(frozen=True)
class Step:
    """A factor joins x: what that touches, and how its multiply-adds grow."""

    operand: Operand
    touched: tuple[Axis, ...]
    work: Fraction


def triple(structure: Structure, given: bool = False) -> Triple:
    """The exponents of the best x-first order; of the order as written, if `given`."""
    psi = max(
        min(_sum(_active(structure, term), cut) for cut in Network(term).cuts)
        for term in structure.terms
    )
    steps = x_first_steps(structure, given)
    if not steps:
        return Triple(None, psi, None)
    work = max(step.work for step in steps)
    return Triple(work - parameters(structure), psi, work - 1)


def x_first_steps(structure: Structure, given: bool = False) -> list[Step]:
    """The steps of the best x-first order, or of the one written; term by term."""
    found = []
    for term in structure.terms:
        network, thetas = Network(term, structure.routed), _active(structure, term)
        order: Sequence[int] = range(1, len(network.tensors))
        if not given:
            _, order = least_exponent_order(structure, network)
        for tensor, mask in zip(order, _steps(network, order), strict=True):
            touched = network.members(mask)
            found.append(Step(term.operands[tensor - 1], touched, _sum(thetas, mask)))
    return found


def parameters(structure: Structure) -> Fraction:
    """How the elements of the largest factor grow."""
    return max(growth_of(factor) for factor in structure.factors)


def growth_of(factor: Operand) -> Fraction:
    """How a factor's elements grow, all experts counted."""
    return sum((axis.theta for axis in factor.axes), Fraction(0))


def _active(structure: Structure, term: Term) -> list[Fraction]:
    return [structure.active_theta(axis) for axis in term.axes]


def class_of(structure: Structure, triple: Triple) -> str:
    """The class in words: [routed] full-rank or low-rank, unshared or shared."""
    rank = "full-rank" if triple.psi == 1 else "low-rank"
    shared = triple.omega is not None and triple.omega > 0
    words = [rank, "shared" if shared else "unshared"]
    return " ".join(["routed", *words] if structure.route is not None else words)


def _sum(thetas: Sequence[Fraction], mask: int) -> Fraction:
    return sum((thetas[i] for i in bits(mask)), Fraction(0))


def _steps(network: Network, order: Iterable[int]) -> list[int]:
    """What each step of an x-first order touches."""
    joined, steps = X, []
    for tensor in order:
        steps.append(network.touched(joined, 1 << tensor))
        joined |= 1 << tensor
    return steps


def _merged_work(network: Network, thetas: Sequence[Fraction]) -> Fraction:
    """The least exponent if any group of factors may be merged before it joins x."""
    everything = network.everything
    # In whole parts of one: comparing fractions would take most of the time.
    scale = math.lcm(*(theta.denominator for theta in thetas))
    parts = [int(theta * scale) for theta in thetas]
    known: dict[int, int] = {}
    to_go: dict[int, int] = {everything: 0}
    for joined in range(everything - 2, 0, -1):
        if not joined & X:
            continue
        rest = everything ^ joined
        group, least = rest, None
        while group:
            mask = network.touched(joined, group)
            if mask not in known:
                known[mask] = sum(parts[i] for i in bits(mask))
            worst = max(known[mask], to_go[joined | group])
            if least is None or worst < least:
                least = worst
            group = (group - 1) & rest
        assert least is not None
        to_go[joined] = least
    return Fraction(to_go[X], scale)


# Formulas


def _formulas(structure: Structure) -> dict[str, str]:
    if any(len(term.operands) > MAX_SYMBOLIC_FACTORS for term in structure.terms):
        return {}
    import sympy

    theta = _Thetas(structure)
    works, ranks = [], []
    for term in structure.terms:
        network = Network(term, structure.routed)
        works.append(_work_formula(network, theta))
        ranks.append(sympy.Min(*(theta.of(network, cut) for cut in network.cuts)))
    work, psi = sympy.Max(*works), sympy.Max(*ranks)
    parameters = sympy.Max(*_factor_formulas(structure, theta))
    return {"omega": str(work - parameters), "psi": str(psi), "nu": str(work - 1)}


def _work_formula(network: Network, theta: _Thetas) -> Any:
    import sympy

    orders = [
        _largest(_steps(network, sequence))
        for sequence in itertools.permutations(range(1, len(network.tensors)))
    ]
    # An order all of whose steps fit into steps of another is at least as good.
    kept: list[list[int]] = []
    for steps in sorted(orders, key=len):
        if not any(_within(other, steps) for other in kept):
            kept = [other for other in kept if not _within(steps, other)] + [steps]
    worst = [sympy.Max(*(theta.of(network, s) for s in steps)) for steps in kept]
    return sympy.Min(*worst)


def _factor_formulas(structure: Structure, theta: _Thetas) -> list[Any]:
    found = []
    for term in structure.terms:
        network = Network(term, structure.routed)
        masks = _largest([network.mask(f.axes) for f in term.operands])
        found += [theta.of(network, mask, active=False) for mask in masks]
    return found


def _largest(masks: list[int]) -> list[int]:
    """The masks that are no subset of another."""
    distinct = list(dict.fromkeys(masks))
    return [m for m in distinct if not any(m & o == m != o for o in distinct)]


def _within(steps: list[int], others: list[int]) -> bool:
    return all(any(s & o == s for o in others) for s in steps)


class _Thetas:
    """Exponents of axes as sympy expressions in the parameters of a structure."""

    def __init__(self, structure: Structure) -> None:
        import sympy

        self.structure = structure
        self.values = {p.name: p.value for p in structure.parameters}
        self.known: dict[str, Any] = {}
        # Each of the sign that it has: formulas are shorter for it.
        self.symbols = {
            p.name: sympy.Symbol(
                p.name, real=True, nonnegative=p.growth.coefficient >= 0
            )
            for p in structure.parameters
        }
        constants = {
            self.symbols[p.name]: sympy.Rational(p.growth.coefficient)
            for p in structure.parameters
            if p.growth.is_constant
        }
        for axis in structure.axes:
            if axis.size.expr is not None:
                formula = self.exponent(axis.size.expr)
                # No formula where terms cancel, which a formula does not say.
                known = formula.subs(constants) == sympy.Rational(axis.theta)
                self.known[axis.name] = formula if known else sympy.Rational(axis.theta)
        for term in structure.terms:
            for side in term.sides:
                for axis in side:
                    if axis.size.expr is None and axis.name not in self.known:
                        others = (self.known[a.name] for a in side if a is not axis)
                        self.known[axis.name] = 1 - sum(others)

    def of(self, network: Network, mask: int, active: bool = True) -> Any:
        """The exponent of a product of axes; a whole side is 1."""
        axes = set(network.members(mask))
        total: Any = 0
        for side in network.term.sides:
            if side and set(side) <= axes:
                total += 1
                axes -= set(side)
        route = self.structure.route
        for axis in network.axes:
            if axis in axes:
                routed = active and route is not None and axis.name == route.index
                total += (
                    self.exponent(route.top)
                    if routed and route is not None
                    else self.known[axis.name]
                )
        return total

    def exponent(self, expr: Expr) -> Any:
        """The power of d with which `expr` grows."""
        import sympy

        match expr:
            case Number():
                return sympy.Integer(0)
            case Variable():
                if expr.name in self.values:
                    return self.exponent(self.values[expr.name])
                return sympy.Integer(1)
            case Call(function="sqrt"):
                return self.exponent(expr.arguments[0]) / 2
            case Call():
                pick = sympy.Min if expr.function == "min" else sympy.Max
                return pick(*(self.exponent(a) for a in expr.arguments))
            case Binary():
                left = self.exponent(expr.left)
                if expr.operator == "^":
                    return left * self.constant(expr.right) if left != 0 else left
                right = self.exponent(expr.right)
                match expr.operator:
                    case "*":
                        return left + right
                    case "/":
                        return left - right
                    case "+" | "-":
                        return sympy.Max(left, right)
                raise InternalError(f"operator {expr.operator}")
            case _:
                assert_never(expr)

    def constant(self, expr: Expr) -> Any:
        """An exponent as written, its parameters as symbols."""
        import sympy

        match expr:
            case Number():
                return sympy.Rational(expr.value.numerator, expr.value.denominator)
            case Variable():
                return self.symbols[expr.name]
            case Call(function="sqrt"):
                return sympy.sqrt(self.constant(expr.arguments[0]))
            case Call():
                pick = sympy.Min if expr.function == "min" else sympy.Max
                return pick(*(self.constant(a) for a in expr.arguments))
            case Binary():
                left, right = self.constant(expr.left), self.constant(expr.right)
                match expr.operator:
                    case "+":
                        return left + right
                    case "-":
                        return left - right
                    case "*":
                        return left * right
                    case "/":
                        return left / right
                    case "^":
                        return left**right
                raise InternalError(f"operator {expr.operator}")
            case _:
                assert_never(expr)
