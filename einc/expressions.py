"""What a size expression is worth, and how it grows.

In: an expression of the syntax tree and the values of its names. Out: a number
(`evaluate`), exact as long as all parts are rational, or how it grows along
d_in = d_out = d (`growth`). Both are our own arithmetic: spec text is never
evaluated as Python. What has no value raises `NoValue`, which names the fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce
from typing import Any, assert_never

from einc.errors import (
    NOT_RATIONAL,
    TOO_LARGE,
    UNDEFINED,
    Fault,
    InternalError,
)
from einc.syntax import Binary, Call, Expr, Number, Variable, unparse

MAX_BITS = 100
FEATURES = ("d_in", "d_out", "d")
CONSTANT = (Fraction(0), Fraction(0), Fraction(0))
"""The powers of a `Growth` that does not grow."""
MOST_TERMS = 16
"""Terms of a sum of powers that are kept."""
ROUNDING = 1e-12
"""The share of summands below which a sum of floats is not known."""
CANCELLED = "what grows most in it cancels, and what is left is not known"

Value = Fraction | float
"""Exact where the value is rational, else a float."""


class NoValue(Exception):
    """An expression has no value; `fault` and `values` say why, `expr` where."""

    def __init__(self, fault: Fault, expr: Expr, **values: object) -> None:
        super().__init__(fault.code)
        self.fault = fault
        self.expr = expr
        self.values: dict[str, Any] = {"expr": unparse(expr), **values}


def names_in(expr: Expr) -> list[Variable]:
    """The variables of an expression, in the order written."""
    match expr:
        case Number():
            return []
        case Variable():
            return [expr]
        case Binary():
            return names_in(expr.left) + names_in(expr.right)
        case Call():
            return [v for argument in expr.arguments for v in names_in(argument)]
        case _:
            assert_never(expr)


def evaluate(expr: Expr, values: Mapping[str, Value]) -> Value:
    """The value of `expr`, where every name of it is in `values`.

    >>> from einc.syntax import Binary, Number, Variable
    >>> half = Binary("/", Number("1"), Number("2"))
    >>> evaluate(Binary("^", Variable("d"), half), {"d": Fraction(1024)})
    Fraction(32, 1)
    >>> evaluate(Binary("^", Variable("d"), half), {"d": Fraction(2)})
    1.4142135623730951
    """
    match expr:
        case Number():
            return expr.value
        case Variable():
            return values[expr.name]
        case Call(function="sqrt"):
            return _power(expr, evaluate(expr.arguments[0], values), Fraction(1, 2))
        case Call():
            results = [evaluate(argument, values) for argument in expr.arguments]
            return min(results) if expr.function == "min" else max(results)
        case Binary(operator="^"):
            base = evaluate(expr.left, values)
            return _power(expr, base, _exponent(expr.right, values))
        case Binary():
            left, right = evaluate(expr.left, values), evaluate(expr.right, values)
            match expr.operator:
                case "+":
                    return _bounded(expr, left + right)
                case "-":
                    return _bounded(expr, left - right)
                case "*":
                    return _bounded(expr, left * right)
                case "/":
                    if right == 0:
                        raise NoValue(UNDEFINED, expr, reason="it divides by zero")
                    return _bounded(expr, left / right)
            raise InternalError(f"operator {expr.operator}")
        case _:
            assert_never(expr)


def whole(value: Value) -> int | None:
    """The value as a positive integer, if it is one."""
    if isinstance(value, Fraction) and value.denominator == 1 and value >= 1:
        return int(value)
    return None


def shown(expr: Expr, value: Value) -> str:
    """The value as the end of "`expr` is ...", in a message that it is no good.

    >>> from einc.syntax import Number
    >>> shown(Number("0"), Fraction(0)), shown(Number("0.50"), Fraction("0.5"))
    ('not', '1/2')
    """
    text = str(value)
    if not isinstance(value, Fraction):
        text = f"{value:.6g}"
        if "." not in text:
            text += " to six digits"
    return "not" if text == unparse(expr) else text


def _exponent(expr: Expr, values: Mapping[str, Value]) -> Fraction:
    constants = {k: v for k, v in values.items() if k not in FEATURES}
    if any(v.name not in constants for v in names_in(expr)):
        raise NoValue(NOT_RATIONAL, expr)
    value = evaluate(expr, constants)
    if not isinstance(value, Fraction):
        raise NoValue(NOT_RATIONAL, expr)
    return value


def _bounded(expr: Expr, value: Value) -> Value:
    if isinstance(value, Fraction):
        # Sums of fractions may double their digits at each step.
        if value.denominator.bit_length() > 4 * MAX_BITS:
            raise NoValue(TOO_LARGE, expr, limit="its denominator has too many digits")
    if not -(1 << MAX_BITS) < value < 1 << MAX_BITS:
        raise NoValue(TOO_LARGE, expr, limit=f"numbers have up to {MAX_BITS} bits")
    return value


def _power(expr: Expr, base: Value, exponent: Fraction) -> Value:
    """`base ** exponent`: exact where it is rational, bounded before it is computed."""
    if base == 0 and exponent < 0:
        raise NoValue(UNDEFINED, expr, reason="it divides by zero")
    if base < 0 and exponent.denominator != 1:
        raise NoValue(UNDEFINED, expr, reason="a root of a negative number")
    if base in (0, 1) or exponent == 0:
        return Fraction(1) if exponent == 0 else base
    bits = abs(_log2(-base if base < 0 else base) * exponent)
    if bits >= MAX_BITS:
        raise NoValue(TOO_LARGE, expr, limit=f"powers have up to {MAX_BITS} bits")
    if isinstance(base, Fraction):
        # In lowest terms the power is rational only if the root is. One near 1 may
        # have more digits than its size says; an integer has not.
        root = _root(base, exponent.denominator)
        if root is not None:
            digits = max(root.numerator.bit_length(), root.denominator.bit_length())
            if digits * abs(exponent.numerator) <= 4 * MAX_BITS:
                return Fraction(root**exponent.numerator)
    return math.pow(base, exponent)


def _log2(value: Value) -> float:
    if isinstance(value, Fraction):
        return math.log2(value.numerator) - math.log2(value.denominator)
    return math.log2(value)


def _root(base: Fraction, degree: int) -> Fraction | None:
    if degree == 1:
        return base
    if degree > 4 * MAX_BITS or base < 0:
        return None
    top = _integer_root(base.numerator, degree)
    bottom = _integer_root(base.denominator, degree)
    return Fraction(top, bottom) if top and bottom else None


def _integer_root(value: int, degree: int) -> int | None:
    """The root of a positive integer, if it is one: Newton's method from above."""
    root = 1 << -(-value.bit_length() // degree)
    while True:
        step = ((degree - 1) * root + value // root ** (degree - 1)) // degree
        if step >= root:
            return root if root**degree == value else None
        root = step


Series = tuple[tuple[Fraction, Value], ...]
"""A sum of powers of d: exponents, which descend, and coefficients, none of them 0."""


@dataclass(frozen=True)
class Growth:
    """How an expression grows along d_in = d_out = d: as `coefficient * d^exponent`.

    `powers` is (i, o, m) where it is `coefficient * d_in^i * d_out^o * d^m` whatever
    the features, or None where it is no such product. `rest` are the smaller terms, so
    that it is known what is left where the leading ones cancel; but what grows as
    d^`lost` or slower may be left out of them.
    """

    coefficient: Value
    exponent: Fraction
    powers: tuple[Fraction, Fraction, Fraction] | None
    rest: Series = field(default=(), repr=False)
    lost: Fraction | None = field(default=None, repr=False)

    @classmethod
    def constant(cls, value: Value) -> Growth:
        return cls(value, Fraction(0), CONSTANT)

    @property
    def is_constant(self) -> bool:
        """Whether it does not depend on the features."""
        return self.powers is not None and not any(self.powers)

    @property
    def is_one(self) -> bool:
        """Whether it is the constant 1 (which `~` takes literally)."""
        return self.is_constant and self.coefficient == 1

    @property
    def series(self) -> Series:
        if self.coefficient == 0:
            return ()
        return ((self.exponent, self.coefficient), *self.rest)


def feature_growths() -> dict[str, Growth]:
    """The growth of `d_in`, `d_out` and `d` themselves."""
    one, zero = Fraction(1), Fraction(0)
    units = [(one, zero, zero), (zero, one, zero), (zero, zero, one)]
    return {n: Growth(one, one, p) for n, p in zip(FEATURES, units, strict=True)}


def growth(expr: Expr, values: Mapping[str, Growth]) -> Growth:
    """How `expr` grows, where the growth of every name of it is in `values`."""
    match expr:
        case Number():
            return Growth.constant(expr.value)
        case Variable():
            return values[expr.name]
        case Call(function="sqrt"):
            return _raise(expr, growth(expr.arguments[0], values), Fraction(1, 2))
        case Call():
            parts = [growth(argument, values) for argument in expr.arguments]
            sign = -1 if expr.function == "min" else 1
            return reduce(lambda one, other: _larger(expr, one, other, sign), parts)
        case Binary(operator="^"):
            constants = {
                name: g.coefficient for name, g in values.items() if g.is_constant
            }
            base = growth(expr.left, values)
            return _raise(expr, base, _exponent(expr.right, constants))
        case Binary():
            left, right = growth(expr.left, values), growth(expr.right, values)
            match expr.operator:
                case "+":
                    return _sum(expr, left, right)
                case "-":
                    return _sum(expr, left, _negative(right))
                case "*":
                    return _product(expr, left, right)
                case "/":
                    return _product(expr, left, _raise(expr, right, Fraction(-1)))
            raise InternalError(f"operator {expr.operator}")
        case _:
            assert_never(expr)


def _zero(is_constant: bool) -> Growth:
    return Growth(Fraction(0), Fraction(0), CONSTANT if is_constant else None)


def _negative(grown: Growth) -> Growth:
    rest = tuple((exponent, -coefficient) for exponent, coefficient in grown.rest)
    return replace(grown, coefficient=-grown.coefficient, rest=rest)


def _collected(
    expr: Expr, terms: Iterable[tuple[Fraction, Value]], *lost: Fraction | None
) -> Growth:
    """The sum of powers of d, of which what is `lost` is not known."""
    total: dict[Fraction, Value] = {}
    largest: dict[Fraction, float] = {}
    for exponent, coefficient in terms:
        total[exponent] = _bounded(expr, total.get(exponent, Fraction(0)) + coefficient)
        so_far = largest.get(exponent, 0.0)
        largest[exponent] = max(so_far, abs(float(coefficient)))
    # What floats leave of a sum that cancels may be rounding errors alone.
    noise = [
        exponent
        for exponent, value in total.items()
        if isinstance(value, float) and 0 < abs(value) < ROUNDING * largest[exponent]
    ]
    least = max((bound for bound in (*lost, *noise) if bound is not None), default=None)
    series = [
        (exponent, total[exponent])
        for exponent in sorted(total, reverse=True)
        if total[exponent] != 0 and (least is None or exponent > least)
    ]
    if len(series) > MOST_TERMS:
        least = series[MOST_TERMS][0]
        del series[MOST_TERMS:]
    if series:
        (exponent, coefficient), *rest = series
        return Growth(coefficient, exponent, None, tuple(rest), least)
    if least is not None:
        raise NoValue(UNDEFINED, expr, reason=CANCELLED)
    return _zero(is_constant=False)


def _sum(expr: Expr, left: Growth, right: Growth) -> Growth:
    found = _collected(expr, (*left.series, *right.series), left.lost, right.lost)
    if left.powers is None or right.powers is None:
        return found
    if left.powers == right.powers or right.coefficient == 0:
        powers = left.powers if found.coefficient != 0 else CONSTANT
        return replace(found, powers=powers)
    return replace(found, powers=right.powers) if left.coefficient == 0 else found


def _larger(expr: Expr, one: Growth, other: Growth, sign: int) -> Growth:
    """The larger of two in the end, or the smaller where `sign` is -1."""
    powers = one.powers if one.powers == other.powers else None
    try:
        difference = _sum(expr, other, _negative(one)).coefficient
    except NoValue:
        # They are the same as far as they are known.
        same = _collected(expr, one.series, one.lost, other.lost)
        return replace(same, powers=powers)
    return replace(other if sign * difference > 0 else one, powers=powers)


def _product(expr: Expr, left: Growth, right: Growth) -> Growth:
    if left.coefficient == 0 or right.coefficient == 0:
        zero = left if left.coefficient == 0 else right
        return _zero(is_constant=zero.powers is not None)
    terms = [(p + q, a * b) for p, a in left.series for q, b in right.series]
    lost = [
        one.lost + other.exponent
        for one, other in ((left, right), (right, left))
        if one.lost is not None
    ]
    found = _collected(expr, terms, *lost)
    if left.powers is None or right.powers is None:
        return found
    i, o, m = (a + b for a, b in zip(left.powers, right.powers, strict=True))
    return replace(found, powers=(i, o, m))


def _raise(expr: Expr, base: Growth, power: Fraction) -> Growth:
    coefficient = _power(expr, base.coefficient, power)
    if power == 0:
        return Growth.constant(coefficient)
    if base.coefficient == 0:
        return _zero(is_constant=base.powers is not None)
    exponent, powers = base.exponent * power, None
    if base.powers is not None:
        i, o, m = (p * power for p in base.powers)
        powers = (i, o, m)
    # By the binomial series the next term is smaller by as much as it was.
    smaller = [term for term, _ in base.rest[:1]]
    smaller += [base.lost] if base.lost is not None else []
    lost = exponent - (base.exponent - max(smaller)) if smaller else None
    return Growth(coefficient, exponent, powers, (), lost)
