"""Reported ranks by brute force over cuts, and against exact ranks.

Factors are random integers, so W is exact, and its rank modulo the prime 2^31 - 1 is
at most the generic one: three draws that all stay below a claim disprove it. Whole
families are in `ranks`.
"""

from __future__ import annotations

import math

import numpy as np
import paper
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Equation, cuts, dense, size_of
from ranks import PRIME, eliminated
from structures import Case, any_case, exact, routed

import einc
from einc import library
from einc.analysis.rank import Rank


def exact_rank(
    equation: Equation, sizes: dict[str, int], d_in: int, d_out: int, aim: int
) -> int:
    """The largest rank of W in up to three draws of its factors; `aim` is enough."""
    best = 0
    # So that no entry of W comes near 2^63.
    largest = 1000 if len(equation.factors) > 3 else 10_000
    for seed in range(3):
        torch.manual_seed(seed)
        factors = {
            name: torch.randint(-largest, largest, [sizes[i] for i in indices])
            for name, indices in equation.factors.items()
        }
        w = dense(equation, sizes, factors, d_in, d_out)
        best = max(best, eliminated(w.numpy()))
        if best >= aim:
            break
    return best


def active_sizes(case: Case, sizes: dict[str, int]) -> dict[str, int]:
    """The sizes that one token meets."""
    if case.route is None:
        return sizes
    return sizes | {case.route.index: case.route.top}


def check(case: Case) -> tuple[Rank, int]:
    profile = case.load().analyze(case.d_in, case.d_out)
    assert profile.figures is not None
    claim = profile.figures.rank
    sizes = active_sizes(case, dict(profile.figures.binding.sizes))
    smallest_cut = min(size_of(cut, sizes) for cut in cuts(case.equation))
    assert claim.bound == min(smallest_cut, case.d_in, case.d_out)
    rank = exact_rank(case.equation, sizes, case.d_in, case.d_out, claim.bound)
    assert claim.status in ("proved", "probable")
    assert claim.generic == claim.least == rank <= claim.bound
    assert (claim.status == "proved") == (rank == claim.bound)
    report = profile.to_json()["rank"]
    assert report["bound"] == claim.bound and report["generic"] == claim.generic
    by_theorem = case.load().analyze(case.d_in, case.d_out, certify=False)
    assert by_theorem.figures is not None
    assert by_theorem.figures.rank.least <= rank
    return by_theorem.figures.rank, rank


@settings(max_examples=250)
@given(any_case())
def test_random_structures(case: Case) -> None:
    check(case)


@settings(max_examples=200)
@given(exact(2, 3, pads=False))
def test_two_and_three_factors(case: Case) -> None:
    check(case)


@given(routed(1, 3))
def test_routed_rank_is_that_of_the_active_experts(case: Case) -> None:
    check(case)


FAMILY = Equation.read(
    "y[d1, e, f] = x[a, b, g] * A[a, g, d1, f, r] * B[b, g, e, f, r]"
)


def family(values: tuple[int, ...]) -> Case:
    """The paper's two factors with sizes in the order a, b, g, d1, e, f, r."""
    sizes = dict(zip(paper.INDICES, values, strict=True))
    statements = tuple(f"{name} = {size}" for name, size in sizes.items())
    d_in, d_out = math.prod(values[:3]), math.prod(values[3:6])
    return Case(FAMILY, statements, d_in, d_out, sizes=sizes)


def test_the_counterexample_is_only_bounded_by_theorems() -> None:
    """No cut of (2, 2, 2, 3, 3, 1, 1) is below 8, and yet its rank is 7."""
    claim, rank = check(family((2, 2, 2, 3, 3, 1, 1)))
    assert (claim.bound, claim.generic, claim.status) == (8, None, "bound only")
    assert rank == 7


def fixed(equation: str, **sizes: int) -> Case:
    read = Equation.read(equation)
    statements = tuple(f"{name} = {size}" for name, size in sizes.items())
    features = size_of(read.x, sizes), size_of(read.y, sizes)
    return Case(read, statements, *features, sizes=sizes)


