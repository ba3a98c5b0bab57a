"""Generated modules against one-shot einsum through the dense matrix."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import Equation, dense, size_of, trees
from structures import Case, any_case, exact
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import einc
from einc import compiler, library
from einc.analysis.profile import Profile
from einc.nn.compile import module_class
from einc.order import ORDERS
from einc.plan import Plan, term_plan


def compare(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def sizes_of(case: Case, profile: Profile) -> dict[str, int]:
    """The sizes that einc chose, held against what was asked for."""
    assert profile.figures is not None
    sizes = dict(profile.figures.binding.sizes)
    if case.sizes is not None:
        assert sizes == case.sizes
    assert size_of(case.equation.x, sizes) >= case.d_in
    assert size_of(case.equation.y, sizes) >= case.d_out
    return sizes


def check(case: Case, sizes: dict[str, int], module: nn.Module, batch: Any) -> None:
    """Values, gradients and `to_dense` against W from the module's parameters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    parameters = {name: getattr(module, name) for name in case.equation.factors}
    x = torch.randn(*batch, case.d_in, dtype=torch.float64, requires_grad=True)
    w = dense(case.equation, sizes, parameters, case.d_in, case.d_out)
    expected = x @ w.T + module.bias
    got = module(x)
    compare(got, expected)
    as_dense: torch.Tensor = module.to_dense()  # type: ignore[operator]
    compare(as_dense, w)
    pull = torch.randn_like(got)
    leaves = [x, *module.parameters()]
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    gradients = torch.autograd.grad(got, leaves, pull, **options)
    wanted = torch.autograd.grad(expected, leaves, pull, **options)
    for one, other in zip(gradients, wanted, strict=True):
        compare(one, other)


# Each generated file is a place of its own to hypothesis, so an error in any would
# count as another error.
one_failure = settings(report_multiple_bugs=False)

BATCHES = st.sampled_from([(3,), (), (1,), (0,), (2, 3), (2, 0)])


@one_failure
@given(any_case(), st.sampled_from(ORDERS), st.integers(1, 2000), BATCHES, st.data())
def test_module_is_the_einsum(
    case: Case, order: Any, tokens: int, batch: Any, data: st.DataObject
) -> None:
    structure = case.load()
    options: dict[str, Any] = {"tokens": tokens, "order": order}
    sizes = sizes_of(case, structure.analyze(case.d_in, case.d_out, **options))
    made = structure.module_class(case.d_in, case.d_out, **options)
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    check(case, sizes, made(dtype=torch.float64), batch)


ONE_TERM = [
    name
    for name in library.NAMES
    if library.structure(name).route is None and len(library.structure(name).terms) == 1
]


@pytest.mark.parametrize("shape", [(64, 96), (61, 98)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", ONE_TERM)
def test_library(name: str, shape: tuple[int, int]) -> None:
    structure = einc.load(name)
    profile = structure.analyze(*shape)
    equation = Equation.read(profile.structure.equations[0])
    case = Case(equation, (), *shape)
    torch.manual_seed(0)
    made = structure.module_class(*shape)
    check(case, sizes_of(case, profile), made(dtype=torch.float64), (5,))


def with_tree(case: Case, profile: Profile, tree: Any) -> type[nn.Module]:
    """The module that contracts in the order of `tree`, a pair of names."""
    numbers = {name: i for i, name in enumerate(("x", *case.equation.factors))}

    def numbered(node: Any) -> Any:
        if isinstance(node, str):
            return numbers[node]
        return numbered(node[0]), numbered(node[1])

    network = profile.plan.terms[0].network
    plan = Plan("best", 4096, (term_plan(network, numbered(tree)),))
    module = compiler.module(replace(profile, plan=plan), "Random")
    source = compiler.source(profile.structure, [module])
    assert profile.figures is not None
    return module_class(source, "Random", profile.figures.binding)


def check_trees(case: Case, chosen: list[Any]) -> None:
    profile = case.load().analyze(case.d_in, case.d_out)
    sizes = sizes_of(case, profile)
    shapes: set[Any] = set()
    for tree in chosen:
        module = with_tree(case, profile, tree)(dtype=torch.float64)
        shapes.add(tuple((n, tuple(p.shape)) for n, p in module.named_parameters()))
        check(case, sizes, module, (3,))
    assert len(shapes) == 1


@one_failure
@given(any_case(1, 3))
def test_every_tree_computes_the_same(case: Case) -> None:
    check_trees(case, list(trees(("x", *case.equation.factors))))


@one_failure
@given(exact(4, 4), st.randoms(use_true_random=False))
def test_random_trees_of_four_factors(case: Case, rng: random.Random) -> None:
    everything = list(trees(("x", *case.equation.factors)))
    assert len(everything) == 105
    check_trees(case, rng.sample(everything, 4))


@one_failure
@given(any_case())
def test_parameters_are_the_factors_as_written(case: Case) -> None:
    structure = case.load()
    profile = structure.analyze(case.d_in, case.d_out)
    assert profile.figures is not None
    sizes = sizes_of(case, profile)
    wanted = {
        name: tuple(sizes[index] for index in indices)
        for name, indices in case.equation.factors.items()
    }
    for order in ORDERS:
        made = structure.module_class(case.d_in, case.d_out, order=order)
        named = made(bias=False).named_parameters()
        shapes = {name: tuple(parameter.shape) for name, parameter in named}
        assert shapes == wanted and list(shapes) == list(wanted)
    total = sum(p.numel() for p in made(bias=False).parameters())
    counted = profile.figures.parameters
    assert counted.total == counted.active == total
    assert counted.factors == {n: math.prod(shape) for n, shape in wanted.items()}
    assert counted.router == 0


def flops(run: Any) -> int:
    with FlopCounterMode(display=False) as mode:
        run()
    return int(mode.get_total_flops())


DIAGONAL = Case(
    Equation(("g", "a"), ("g", "a"), {"A": ("a", "g"), "B": ("g",)}),
    ("g = 3", "a = 4"),
    12,
    12,
    sizes={"g": 3, "a": 4},
)


@one_failure
@given(any_case(), st.sampled_from(ORDERS), st.integers(1, 40))
@example(DIAGONAL, "best", 5)
def test_flops_are_what_torch_counts(case: Case, order: Any, tokens: int) -> None:
    structure = case.load()
    options: dict[str, Any] = {"tokens": tokens, "order": order}
    profile = structure.analyze(case.d_in, case.d_out, **options)
    report = profile.to_json()["flops"]
    module = structure.module_class(case.d_in, case.d_out, **options)()
    x = torch.randn(tokens, case.d_in, requires_grad=True)
    forward = flops(lambda: module(x))
    assert forward == round(report["forward"] * tokens)
    assert flops(lambda: module(x).sum().backward()) == 3 * forward
    assert round(report["training"] * tokens) == 3 * forward
    assert profile.figures is not None
    assert 2 * profile.figures.work.matrix * tokens == forward
