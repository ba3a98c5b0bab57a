"""Orders of contraction against brute force over all trees and against opt_einsum.

Costs are counted by `oracles.cost`, which walks a tree with sets of index names.
"""

from __future__ import annotations

import math
import string
import time
from collections import ChainMap
from collections.abc import Iterable
from fractions import Fraction
from itertools import product
from typing import Any

import opt_einsum
import pytest
from frontend import bound
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Cost, Equation, Route, Tree, chain, cost, size_of, trees
from structures import Case, exact, routed

import einc
from einc.analysis.profile import Profile
from einc.order import ORDERS, Costs, all_trees, best_tree
from einc.plan import Contraction, Node, TermPlan, plan, term_plan
from einc.sizes import Binding

WITHIN = Fraction(105, 100)


def tree_of(node: Node) -> Tree:
    if isinstance(node, Contraction):
        return tree_of(node.left), tree_of(node.right)
    return node.name


def planned(case: Case, tokens: int, order: Any = "best") -> tuple[Profile, Cost]:
    """The analysis, and what its tree costs by the test's own count."""
    profile = case.load().analyze(case.d_in, case.d_out, tokens, order)
    tree = tree_of(profile.plan.terms[0].root)
    return profile, cost(case.equation, case.known_sizes, tree, tokens, case.route)


def all_costs(case: Case, tokens: int) -> list[Cost]:
    names = tuple(case.equation.tensors)
    return [
        cost(case.equation, case.known_sizes, tree, tokens, case.route)
        for tree in trees(names)
    ]


TOKENS = st.sampled_from([1, 2, 5, 30, 400, 4096])
small = st.one_of(exact(1, 4, pads=False), routed(1, 4))


@settings(max_examples=150)
@given(small, TOKENS)
def test_best_up_to_four_factors(case: Case, tokens: int) -> None:
    """The least kept for backward within 5% of the fewest multiply-adds."""
    _, got = planned(case, tokens)
    everything = all_costs(case, tokens)
    fewest = min(c.macs for c in everything)
    good = [c for c in everything if c.macs <= WITHIN * fewest]
    assert (got.saved, got.macs) == min((c.saved, c.macs) for c in good)


@settings(max_examples=30)
@given(st.one_of(exact(5, 5, pads=False), routed(5, 5)), TOKENS)
def test_best_from_five_factors_on(case: Case, tokens: int) -> None:
    """The fewest multiply-adds, and of those trees one that keeps the least."""
    _, got = planned(case, tokens)
    least = min((c.macs, c.saved) for c in all_costs(case, tokens))
    assert (got.macs, got.saved) == least


@given(small, TOKENS, st.sampled_from(ORDERS))
def test_reported_counts(case: Case, tokens: int, order: Any) -> None:
    profile, got = planned(case, tokens, order)
    assert profile.figures is not None
    work, memory = profile.figures.work, profile.figures.memory
    assert work.forward == Fraction(got.macs, tokens)
    assert work.matrix == Fraction(got.matrix, tokens)
    assert work.training == 3 * work.forward + Fraction(got.again, tokens)
    assert memory.largest_intermediate == Fraction(got.largest, tokens)
    factors = [set(f) for f in case.equation.factors.values()]
    joined = {i for i in case.equation.x if any(i in f for f in factors)}
    x = size_of(joined | {*case.equation.x} & {*case.equation.y}, case.known_sizes)
    held = Fraction(got.held, tokens) + (x if factors else 0)
    assert memory.saved_for_backward == held
    report = profile.to_json()
    assert report["macs"]["per_call"] == got.macs
    assert sum(s.macs for s in profile.steps if s.macs) == work.forward
    assert report["flops"]["forward"] == pytest.approx(2 * got.matrix / tokens)
    if case.route is None:
        assert work.elementwise == Fraction(got.elementwise, tokens)
        return
    # With the route taken away the same tree computes every expert.
    tree = tree_of(profile.plan.terms[0].root)
    every = Route(case.route.index, case.known_sizes[case.route.index])
    full = cost(case.equation, case.known_sizes, tree, tokens, every)
    assert work.all_experts == Fraction(full.macs, tokens)
    assert report["flops"]["all_experts"] == pytest.approx(2 * full.matrix / tokens)


