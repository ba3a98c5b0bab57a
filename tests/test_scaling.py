"""Initialization and learning rates: by hand, by brute force and by measurement."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import chain, cost, size_of
from structures import Case, any_case, routed
from torch import nn

import einc
from einc import library
from einc.analysis.scaling import Scale, scales

Fans = dict[str, tuple[int, int]]


def scales_of(structure: Any, d_in: int, d_out: int) -> dict[str, Scale]:
    figures = structure.analyze(d_in, d_out).figures
    assert figures is not None
    return scales(figures.binding)


# At 64 x 96, where d_in^(1/2) is 8 and d_out^(1/2) is 8 and 12, or 12 and 8.
BY_HAND: dict[str, tuple[dict[str, int], Fans]] = {
    "dense": ({}, {"W": (64, 96)}),
    "low_rank": ({"r": 8}, {"U": (64, 8), "V": (8, 96)}),
    # A: j -> p. B: k -> q.
    "kronecker": ({"j": 8, "k": 8, "p": 8, "q": 12}, {"A": (8, 8), "B": (8, 12)}),
    # A first costs 4096 + 6144 and B first 6144 + 6144, so: A: j -> p, r. B: r, k -> q.
    "tensor_train": (
        {"j": 8, "k": 8, "p": 8, "q": 12, "r": 8},
        {"A": (8, 64), "B": (64, 12)},
    ),
    # Both ends cost the same, so as written: A: j -> p, r. B: r, k -> q, t. C: t, l -> s.
    "tensor_train3": (
        {"j": 4, "k": 4, "l": 4, "p": 4, "q": 6, "s": 4, "r": 8, "t": 8},
        {"A": (4, 32), "B": (32, 48), "C": (32, 4)},
    ),
    # A: j -> p, u. B: u, k -> q, v. C: v, l -> s, w. D: w, m -> t.
    "tensor_train4": (
        {"j": 2, "k": 4, "l": 2, "m": 4, "p": 2, "q": 4, "s": 3, "t": 4}
        | {"u": 8, "v": 8, "w": 8},
        {"A": (2, 16), "B": (32, 32), "C": (16, 24), "D": (32, 4)},
    ),
    # A: a -> p. B: b -> q. C: c -> s. What else they have is kept.
    "butterfly3": (
        {"a": 4, "b": 4, "c": 4, "p": 4, "q": 6, "s": 4},
        {"A": (4, 4), "B": (4, 6), "C": (4, 4)},
    ),
    # A: j -> r. B: k -> s. G: r, s -> t, u. C: t -> p. D: u -> q.
    "tucker": (
        {"j": 8, "k": 8, "p": 8, "q": 12, "r": 3, "s": 3, "t": 3, "u": 3},
        {"A": (8, 3), "B": (8, 3), "G": (9, 9), "C": (3, 8), "D": (3, 12)},
    ),
    # A: j -> r. B: k, with r kept. C: -> p, with r kept. D: r -> q.
    "cp": (
        {"j": 8, "k": 8, "p": 8, "q": 12, "r": 64},
        {"A": (8, 64), "B": (8, 1), "C": (1, 8), "D": (64, 12)},
    ),
    # g stays.
    "block_diagonal": ({"g": 4, "i": 16, "o": 24}, {"W": (16, 24)}),
    # A: a -> f, with g kept. B: g -> e, with f kept.
    "monarch": ({"g": 8, "a": 8, "f": 8, "e": 12}, {"A": (8, 8), "B": (8, 12)}),
    "btt": ({"g": 8, "a": 8, "f": 8, "e": 12, "r": 1}, {"A": (8, 8), "B": (8, 12)}),
    # V: c -> r, with j kept. S: j -> p, with r kept. U: r -> q, with p kept.
    "blast": (
        {"j": 4, "c": 16, "r": 8, "p": 4, "q": 24},
        {"V": (16, 8), "S": (4, 4), "U": (8, 24)},
    ),
    # A: a -> f, with g kept. B: g -> e, with f kept. b, p and r are 1.
    "einsum2": (
        {"a": 8, "b": 1, "g": 8, "p": 1, "e": 12, "f": 8, "r": 1},
        {"A": (8, 8), "B": (8, 12)},
    ),
    # The experts count as one.
    "dense_moe": ({"r": 8}, {"W": (64, 96)}),
    "low_rank_moe": ({"r": 8, "k": 8}, {"U": (64, 8), "V": (8, 96)}),
    "kronecker_moe": ({"r": 8, "q": 12}, {"A": (8, 8), "B": (8, 12)}),
    "btt_moe": ({"r": 8, "f": 8}, {"A": (8, 8), "B": (8, 12)}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_library_by_hand(name: str) -> None:
    structure = einc.load(name)
    sizes, fans = BY_HAND[name]
    found = structure.analyze(64, 96).to_json()["sizes"]
    assert found | sizes == found
    check(scales_of(structure, 64, 96), fans, 64, 96)


def test_all_of_the_library_is_here() -> None:
    assert {n for n in library.NAMES if one_term(n)} == set(BY_HAND)


def one_term(name: str) -> bool:
    return len(library.structure(name).terms) == 1


def check(found: dict[str, Scale], fans: Fans, d_in: int, d_out: int) -> None:
    """The formulas of analysis.md."""
    assert {n: (s.fan_in, s.fan_out) for n, s in found.items()} == fans
    n = len(fans)
    for name, (fan_in, fan_out) in fans.items():
        std = math.sqrt(1 / fan_in) * min(1, math.sqrt(fan_out / fan_in))
        assert found[name].std == pytest.approx(std, rel=1e-14)
        assert found[name].adamw == Fraction(d_in, fan_in) / n
        sgd = Fraction(fan_out, fan_in) / Fraction(d_out, d_in) / n
        assert found[name].sgd == sgd


def test_dense_is_as_nn_linear() -> None:
    """The multipliers are those of the dense layer: it has 1."""
    for shape in ((64, 96), (96, 64), (1000, 1000)):
        scale = scales_of(einc.load("dense"), *shape)["W"]
        assert scale.adamw == scale.sgd == 1


def fans_by_hand(case: Case, sizes: dict[str, int]) -> Fans:
    """The x-first order with the fewest multiply-adds, the first of those as written.

    In it an index of a factor that nothing wants after its step is fan-in, and one
    that x had not met before is fan-out, a routed one aside.
    """
    equation = case.equation
    orders = list(itertools.permutations(equation.factors))

    def macs(order: tuple[str, ...]) -> int:
        return cost(equation, sizes, chain(*order), 1, case.route).macs

    order = min(orders, key=macs)
    routed_index = {case.route.index} if case.route is not None else set()
    fans, met = {}, set(equation.x)
    for place, name in enumerate(order):
        own = set(equation.factors[name])
        rest = [equation.factors[later] for later in order[place + 1 :]]
        wanted = set(equation.y).union(*rest)
        fans[name] = (
            size_of(own - wanted - routed_index, sizes),
            size_of((own & wanted) - met - routed_index, sizes),
        )
        met |= own
    return fans


@given(st.one_of(any_case(1, 4), routed(1, 4)))
def test_random_structures(case: Case) -> None:
    structure = case.load()
    figures = structure.analyze(case.d_in, case.d_out).figures
    assert figures is not None
    sizes = dict(figures.binding.sizes)
    fans = fans_by_hand(case, sizes)
    found = scales(figures.binding)
    check(found, fans, case.d_in, case.d_out)
    # Each sum belongs to one factor, so that squares of outputs average 1 or less.
    equation = case.equation
    held = {i for indices in equation.factors.values() for i in indices}
    summed = held - set(equation.y) - {case.route.index if case.route else ""}
    assert math.prod(s.fan_in for s in found.values()) == size_of(summed, sizes)
    power = size_of(summed, sizes) * math.prod(s.std**2 for s in found.values())
    assert power <= 1 + 1e-9


@given(any_case(), st.integers(1, 5000))
def test_never_depends_on_the_plan(case: Case, tokens: int) -> None:
    structure = case.load()
    said = set()
    for order, count in (("best", 1), ("best", tokens), ("given", 7), ("dp", tokens)):
        source = structure.source(case.d_in, case.d_out, tokens=count, order=order)
        start, end = source.index("    # Learning rates"), source.index("def forward")
        said.add(source[start:end])
    assert len(said) == 1


def rms(tensor: torch.Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt())


SHAPES = [(256, 256), (144, 576), (576, 144), (250, 250)]
UNROUTED = [n for n in library.NAMES if library.structure(n).route is None]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", [n for n in UNROUTED if one_term(n)])
def test_outputs_have_unit_rms_or_less(name: str, shape: tuple[int, int]) -> None:
    """Measured, and as the fans of the factors say."""
    structure = einc.load(name)
    made = structure.module_class(*shape)
    torch.manual_seed(0)
    x = torch.randn(200, shape[0])
    with torch.no_grad():
        powers = [rms(made()(x)) ** 2 for _ in range(6)]
    power = sum(powers) / len(powers)
    ratios = [s.fan_out / s.fan_in for s in scales_of(structure, *shape).values()]
    assert power <= 1.2
    # Padding takes a little of it.
    assert power == pytest.approx(math.prod(min(1, r) for r in ratios), rel=0.25)


@pytest.mark.parametrize("name", [n for n in UNROUTED if one_term(n)])
def test_generated_module_starts_and_learns_so(name: str) -> None:
    structure = einc.load(name)
    wanted = scales_of(structure, 576, 400)
    torch.manual_seed(0)
    module = structure.module_class(576, 400)()
    rates = {o: module.lr_multipliers(o) for o in ("adamw", "sgd")}  # type: ignore[operator]
    for key, scale in wanted.items():
        parameter = module.get_parameter(key)
        count = parameter.numel()
        assert rms(parameter) == pytest.approx(scale.std, rel=4 / math.sqrt(2 * count))
        assert rates["adamw"][key] == float(scale.adamw)
        assert rates["sgd"][key] == float(scale.sgd)
    assert isinstance(module.bias, nn.Parameter)
    assert not module.bias.any()
    assert rates["adamw"]["bias"] == rates["sgd"]["bias"] == 1


def test_a_sum_divides_by_the_root_of_its_terms() -> None:
    """Each factor's deviation by sqrt(T); n is the number of its own term's factors."""
    found = scales_of(einc.load("low_rank_plus_block"), 64, 64)
    assert {n: (s.fan_in, s.fan_out) for n, s in found.items()} == {
        "U": (64, 8),
        "V": (8, 64),
        "D": (8, 8),
    }
    alone = {"U": math.sqrt(8) / 64, "V": math.sqrt(1 / 8), "D": math.sqrt(1 / 8)}
    for name, std in alone.items():
        assert found[name].std == pytest.approx(std / math.sqrt(2), rel=1e-14)
    assert {n: s.adamw for n, s in found.items()} == {"U": 0.5, "V": 4, "D": 8}
    assert {n: s.sgd for n, s in found.items()} == {
        "U": Fraction(8, 64) / 2,
        "V": Fraction(64, 8) / 2,
        "D": 1,
    }


@pytest.mark.parametrize("name", ["low_rank_plus_block", "multi_level_low_rank"])
def test_sums_have_unit_rms_or_less(name: str) -> None:
    torch.manual_seed(0)
    made = einc.load(name).module_class(256, 256)
    x = torch.randn(200, 256)
    with torch.no_grad():
        assert rms(made()(x)) <= 1.1


def test_a_tied_factor_takes_its_largest_fan_in() -> None:
    text = "structure s { y[o] = x[i] * U[i, r] * U[o, r] r = 4 }"
    (scale,) = scales_of(einc.parse(text), 36, 36).values()
    # x meets it with fan-in 36 and fan-out 4, then with fan-in 4 and fan-out 36.
    assert (scale.fan_in, scale.fan_out) == (36, 4)
    assert scale.std == pytest.approx(2 / 36, rel=1e-14)
