"""The reasons for exponents: what they name adds up, what they suggest is so.

A suggestion is checked as a user would: its text is parsed and analysed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from oracles import Equation
from structures import Case, growing
from terminal import call
from terminal import einc as command

import einc
from einc import library
from einc.analysis.exponents import Triple, growth_of
from einc.analysis.why import Reason, Reasons


def reasons(case: Case) -> tuple[Triple, Reasons]:
    structure = case.load()
    found, why = structure.analyze().exponents, structure.why()
    assert found is not None and why is not None
    return found.best, why


@settings(max_examples=150)
@given(growing(1, 3))
def test_what_is_named_adds_up(case: Case) -> None:
    assert case.thetas is not None
    best, why = reasons(case)

    def total(reason: Reason) -> Fraction:
        return sum((case.thetas[i] for i in reason.indices), Fraction(0))

    assert (why.omega.value, why.psi.value, why.nu.value) == tuple(vars(best).values())
    assert best.nu is not None and best.omega is not None
    assert total(why.nu) == best.nu + 1
    assert total(why.psi) == best.psi
    factors = {f.name: growth_of(f) for f in case.load().structure.factors}
    assert why.omega.factor is not None
    idle = max(factors.values()) - factors[why.omega.factor]
    [step] = [f for f in case.load().structure.factors if f.name == why.omega.factor]
    holders = [case.equation.x, case.equation.y, *case.equation.factors.values()]
    alone = [a for a in step.axes if sum(a.name in held for held in holders) == 1]
    summed = sum((a.theta for a in alone), Fraction(0))
    assert total(why.omega) == best.omega + idle + summed
    assert ("before x comes" in why.omega.text) == (summed > 0)


@settings(max_examples=60)
@given(growing(1, 3))
def test_what_is_suggested_is_so_and_helps(case: Case) -> None:
    best, why = reasons(case)
    for name, reason in why.by_exponent.items():
        for change in reason.changes:
            again = einc.parse(change.spec).analyze().exponents
            assert again is not None and again.best == change.triple
            after, before = (getattr(t, name) for t in (change.triple, best))
            assert after > before if name == "psi" else after < before
            assert change.triple.psi >= best.psi
            assert change.statement in change.spec


def one_index_more_or_less(case: Case) -> Iterator[Case]:
    """All changes of one factor by one index, from the sets alone."""
    read = case.equation
    for name, held in read.factors.items():
        for index in read.indices:
            changed = tuple(i for i in held if i != index)
            if index not in held:
                changed = (*held, index)
            equation = Equation(read.x, read.y, {**read.factors, name: changed})
            if set(equation.indices) == set(read.indices):
                yield replace(case, equation=equation)


@settings(max_examples=40)
@given(growing(1, 3))
def test_no_index_moved_does_better(case: Case) -> None:
    best, why = reasons(case)
    assert best.omega is not None
    for other in one_index_more_or_less(case):
        try:
            found = other.load().analyze().exponents
        except einc.SpecError:
            continue
        assert found is not None
        after = found.best
        if after.psi > best.psi:
            assert why.psi.changes[0].triple.psi >= after.psi
        if best.omega > 0 and after.omega < best.omega and after.psi >= best.psi:
            assert max(why.omega.changes[0].triple.omega, 0) <= max(after.omega, 0)


@pytest.mark.parametrize("name", library.NAMES)
def test_the_library_s_suggestions(name: str) -> None:
    why = einc.load(name).why()
    assert why is not None
    for reason in why.by_exponent.values():
        for change in reason.changes:
            again = einc.parse(change.spec).analyze().exponents
            assert again is not None and again.best == change.triple


def test_sharing_is_explained_and_undone() -> None:
    why = einc.load("kronecker").why()
    assert why.omega.text == (
        "each entry of A is used d^(1/2) times a token, once for each k"
    )
    assert (why.omega.factor, why.omega.indices) == ("A", ("k",))
    assert why.omega.changes[0].text == "k in A as well"
    assert why.omega.changes[0].triple == Triple(
        Fraction(0), Fraction(1), Fraction(1, 2)
    )
    assert why.psi.text == "nothing is narrower than the input"
    assert einc.load("kronecker").why("given").nu.factor == "A"


def test_the_bottleneck_is_named_and_widened() -> None:
    why = einc.load("low_rank", rank=64).why()
    assert why.psi.text == "x * U and V * y share no index that grows"
    why = einc.load("tucker").why()
    assert why.psi.text == "x * A * B and G * C * D * y share r 1/4, s 1/4"
    assert why.psi.changes[0].text == "rank = d^(1/2)"
    assert einc.parse(why.psi.changes[0].spec).analyze().exponents.best.psi == 1


def test_a_sum_is_explained_by_its_widest_and_its_hardest_term() -> None:
    why = einc.load("skip_low_rank").why()
    assert why.psi.text == "nothing is narrower than the input"
    assert why.nu.factor == "U"


def test_a_tied_factor_is_left_as_it_is() -> None:
    text = "structure s { y[p, q] = x[j, k] * A[j, p] * A[k, q]  j, k, p, q ~ d^(1/2) }"
    omega = einc.parse(text).why().omega
    assert omega.value == Fraction(1, 2) and omega.changes == ()


def test_the_routed_index_counts_as_what_a_token_takes() -> None:
    spec = "structure s { y[o] = x[i] * W[r, i, o]  r ~ d^(1/2)  route r top 2 }"
    why = einc.parse(spec).why()
    assert why.omega.value == Fraction(-1, 2)
    assert why.omega.text == "of r a token sees few"


def test_many_factors_are_explained_without_trying_changes() -> None:
    chain = " * ".join(f"F{n}[r{n}, r{n + 1}]" for n in range(1, 11))
    sizes = " ".join(f"r{n} ~ d^(1/2)" for n in range(1, 12))
    text = f"structure s {{ y[o] = x[i] * A[i, r1] * {chain} * B[r11, o] {sizes} }}"
    started = time.perf_counter()
    why = einc.parse(text).why()
    assert time.perf_counter() - started < 10
    assert why.psi.value == Fraction(1, 2) and why.psi.changes == ()


def test_without_exponents_there_are_no_reasons() -> None:
    fixed = ("analyze", "-e", "y[o] = x[i] * W[i, o]  i, o = 4", "--why")
    assert einc.parse("structure s { y[o] = x[i] * W[i, o]  i, o = 4 }").why() is None
    ended = command(*fixed)
    assert ended.status == 0 and "fixed sizes: no exponents\n" in ended.out
    assert command(*fixed, "--json").json["why"] is None


def test_the_command_tells_the_reasons() -> None:
    ended = command("analyze", "kronecker", "--why")
    assert (
        "why omega = 1/2: each entry of A is used d^(1/2) times a token, "
        "once for each k\n"
        "  k in A as well, y[p, q] = x[j, k] * A[j, p, k] * B[k, q]: "
        "omega 0, psi 1, nu 1/2\n"
    ) in ended.out
    document = command("analyze", "kronecker", "--why", "--json").json
    assert set(document["why"]) == {"omega", "psi", "nu"}
    omega = document["why"]["omega"]
    assert set(omega) == {"value", "text", "indices", "factor", "changes"}
    assert omega["value"] == "1/2" and omega["changes"][0]["omega"] == "0"
    assert "why" not in command("analyze", "kronecker", "--json").json


def test_a_suggestion_can_be_analysed_as_it_stands() -> None:
    document = command("analyze", "kronecker", "--why", "--json").json
    spec = document["why"]["omega"]["changes"][0]["spec"]
    ended = call("analyze", "-", "--json", stdin=spec.encode())
    assert ended.json["class"] == "full-rank unshared"