@given(exact(0, 4, pads=False), TOKENS)
def test_given_joins_factors_as_written(case: Case, tokens: int) -> None:
    profile, _ = planned(case, tokens, "given")
    tree = tree_of(profile.plan.terms[0].root)
    assert tree == chain(*case.equation.factors)


class Path:
    """A structure and a number of tokens as opt_einsum takes them.

    Indices in one tensor alone are left out: they are summed before any contraction.
    """

    def __init__(self, case: Case, tokens: int) -> None:
        equation, sizes = case.equation, case.known_sizes
        places = [*equation.tensors.values(), equation.y]
        shared = [i for i in equation.indices if sum(i in p for p in places) > 1]
        letter = dict(zip(shared, string.ascii_lowercase, strict=False))
        self.sizes = {letter[i]: sizes[i] for i in shared} | {"T": tokens}
        inputs = [
            "T" * (name == "x") + "".join(letter[i] for i in indices if i in letter)
            for name, indices in equation.tensors.items()
        ]
        output = "T" + "".join(letter[i] for i in equation.y)
        self.equation = f"{','.join(inputs)}->{output}"
        self.shapes = [tuple(self.sizes[c] for c in term) for term in inputs]

    def macs(self, optimize: Any) -> int:
        """The sum over the steps of a path of the product of their indices."""
        _, info = opt_einsum.contract_path(
            self.equation, *self.shapes, shapes=True, optimize=optimize
        )
        total = 0
        for step in info.contraction_list:
            operands = step[2].split("->")[0].split(",")
            if len(operands) > 1:
                product = 1
                for index in set("".join(operands)):
                    product *= self.sizes[index]
                total += product
        return total


def path_of(tree: Tree, names: list[str]) -> list[tuple[int, int]]:
    """A tree as the path of positions in a list that shrinks."""
    pending: list[Tree] = list(names)
    path = []

    def visit(node: Tree) -> None:
        if isinstance(node, str):
            return
        visit(node[0])
        visit(node[1])
        first, second = sorted(pending.index(child) for child in node)
        path.append((first, second))
        del pending[second], pending[first]
        pending.append(node)

    visit(tree)
    return path


@given(exact(1, 4, pads=False), TOKENS, st.sampled_from(ORDERS))
def test_counts_are_those_of_opt_einsum(case: Case, tokens: int, order: Any) -> None:
    """The same tree, walked by opt_einsum."""
    profile, _ = planned(case, tokens, order)
    tree = tree_of(profile.plan.terms[0].root)
    path = path_of(tree, list(case.equation.tensors))
    assert profile.to_json()["macs"]["per_call"] == Path(case, tokens).macs(path)


@settings(max_examples=60)
@given(exact(2, 6, pads=False), TOKENS)
def test_nothing_that_opt_einsum_finds_is_cheaper(case: Case, tokens: int) -> None:
    allowed = WITHIN if len(case.equation.factors) <= 4 else 1
    profile, _ = planned(case, tokens)
    assert profile.figures is not None
    per_call = profile.figures.work.forward * tokens
    path = Path(case, tokens)
    for optimizer in ("optimal", "auto", "greedy", "dp"):
        assert per_call <= allowed * path.macs(optimizer)
        # Its own order, asked for by name, is a tree too.
        found, got = planned(case, tokens, optimizer)
        assert got.macs >= per_call / allowed
        assert found.plan.kind == optimizer


def trained_tree(case: Case, tokens: int, trained: set[str]) -> Tree:
    """einc's best tree where only `trained` need a gradient."""
    names = list(case.equation.tensors)
    profile, _ = planned(case, tokens)
    assert profile.figures is not None
    network = profile.plan.terms[0].network
    costs = Costs.of(profile.figures.binding, network, tokens)
    mask = sum(1 << i for i, name in enumerate(names) if name in trained)
    plan = term_plan(network, best_tree(network, costs, mask))
    return tree_of(plan.root)


