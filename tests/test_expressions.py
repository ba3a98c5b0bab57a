"""Size expressions: what they are worth, exactly, and how they grow."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from frontend import bound
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from einc import syntax
from einc.errors import NOT_RATIONAL, TOO_LARGE, UNDEFINED, SpecError
from einc.expressions import (
    MAX_BITS,
    Growth,
    NoValue,
    Value,
    evaluate,
    feature_growths,
    growth,
    names_in,
    whole,
)
from einc.parser import parse_body
from einc.source import Source


def expr(text: str) -> syntax.Expr:
    (sizes,) = parse_body(Source.of("e", f"a ~ {text}"), "s").statements
    assert isinstance(sizes, syntax.Sizes)
    return sizes.expr


def value(text: str, d_in: int = 1024, d_out: int = 4096, **names: Value) -> Value:
    features = {"d_in": d_in, "d_out": d_out, "d": min(d_in, d_out)}
    scope: dict[str, Value] = {n: Fraction(v) for n, v in features.items()}
    return evaluate(expr(text), scope | names)


def grows(text: str, **names: Fraction) -> Growth:
    constants = {n: Growth.constant(Fraction(v)) for n, v in names.items()}
    return growth(expr(text), feature_growths() | constants)


def refused(text: str) -> NoValue:
    with pytest.raises(NoValue) as caught:
        value(text)
    return caught.value


# Exactness

RATIONALS = st.fractions(min_value=0, max_value=1000, max_denominator=50)


@st.composite
def arithmetic(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction | None]:
    """A text of + - * / min max and what it is worth (None: divides by zero)."""
    if depth == 0 or draw(st.booleans()):
        number = draw(RATIONALS)
        return f"({number.numerator}/{number.denominator})", number
    left, x = draw(arithmetic(depth=depth - 1))
    right, y = draw(arithmetic(depth=depth - 1))
    operator = draw(st.sampled_from(["+", "-", "*", "/", "min", "max"]))
    if operator in ("min", "max"):
        text = f"{operator}({left}, {right})"
    else:
        text = f"({left} {operator} {right})"
    if x is None or y is None or (operator == "/" and y == 0):
        return text, None
    results = {"+": x + y, "-": x - y, "*": x * y, "min": min(x, y), "max": max(x, y)}
    return text, results[operator] if operator in results else x / y


@given(arithmetic())
def test_rational_arithmetic_is_exact(case: tuple[str, Fraction | None]) -> None:
    text, expected = case
    if expected is None:
        assert refused(text).fault is UNDEFINED
    else:
        result = value(text)
        assert isinstance(result, Fraction) and result == expected


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 30))
def test_roots_of_powers_are_exact(top: int, bottom: int, degree: int) -> None:
    assume(max(top, bottom) ** degree < 10**30)
    base = Fraction(top, bottom)
    power = base**degree
    text = f"({power.numerator}/{power.denominator})^(1/{degree})"
    assert value(text) == base


@given(st.integers(2, 2**31 - 1), st.integers(1, 6), st.integers(1, 6))
def test_powers_of_features(d: int, top: int, bottom: int) -> None:
    """Exact where the power is rational, else a float as near as floats are."""
    reduced = Fraction(top, bottom)
    assume(math.log2(d) * reduced < MAX_BITS)
    result = value(f"d_in^({top}/{bottom})", d_in=d)
    root = round(d ** (1 / reduced.denominator))
    near = [r for r in (root - 1, root, root + 1) if r**reduced.denominator == d]
    if near:
        assert isinstance(result, Fraction)
        assert result == near[0] ** reduced.numerator
    else:
        assert isinstance(result, float)
        assert math.isclose(result, d ** float(reduced), rel_tol=1e-12)


def test_large_exact_values() -> None:
    assert value("sqrt(10^15 * 10^15)") == 10**15
    assert value("(10^15 + 1)^2 - 10^30 - 2 * 10^15") == 1
    assert value("sqrt((10^14 + 1)^2)") == 10**14 + 1
    assert value("2^99") == 2**99
    assert value("8^(0 - 2/3)") == Fraction(1, 4)
    assert value("(0 - 2)^3") == -8
    assert value("0^0") == 1 and value("0^3") == 0 and value("1^(1/7)") == 1
    assert value("0.1 + 0.2") == Fraction(3, 10)
    assert value("d^(1/2)") == 32 and value("d_out / d_in") == 4
    assert value("min(d_in, d_out) - d") == 0


def test_parameters_may_be_exponents() -> None:
    assert value("d_in^a", a=Fraction(1, 2)) == 32
    assert value("d_in^(a / 3)", a=Fraction(3, 5)) == 4


def test_whole() -> None:
    cases: list[tuple[Value, int | None]] = [
        (Fraction(3), 3),
        (Fraction(0), None),
        (Fraction(-1), None),
        (Fraction(1, 2), None),
        (2.0, None),
    ]
    for number, expected in cases:
        assert whole(number) == expected


def test_names_in_the_order_written() -> None:
    names = [v.name for v in names_in(expr("a * min(b, d_in^c) + sqrt(d) / a"))]
    assert names == ["a", "b", "d_in", "c", "d", "a"]


# Bounds


@pytest.mark.parametrize(
    "text",
    [
        "9^(9^9)",
        "9^(9^(9^9))",
        "(9^9)^(9^9)",
        "2^100",
        "(0 - 2)^101",
        "2^(0 - 101)",
        "10^29 * 100",
        "2^99 + 2^99",
        "0 - 2^99 - 2^99",
        "1 / (1/2)^99 * 2",
        "d_in^(10^29)",
        "0.5^(10^20)",
    ],
)
def test_nothing_past_100_bits(text: str) -> None:
    assert refused(text).fault is TOO_LARGE
    with pytest.raises(SpecError):
        bound(f"y[o] = x[i] * A[i, r] * B[r, o]\nr = {text}", 64, 64)


def test_towers_near_one_stay_small() -> None:
    """Powers of a number near 1 have many digits, but are no larger for it."""
    base = "0." + "9" * 29
    result = value(f"((({base})^300)^300)^300")
    assert isinstance(result, float) and 0.99 < result <= 1
    assert value(f"({base})^(10^25)") != 0


def test_sums_of_many_denominators_are_refused() -> None:
    primes = [n for n in range(1000, 1700) if all(n % k for k in range(2, 42))][:60]
    fault = refused(" + ".join(f"1/{n}" for n in primes))
    assert fault.fault is TOO_LARGE
    assert "digits" in str(fault.values["limit"])


@pytest.mark.parametrize(
    "text, reason",
    [
        ("1/0", "it divides by zero"),
        ("d / (d_in - 1024)", "it divides by zero"),
        ("0^(0 - 1)", "it divides by zero"),
        ("sqrt(0 - 1)", "a root of a negative number"),
        ("(0 - 8)^(1/3)", "a root of a negative number"),
    ],
)
def test_what_has_no_value(text: str, reason: str) -> None:
    error = refused(text)
    assert error.fault is UNDEFINED
    assert error.values["reason"] == reason


@pytest.mark.parametrize("text", ["2^d_in", "d^(1/d)", "d^(2^(1/2))", "2^(d - d)"])
def test_exponents_are_rational_constants(text: str) -> None:
    assert refused(text).fault is NOT_RATIONAL
    with pytest.raises(NoValue) as caught:
        grows(text)
    assert caught.value.fault is NOT_RATIONAL


# Growth


@pytest.mark.parametrize(
    "text, coefficient, exponent, powers",
    [
        ("7", 7, 0, (0, 0, 0)),
        ("d_in", 1, 1, (1, 0, 0)),
        ("3 * d_out^(1/3)", 3, "1/3", (0, "1/3", 0)),
        ("d / 4", "1/4", 1, (0, 0, 1)),
        ("sqrt(d_in * d_out)", 1, 1, ("1/2", "1/2", 0)),
        ("(4 * d)^(1/2)", 2, "1/2", (0, 0, "1/2")),
        ("d_in^a", 1, "2/5", ("2/5", 0, 0)),
        ("d_out / d_in", 1, 0, (-1, 1, 0)),
        ("d - d/2", "1/2", 1, (0, 0, 1)),
        ("d + 0", 1, 1, (0, 0, 1)),
        ("0 * d_in + 5", 5, 0, (0, 0, 0)),
        ("d/d", 1, 0, (0, 0, 0)),
        ("min(4, 7)", 4, 0, (0, 0, 0)),
        ("max(d, 2 * d)", 2, 1, (0, 0, 1)),
        ("d^(1/2) + d^(1/4)", 1, "1/2", None),
        ("d_in + d_out", 2, 1, None),
        ("min(d, 64)", 64, 0, None),
        ("max(d^(1/2), 64)", 1, "1/2", None),
        ("d - d", 0, 0, (0, 0, 0)),
        ("d_in - d_out", 0, 0, None),
        ("d_in - d_out + 4", 4, 0, None),
        ("d + 2 - d", 2, 0, None),
        ("(d + 1) * (d + 1) - d*d", 2, 1, None),
        ("(d + d^(1/2)) / d - 1", 1, "-1/2", None),
        ("max(d - d, 3)", 3, 0, (0, 0, 0)),
        ("max(3 - d, 0)", 0, 0, None),
        ("min(d, 2 * d + 1)", 1, 1, None),
        ("sqrt(d^2 + d)", 1, 1, None),
    ],
)
def test_growth(
    text: str,
    coefficient: int | str,
    exponent: int | str,
    powers: tuple[int | str, int | str, int | str] | None,
) -> None:
    grown = grows(text, a=Fraction(2, 5))
    assert grown.coefficient == Fraction(coefficient)
    assert grown.exponent == Fraction(exponent)
    assert grown.powers == (None if powers is None else tuple(map(Fraction, powers)))


def test_rounding_errors_are_no_growth() -> None:
    with pytest.raises(NoValue) as caught:
        grows("(sqrt(2)*sqrt(2) - 2) * d")
    assert "cancels" in str(caught.value.values["reason"])
    assert grows("3 * d^2 + sqrt(2)*sqrt(2)*d - 2*d").coefficient == 3
    larger = grows("max(sqrt(2)*sqrt(2)*d, 2*d)")
    assert larger.powers == (0, 0, 1) and larger.coefficient == pytest.approx(2)


@pytest.mark.parametrize(
    "text",
    ["sqrt(d^2 + d) - d", "(d + 1)^(1/3) - d^(1/3)", "2 * sqrt(d + 1) - 2 * sqrt(d)"],
)
def test_what_is_left_of_roots_is_not_known(text: str) -> None:
    with pytest.raises(NoValue) as caught:
        grows(text)
    assert caught.value.fault is UNDEFINED
    assert "cancels" in str(caught.value.values["reason"])


LEAVES = ("d", "d_in", "d_out", "d^(1/2)", "1", "2", "3")
SUMS = st.recursive(
    st.sampled_from(LEAVES),
    lambda parts: st.one_of(
        st.builds("({} {} {})".format, parts, st.sampled_from("+-+-*"), parts),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), parts, parts),
        st.builds("({} / {})".format, parts, st.sampled_from(LEAVES)),
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(SUMS)
def test_growth_of_sums_is_that_of_the_values(text: str) -> None:
    """Exactly: a sum of so few terms does not change any more at such a d."""
    features = 1 << 22
    try:
        far = value(text, features, features)
    except NoValue as none:
        assume(none.fault is not TOO_LARGE)
        raise
    grown = grows(text)
    if grown.coefficient == 0:
        assert far == 0
    else:
        power = Fraction(2) ** int(22 * grown.exponent)
        assert abs(far / power / grown.coefficient - 1) < Fraction(1, 10)
    if grown.powers is not None:
        i, o, m = grown.powers
        power = Fraction(2) ** int(8 * i + 12 * o + 8 * m)
        assert value(text, 1 << 8, 1 << 12) == grown.coefficient * power


@given(
    st.fractions(0, 2, max_denominator=9),
    st.fractions(0, 2, max_denominator=9),
    st.integers(1, 99),
)
def test_growth_is_the_slope_of_the_values(
    left: Fraction, right: Fraction, constant: int
) -> None:
    """Along d_in = d_out = d, the exponent is that of the values."""
    text = f"{constant} * d_in^({left}) * d_out^({right}) / sqrt(d)"
    near, far = (float(value(text, d, d)) for d in (1000, 1_000_000))
    slope = math.log(far / near) / math.log(1000)
    grown = grows(text)
    assert math.isclose(slope, grown.exponent, abs_tol=1e-9)
    assert grown.exponent == left + right - Fraction(1, 2)
    assert not grown.is_one and grown.is_constant == (grown.powers == (0, 0, 0))
