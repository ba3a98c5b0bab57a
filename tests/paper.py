"""The 23 einsum structures that the paper trains, for tests that sweep over them.

All are y[d1, e, f] = x[a, b, g] * A[a, g, d1, f, r] * B[b, g, e, f, r]; what tells
them apart are the exponents of a, b, g (of d_in), d1, e, f (of d_out) and r (of d).
"""

from __future__ import annotations

from fractions import Fraction

INDICES = ("a", "b", "g", "d1", "e", "f", "r")

_DIGITS = """
0.5 0 0.5 0 0.5 0.5 0
0.33 0 0.67 0 0.67 0.33 0
0.25 0 0.75 0 0.75 0.25 0
0.67 0 0.33 0 0.33 0.67 0
0.75 0 0.25 0 0.25 0.75 0
0.67 0 0.33 0 0.67 0.33 0
0.33 0 0.67 0 0.33 0.67 0
0.75 0 0.25 0 0.75 0.25 0
0.25 0 0.75 0 0.25 0.75 0
0.5 0 0.5 0 0.5 0.5 0.25
0.5 0 0.5 0 0.5 0.5 0.33
0.33 0 0.67 0 0.67 0.33 0.25
0.67 0 0.33 0 0.33 0.67 0.25
0.67 0 0.33 0 0.67 0.33 0.25
0.33 0 0.67 0 0.33 0.67 0.25
0.5 0.5 0 0.5 0.5 0 0
0.33 0.67 0 0.33 0.67 0 0
0.5 0.5 0 0.5 0.5 0 0.25
0.33 0.67 0 0.33 0.67 0 0.25
1 0 0 0 1 0 0.75
1 0 0 0 1 0 0.5
0.5 0.25 0.25 0.25 0.5 0.25 0
0.5 0.25 0.25 0.25 0.5 0.25 0.25
"""

THETAS: tuple[tuple[str, ...], ...] = tuple(
    tuple(line.split()) for line in _DIGITS.split("\n") if line
)
"""Each as decimals, in the order of `INDICES`."""


def exponents(theta: tuple[str, ...]) -> dict[str, Fraction]:
    """The exponent of each index, exactly."""
    return {n: Fraction(t) for n, t in zip(INDICES, theta, strict=True)}


def body(theta: tuple[str, ...]) -> str:
    """The structure as the body of a .ein definition."""
    features = dict.fromkeys(INDICES[:3], "d_in") | dict.fromkeys(INDICES[3:6], "d_out")
    sizes = [
        f"{name} ~ {features.get(name, 'd')}^({exponent})"
        for name, exponent in zip(INDICES, theta, strict=True)
    ]
    equation = "y[d1, e, f] = x[a, b, g] * A[a, g, d1, f, r] * B[b, g, e, f, r]"
    return "\n".join([equation, *sizes])