@settings(max_examples=60)
@given(exact(1, 4, pads=False), TOKENS, st.data())
def test_weights_of_what_needs_a_gradient(
    case: Case, tokens: int, data: st.DataObject
) -> None:
    """Least kept within 5% of the fewest multiply-adds of a training step."""
    names = tuple(case.equation.tensors)
    trained = data.draw(st.sets(st.sampled_from(names)))

    def judge(tree: Tree) -> Cost:
        some = frozenset(trained)
        return cost(case.equation, case.known_sizes, tree, tokens, trained=some)

    got = judge(trained_tree(case, tokens, trained))
    everything = [judge(tree) for tree in trees(names)]
    fewest = min(c.training for c in everything)
    good = [c for c in everything if c.training <= WITHIN * fewest]
    wanted = min((c.saved, c.training) for c in good)
    assert (got.saved, got.training) == wanted


def low_rank(i: int, r: int, o: int, scalars: int = 0) -> Case:
    """A bottleneck, with factors that are a single number."""
    names = "CDE"[:scalars]
    factors = {"A": ("i", "r"), "B": ("r", "o"), **{name: () for name in names}}
    sizes = {"i": i, "r": r, "o": o}
    statements = tuple(f"{index} = {size}" for index, size in sizes.items())
    equation = Equation(("i",), ("o",), factors)
    return Case(equation, statements, i, o, sizes=sizes)


def test_gradients_can_change_the_order() -> None:
    """x joins A and B in turn, or they are merged, by what needs a gradient."""
    case, in_turn, merged = low_rank(8, 7, 8), chain("A", "B"), ("x", ("A", "B"))
    # 3 * (7 * 56 + 7 * 56) < 3 * (448 + 7 * 64).
    assert trained_tree(case, 7, {"x", "A", "B"}) == in_turn
    # 2 * (7 * 56 + 7 * 56) > 448 + 2 * (7 * 64).
    assert trained_tree(case, 7, {"x"}) == merged
    # 15 * 56 + 2 * (15 * 56) < 2 * (448 + 15 * 64), but not for 30 tokens.
    assert trained_tree(case, 15, {"B"}) == in_turn
    assert trained_tree(case, 30, {"B"}) == merged


@pytest.mark.parametrize("trained", [{"x"}, {"B"}, {"x", "A", "B", "C", "D", "E"}])
@pytest.mark.parametrize("tokens", [5, 7, 15, 30])
def test_gradients_weigh_with_five_factors_too(trained: set[str], tokens: int) -> None:
    case = low_rank(8, 7, 8, scalars=3)
    equation, sizes, some = case.equation, case.known_sizes, frozenset(trained)
    tree = trained_tree(case, tokens, trained)
    got = cost(equation, sizes, tree, tokens, trained=some)
    fewest = min(
        cost(equation, sizes, tree, tokens, trained=some).training
        for tree in trees(tuple(equation.tensors))
    )
    assert got.training == fewest


def test_five_percent_more_may_keep_less() -> None:
    """In turn: 64 a token, 4 a token kept. Merged: 256 and 64 a token, 64 kept."""
    case = low_rank(8, 4, 8)
    for tokens, tree in ((79, chain("A", "B")), (80, ("x", ("A", "B")))):
        profile, _ = planned(case, tokens)
        assert tree_of(profile.plan.terms[0].root) == tree
    # From five factors on the fewest multiply-adds alone count.
    _, got = planned(low_rank(8, 4, 8, scalars=3), 10_000)
    assert got.matrix == 64 * 10_000


MOE = "y[o] = x[i] * U[r, i, k] * V[r, k, o]"


