"""Hypothesis strategies for random structures, with what they mean beside the text.

A `Case` has the equation as sets of names (see `oracles`) and the .ein text that
says the same, so that a test never asks einc what a structure is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import strategies as st
from oracles import Equation, Route, size_of

import einc
from einc.api import StructuredMap

FACTORS = ("A", "B", "z", "W2", "z1", "Q")
INDICES = ("a", "b", "c", "e", "f", "g", "h", "n", "r1", "out")
LARGEST_SIDE = 30
LARGEST_PRODUCT = 3000


@dataclass(frozen=True)
class Case:
    """A structure at given features. `sizes` are known where all are exact."""

    equation: Equation
    statements: tuple[str, ...]
    d_in: int
    d_out: int
    sizes: dict[str, int] | None = None
    thetas: dict[str, Fraction] | None = None
    route: Route | None = None

    @property
    def text(self) -> str:
        lines = [str(self.equation), *self.statements]
        if self.route is not None:
            lines.append(f"route {self.route.index} top {self.route.top}")
        return "structure random {\n  " + "\n  ".join(lines) + "\n}\n"

    def load(self) -> StructuredMap:
        return einc.parse(self.text)

    @property
    def known_sizes(self) -> dict[str, int]:
        assert self.sizes is not None
        return self.sizes


@st.composite
def equations(
    draw: st.DrawFn, least: int = 0, most: int = 4, sides: bool = False
) -> Equation:
    """Any hypergraph of `least` to `most` factors: each index in any set of tensors.

    Of indices in y alone, which the language refuses, x is given a share. With
    `sides` x and y have an index each.
    """
    names = FACTORS[: draw(st.integers(least, most))]
    places = st.sets(st.sampled_from(["x", "y", *names]), min_size=1)
    members: dict[str, list[str]] = {name: [] for name in ("x", "y", *names)}
    for i, index in enumerate(INDICES[: draw(st.integers(2 * sides, len(INDICES)))]):
        holders = draw(places) | (set("xy"[i]) if sides and i < 2 else set())
        for tensor in {"x", "y"} if holders == {"y"} else holders:
            members[tensor].append(index)
    ordered = {t: tuple(draw(st.permutations(i))) for t, i in members.items()}
    return Equation(ordered.pop("x"), ordered.pop("y"), ordered)


@st.composite
def exact(draw: st.DrawFn, least: int = 0, most: int = 4, pads: bool = True) -> Case:
    """All sizes laid down by `=`; sometimes fewer features than they multiply to."""
    equation = draw(equations(least, most))
    sizes = draw(sizes_for(equation))
    features = []
    for side in (equation.x, equation.y):
        product = size_of(side, sizes)
        fewest = math.ceil(Fraction(100, 105) * product) if pads else product
        features.append(draw(st.integers(fewest, product)))
    statements = tuple(f"{index} = {size}" for index, size in sizes.items())
    return Case(equation, statements, *features, sizes=sizes)


@st.composite
def sizes_for(draw: st.DrawFn, equation: Equation) -> dict[str, int]:
    """Sizes from 1 up, small enough for dense matrices and one-shot einsums.

    Sometimes all are powers of one integer, of which more is known.
    """
    sizes: dict[str, int] = {}
    base = draw(st.sampled_from([0, 0, 0, 2, 3]))
    choices = [base**i for i in range(4)] if base else range(1, 8)
    left = {"x": LARGEST_SIDE, "y": LARGEST_SIDE, "all": LARGEST_PRODUCT}
    for index in draw(st.permutations(equation.indices)):
        sides = [n for n in ("x", "y") if index in getattr(equation, n)]
        most = min(left[limit] for limit in (*sides, "all"))
        sizes[index] = draw(st.sampled_from([s for s in choices if s <= most]))
        for limit in (*sides, "all"):
            left[limit] //= sizes[index]
    return sizes


@st.composite
def routed(draw: st.DrawFn, least: int = 1, most: int = 4) -> Case:
    """Like `exact`, with an expert index `k` in one factor or more."""
    case = draw(exact(least, most, pads=False))
    equation, factors = case.equation, dict(case.equation.factors)
    for name in draw(st.sets(st.sampled_from(sorted(factors)), min_size=1)):
        at = draw(st.integers(0, len(factors[name])))
        factors[name] = (*factors[name][:at], "k", *factors[name][at:])
    experts = draw(st.integers(1, 6))
    return Case(
        Equation(equation.x, equation.y, factors),
        (*case.statements, f"k = {experts}"),
        case.d_in,
        case.d_out,
        sizes=case.known_sizes | {"k": experts},
        route=Route("k", draw(st.integers(1, experts))),
    )


@st.composite
def growing(draw: st.DrawFn, least: int = 0, most: int = 3, largest: int = 24) -> Case:
    """Sizes by `~`, whose exponents add up to 1 on each side."""
    equation = draw(equations(least, most, sides=True))
    both = [i for i in equation.x if i in equation.y]
    own = [[i for i in s if i not in both] for s in (equation.x, equation.y)]
    thetas: dict[str, Fraction] = {}
    share = Fraction(draw(st.integers(0, 4)), 4) if both else Fraction(0)
    share = share if all(own) else Fraction(bool(both))
    thetas |= draw(split(both, share))
    for side in own:
        thetas |= draw(split(side, 1 - share))
    for index in equation.indices:
        if index not in thetas:
            thetas[index] = Fraction(draw(st.integers(0, 4)), 8)
    feature = {i: "d_in" for i in own[0]} | {i: "d_out" for i in own[1]}
    statements = tuple(
        f"{index} ~ {feature.get(index, 'd')}^({theta})"
        for index, theta in thetas.items()
    )
    features = st.integers(1, largest)
    return Case(equation, statements, draw(features), draw(features), thetas=thetas)


@st.composite
def split(draw: st.DrawFn, indices: list[str], total: Fraction) -> dict[str, Fraction]:
    """Exponents in quarters of `total` that add up to it."""
    left, thetas = 4, {}
    for index in indices[:-1]:
        part = draw(st.integers(0, left))
        thetas[index] = total * Fraction(part, 4)
        left -= part
    if indices:
        thetas[indices[-1]] = total * Fraction(left, 4)
    return thetas


def any_case(least: int = 0, most: int = 4) -> st.SearchStrategy[Case]:
    return st.one_of(exact(least, most), growing(least, min(most, 3)))