def test_a_third_factor_does_not_hide_the_counterexample() -> None:
    """C is square, so x meets the other two as before."""
    case = fixed(
        "y[d1, e, f] = x[h, b, g] * C[h, a] * A[a, g, d1, f] * B[b, g, e, f]",
        **{"h": 2, "a": 2, "b": 2, "g": 2, "d1": 3, "e": 3, "f": 1},
    )
    claim, rank = check(case)
    assert (claim.bound, claim.generic, claim.status) == (8, None, "bound only")
    assert rank == 7


TWOS = {"a": 2, "b": 2, "p": 2, "e": 2}


@pytest.mark.parametrize(
    ("case", "rank"),
    [
        # An index of x and y multiplies the rank by its size and leaves.
        (
            fixed("y[k, p, e] = x[k, a, b] * A[k, a, p] * B[k, b, e]", **TWOS, k=3),
            12,
        ),
        # What a factor has alone is summed.
        (fixed("y[p, e] = x[a, b] * A[a, p, k] * B[b, e]", **TWOS, k=3), 4),
        # The indices of C are those of A, or of the input alone.
        (fixed("y[p, e] = x[a, b] * A[a, p] * B[b, e] * C[a]", **TWOS), 4),
        (fixed("y[p, e] = x[a, b, k] * A[a, p] * B[b, e] * C[b]", **TWOS, k=3), 4),
        # Indices of the same tensors are one: all sizes are 6 then.
        (
            fixed(
                "y[p, e] = x[a, b, c] * A[a, c, p] * B[b, e]",
                **{"a": 2, "c": 3, "b": 6, "p": 6, "e": 6},
            ),
            36,
        ),
        # One factor, whatever its sizes.
        (fixed("y[p, q] = x[a, q, c] * A[a, p]", a=5, p=3, q=2, c=2), 6),
    ],
)
def test_reductions_prove_what_sizes_alone_do_not(case: Case, rank: int) -> None:
    claim, found = check(case)
    assert (claim.generic, claim.status) == (rank, "proved") and found == rank


@settings(max_examples=200)
@given(st.tuples(*[st.integers(1, 3)] * 7))
def test_two_factors_with_a_private_size_of_one_are_proved(
    values: tuple[int, ...],
) -> None:
    """The theorem of two factors: the private sizes are those of a, b, d1 and e."""
    claim, _ = check(family(values))
    a, b, g, d1, e, f, _ = values
    product = math.prod(values)
    assert claim.bound == min(
        a * b * g, d1 * e * f, product // (a * e), product // (b * d1)
    )
    if 1 in (a, b, d1, e):
        assert claim.status == "proved"


# Where all sizes are powers of two: tucker's rank of 64^(1/4) is not.
ONE_TERM = [n for n in library.NAMES if len(library.structure(n).terms) == 1]
POWERS = [name for name in ONE_TERM if name != "tucker"]


@pytest.mark.parametrize("name", POWERS)
def test_library_at_a_power_of_two_is_proved(name: str) -> None:
    structure = einc.load(name)
    profile = structure.analyze(64, 64)
    assert profile.figures is not None
    sizes = dict(profile.figures.binding.sizes)
    route = profile.structure.route
    if route is not None:
        assert profile.figures.binding.top == 2
        sizes[route.index] = 2
    equation = Equation.read(profile.structure.equations[0])
    claim = profile.figures.rank
    rank = exact_rank(equation, sizes, 64, 64, claim.bound)
    assert (claim.bound, claim.generic, claim.status) == (rank, rank, "proved")


def test_padding_can_cost_rank() -> None:
    """10 blocks of 11 x 10 less 5 rows of the last one: 9 * 10 + 6."""
    equation = Equation.read("y[g, o] = x[g, i] * W[g, i, o]")
    sizes = {"g": 10, "i": 10, "o": 11}
    statements = tuple(f"{name} = {size}" for name, size in sizes.items())
    claim, rank = check(Case(equation, statements, 100, 105, sizes=sizes))
    assert (claim.bound, claim.generic, claim.status) == (100, None, "bound only")
    assert rank == 96


def test_the_oracle() -> None:
    assert eliminated(np.array([[1, 2], [2, 4]])) == 1
    assert eliminated(np.array([[0, 2], [2, 4]])) == 2
    assert eliminated(np.array([[PRIME, 0], [0, 0]])) == 0
    assert eliminated(np.diag([1, 2, 3, 0, 5])) == 4