def test_routed_index_is_top_where_x_is_and_full_where_not() -> None:
    structure = einc.parse(
        f"structure moe {{ {MOE} i = 16 o = 16 k = 4 r = 8 route r top 2 }}"
    )
    few = structure.analyze(tokens=1_000_000)
    assert [s.macs for s in few.steps] == [2 * 16 * 4, 2 * 4 * 16]
    # Experts merged first keep r open, at its full size, until x brings the gate.
    merged = cost(
        Equation.read(MOE),
        {"i": 16, "o": 16, "k": 4, "r": 8},
        ("x", ("U", "V")),
        10,
        Route("r", 2),
    )
    assert merged.macs == 8 * 16 * 4 * 16 + 10 * 2 * 16 * 16
    assert few.plan.terms[0].network.kept(0b110) == few.plan.terms[0].network.mask(
        [a for a in few.structure.axes if a.name in "rio"]
    )


def test_twelve_factors_in_about_a_second() -> None:
    ring = "abcefghijklmn"
    factors = [f"F{i}[{ring[i]}, {ring[i + 1]}, q{i % 3}]" for i in range(12)]
    text = f"y[n] = x[a] * {' * '.join(factors)}\n"
    text += "\n".join(f"{c} = {2 + i % 3}" for i, c in enumerate(ring))
    text += "\nq0, q1, q2 = 2"
    start = time.perf_counter()
    profile = einc.parse(f"structure ring {{ {text} }}").analyze(tokens=64)
    assert time.perf_counter() - start < 5
    assert len(profile.steps) == 12


# Sums

SHARED = {"A": "ir", "B": "rs", "C": "is"}
"""Factors that terms have in common, with their indices."""


@st.composite
def sums(draw: st.DrawFn) -> Binding:
    """Two or three terms with up to two factors of `SHARED` and one of their own."""
    lines, used = [], {"i", "o"}
    for number in range(draw(st.integers(2, 3))):
        names = draw(st.sets(st.sampled_from("ABC"), min_size=1, max_size=2))
        held = set().union(*(SHARED[name] for name in names))
        summed = sorted(held - set("i") or "i")
        refs = [f"{name}[{', '.join(SHARED[name])}]" for name in sorted(names)]
        own = f"W{number}[{', '.join([*summed, 'o'])}]"
        sign = "+=" if number else "="
        lines.append(f"y[o] {sign} x[i] * {' * '.join([*refs, own])}")
        used |= held
    sizes = {name: draw(st.integers(1, 40)) for name in sorted(used)}
    lines += [f"{name} = {size}" for name, size in sizes.items()]
    return bound("\n".join(lines), sizes["i"], sizes["o"])


@settings(max_examples=60)
@given(sums(), TOKENS)
def test_what_terms_share_is_worth_sharing(binding: Binding, tokens: int) -> None:
    """Of all trees of all terms, what several of them compute counted once."""
    networks = [binding.network(term) for term in binding.structure.terms]

    def work(term: TermPlan) -> dict[Any, int]:
        sizes = {axis: binding.size(axis) for axis in term.network.axes}
        return {
            step.key: math.prod(sizes[a] for a in step.touched)
            * (tokens if step.holds_x else 1)
            for step in term.steps
        }

    def total(parts: Iterable[dict[Any, int]]) -> int:
        return sum(dict(ChainMap(*parts)).values())

    every = [
        [work(term_plan(n, tree)) for tree in all_trees(tuple(range(len(n.tensors))))]
        for n in networks
    ]
    least = min(map(total, product(*every)))
    assert least <= total(map(work, plan(binding, tokens).terms)) <= least * WITHIN


def test_given_is_not_cheaper_than_best() -> None:
    """Merged, each term alone is cheaper; together they share x * U."""
    text = """
        y[o] = x[i] * U[i, r] * V[r, o]
        y[p, q] += x[i] * U[i, r] * B[r, p, q]
        r = 36
        p = 8
    """
    found = {
        order: einc.parse(f"structure s {{ {text} }}").analyze(64, 64, order=order)
        for order in ("best", "given")
    }
    for profile in found.values():
        assert profile.figures is not None
        assert profile.figures.work.forward == 3 * 64 * 36
