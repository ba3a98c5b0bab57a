"""The figures of every library structure against formulas written out here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import einc
from einc import library

SHAPES = [(1024, 1024), (768, 3072), (3000, 1000), (50257, 768), (11008, 4096)]
TOKENS = 4096
EXPERTS, TOP = 8, 2

Count = int | Fraction
Sizes = Any
"""A size for each index, as attributes."""


@dataclass(frozen=True)
class Order:
    """One order of contraction: multiply-adds a step, elements an intermediate.

    Of these multiply-adds `elementwise` belong to a step that sums nothing.
    """

    steps: tuple[Count, ...]
    intermediates: tuple[Count, ...] = ()
    elementwise: Count = 0


@dataclass(frozen=True)
class Expected:
    """A structure's factors, and the orders that can be the best of it.

    The counts of a routed structure are those of one expert.
    """

    factors: Callable[[Sizes], dict[str, int]]
    orders: Callable[[Sizes], list[Order]]
    x: tuple[str, ...]
    y: tuple[str, ...]


def tensor_train_orders(s: Sizes, r: int) -> list[Order]:
    """x with A, then B; or the other way."""
    return [
        Order((s.j * s.k * s.p * r, s.k * s.p * s.q * r), (s.k * s.p * r,)),
        Order((s.j * s.k * s.q * r, s.j * s.p * s.q * r), (s.j * s.q * r,)),
    ]


def tensor_train3_orders(s: Sizes) -> list[Order]:
    """From the first core to the last or back, or two neighbours merged before."""
    with_a = s.j * s.k * s.l * s.p * s.r
    with_c = s.j * s.k * s.l * s.t * s.s
    a_and_b = Fraction(s.j * s.p * s.r * s.k * s.q * s.t, TOKENS)
    b_and_c = Fraction(s.r * s.k * s.q * s.t * s.l * s.s, TOKENS)
    xa, xc = s.k * s.l * s.p * s.r, s.j * s.k * s.t * s.s
    xab, xbc = s.l * s.p * s.q * s.t, s.j * s.r * s.q * s.s
    ab, bc = a_and_b / s.r, b_and_c / s.t
    return [
        Order((with_a, xa * s.q * s.t, xab * s.s), (xa, xab)),
        Order((with_c, xc * s.q * s.r, xbc * s.p), (xc, xbc)),
        Order((with_a, b_and_c, xa * s.q * s.s), (xa, bc)),
        Order((with_c, a_and_b, xc * s.p * s.q), (xc, ab)),
        Order((a_and_b, s.j * s.k * xab, xab * s.s), (ab, xab)),
        Order((b_and_c, s.k * s.l * xbc, xbc * s.p), (bc, xbc)),
    ]


def blast_orders(s: Sizes) -> list[Order]:
    """One after the other, or what weighs the blocks merged with the last basis."""
    merged = Fraction(s.p * s.j * s.q * s.r, TOKENS)
    return [
        Order(
            (s.j * s.c * s.r, s.j * s.p * s.r, s.p * s.q * s.r), (s.j * s.r, s.p * s.r)
        ),
        Order(
            (s.j * s.c * s.r, merged, s.p * s.j * s.q * s.r),
            (s.j * s.r, merged),
            elementwise=merged,
        ),
    ]


def blocks(s: Sizes, r: int) -> list[Order]:
    """Monarch and Block Tensor-Train: within the blocks of x, then across."""
    return [Order((s.g * s.a * s.f * r, s.f * s.g * r * s.e), (s.g * s.f * r,))]


EXPECTED = {
    "dense": Expected(
        lambda s: {"W": s.i * s.o}, lambda s: [Order((s.i * s.o,))], ("i",), ("o",)
    ),
    "low_rank": Expected(
        lambda s: {"U": s.i * s.r, "V": s.r * s.o},
        lambda s: [Order((s.i * s.r, s.r * s.o), (s.r,))],
        ("i",),
        ("o",),
    ),
    "kronecker": Expected(
        lambda s: {"A": s.j * s.p, "B": s.k * s.q},
        lambda s: tensor_train_orders(s, 1),
        ("j", "k"),
        ("p", "q"),
    ),
    "tensor_train": Expected(
        lambda s: {"A": s.j * s.p * s.r, "B": s.r * s.k * s.q},
        lambda s: tensor_train_orders(s, s.r),
        ("j", "k"),
        ("p", "q"),
    ),
    "tensor_train3": Expected(
        lambda s: {
            "A": s.j * s.p * s.r,
            "B": s.r * s.k * s.q * s.t,
            "C": s.t * s.l * s.s,
        },
        tensor_train3_orders,
        ("j", "k", "l"),
        ("p", "q", "s"),
    ),
    "block_diagonal": Expected(
        lambda s: {"W": s.g * s.i * s.o},
        lambda s: [Order((s.g * s.i * s.o,))],
        ("g", "i"),
        ("g", "o"),
    ),
    "monarch": Expected(
        lambda s: {"A": s.g * s.a * s.f, "B": s.f * s.g * s.e},
        lambda s: blocks(s, 1),
        ("g", "a"),
        ("f", "e"),
    ),
    "btt": Expected(
        lambda s: {"A": s.g * s.a * s.f * s.r, "B": s.f * s.g * s.r * s.e},
        lambda s: blocks(s, s.r),
        ("g", "a"),
        ("f", "e"),
    ),
    "blast": Expected(
        lambda s: {"V": s.j * s.c * s.r, "S": s.p * s.j * s.r, "U": s.p * s.q * s.r},
        blast_orders,
        ("j", "c"),
        ("p", "q"),
    ),
    "einsum2": Expected(
        lambda s: {
            "A": s.a * s.g * s.p * s.f * s.r,
            "B": s.b * s.g * s.e * s.f * s.r,
        },
        lambda s: [
            Order(
                (
                    s.a * s.b * s.g * s.p * s.f * s.r,
                    s.b * s.g * s.p * s.e * s.f * s.r,
                ),
                (s.b * s.g * s.p * s.f * s.r,),
            )
        ],
        ("a", "b", "g"),
        ("p", "e", "f"),
    ),
    "dense_moe": Expected(
        lambda s: {"W": s.i * s.o}, lambda s: [Order((s.i * s.o,))], ("i",), ("o",)
    ),
    "low_rank_moe": Expected(
        lambda s: {"U": s.i * s.k, "V": s.k * s.o},
        lambda s: [Order((s.i * s.k, s.k * s.o), (s.k,))],
        ("i",),
        ("o",),
    ),
    "kronecker_moe": Expected(
        lambda s: {"A": s.j * s.p, "B": s.k * s.q},
        lambda s: tensor_train_orders(s, 1),
        ("j", "k"),
        ("p", "q"),
    ),
    "btt_moe": Expected(
        lambda s: {"A": s.g * s.a * s.f, "B": s.f * s.g * s.e},
        lambda s: blocks(s, 1),
        ("g", "a"),
        ("f", "e"),
    ),
}


def best_of(orders: list[Order]) -> Order:
    """Within 5% of the fewest multiply-adds, the one that keeps the least."""
    fewest = min(sum(order.steps) for order in orders)
    good = [order for order in orders if 100 * sum(order.steps) <= 105 * fewest]
    return min(good, key=lambda o: (sum(o.intermediates), sum(o.steps)))


def shown(value: Count) -> int | float:
    """A count as it stands in JSON."""
    fraction = Fraction(value)
    return fraction.numerator if fraction.denominator == 1 else float(fraction)


def product(sizes: Sizes, indices: tuple[str, ...]) -> int:
    result = 1
    for index in indices:
        result *= getattr(sizes, index)
    return result


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", sorted(set(library.NAMES) - set(EXPECTED)))
def test_figures_are_those_of_the_steps_named(
    name: str, shape: tuple[int, int]
) -> None:
    """Sums, and more factors than have orders to be written out by hand."""
    profile = einc.load(name).analyze(*shape)
    report = profile.to_json()
    sizes: dict[str, int] = report["sizes"]
    forward = matrix = Fraction(0)
    for step in report["order"]["steps"]:
        operands, result = step["einsum"].replace("...", "Z").split("->")
        touched = set(operands) - {",", "Z"}
        macs = Fraction(math.prod(sizes[i] for i in touched))
        macs /= 1 if "Z" in operands else TOKENS
        assert step["macs"] == shown(macs)
        forward += macs
        if any(sizes[i] > 1 for i in touched - set(result)):
            matrix += macs
    assert report["macs"]["forward"] == shown(forward)
    assert report["macs"]["training"] == shown(3 * forward)
    assert report["macs"]["per_call"] == forward * TOKENS
    assert report["flops"]["forward"] == shown(2 * matrix)
    terms = len(report["equations"])
    adding = (terms - 1) * shape[1]
    assert report["flops"]["elementwise"] == shown(forward - matrix + adding)
    factors = {
        factor: math.prod(sizes[i] for i in re.findall(r"\w+", indices))
        for equation in report["equations"]
        for factor, indices in re.findall(r"\b([A-Z])\[(.*?)\]", equation)
    }
    assert report["params"]["factors"] == factors
    assert report["params"]["total"] == sum(factors.values())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", EXPECTED)
def test_figures(name: str, shape: tuple[int, int]) -> None:
    d_in, d_out = shape
    profile = einc.load(name).analyze(d_in, d_out)
    report, expected = profile.to_json(), EXPECTED[name]
    sizes = SimpleNamespace(**report["sizes"])
    padded_in, padded_out = product(sizes, expected.x), product(sizes, expected.y)
    assert report["features"] == {
        "in": d_in,
        "out": d_out,
        "padded_in": padded_in,
        "padded_out": padded_out,
    }
    assert d_in <= padded_in <= 1.05 * d_in and d_out <= padded_out <= 1.05 * d_out

    routed = name.endswith("_moe")
    every, active = (EXPERTS, TOP) if routed else (1, 1)
    router = EXPERTS * d_in if routed else 0
    gates = (2 * TOP - 1) * padded_out if routed else 0
    factors = expected.factors(sizes)
    assert report["params"]["factors"] == {n: every * f for n, f in factors.items()}
    assert report["params"]["total"] == every * sum(factors.values())
    assert report["params"]["active"] == active * sum(factors.values())
    assert report["params"]["router"] == router

    order = best_of(expected.orders(sizes))
    macs = sum(order.steps)
    matrix = macs - order.elementwise
    # Experts keep nothing of what stands between their steps, and compute it again.
    again = sum(s["macs"] for s in report["order"]["steps"][:-1]) if routed else 0
    # Of equally good orders either may be taken, so the steps have no order here.
    steps = sorted(step["macs"] for step in report["order"]["steps"])
    assert steps == sorted(shown(active * step) for step in order.steps)
    counted = dict(report["macs"])
    del counted["formula"]
    assert counted == {
        "forward": shown(active * macs),
        "matrix": shown(active * matrix),
        "all_experts": shown(every * macs),
        "router": router,
        "training": shown(3 * active * macs + again),
        "dense_forward": d_in * d_out,
        "per_call": TOKENS * active * macs,
    }
    assert report["flops"] == {
        "forward": shown(2 * active * matrix),
        "all_experts": shown(2 * every * matrix),
        "router": 2 * router,
        "training": shown(6 * active * matrix + 2 * again),
        "dense_forward": 2 * d_in * d_out,
        "elementwise": shown(gates + order.elementwise),
    }
    between = [active * z for z in order.intermediates]
    memory = report["memory"]
    assert memory["largest_intermediate"] == shown(max(between, default=0))
    kept = 0 if routed else sum(between)
    assert memory["saved_for_backward"] == shown(padded_in + kept)
    wanted = {"index": "r", "experts": EXPERTS, "active": TOP} if routed else None
    assert report["routing"] == wanted


def test_bytes_and_intensity() -> None:
    """float32: each operand read and each result written once, factors once a call."""
    dense = einc.load("dense").analyze(1024, 512, tokens=64).to_json()
    moved = 4 * (1024 + 1024 * 512 / 64 + 512)
    assert dense["memory"]["bytes_moved"] == moved
    assert dense["memory"]["intensity"] == 2 * 1024 * 512 / moved
    thin = einc.load("low_rank").analyze(1024, 1024, tokens=64).to_json()
    moved = 4 * (1024 + 32 + 1024 * 32 / 64 + 32 + 1024 + 32 * 1024 / 64)
    assert thin["memory"]["bytes_moved"] == moved
    assert thin["memory"]["intensity"] == 2 * 2 * 1024 * 32 / moved


MERGES = "structure s { y[o] = x[i] * U[i, r] * V[r, o] i = 8 r = 7 o = 8 }"


def test_what_is_merged_is_divided_by_the_tokens() -> None:
    """8 * 7 * 8 once a call, and 8 * 8 a token, which is less than 2 * 7 * 8."""
    report = einc.parse(MERGES).analyze(tokens=1000).to_json()
    assert [s["operands"] for s in report["order"]["steps"]] == [
        ["U", "V"],
        ["x", "z"],
    ]
    assert report["macs"]["forward"] == 64.448
    assert report["macs"]["per_call"] == 64_448
    assert report["flops"]["training"] == pytest.approx(6 * 64.448)
    assert report["memory"]["largest_intermediate"] == 0.064
    assert report["memory"]["saved_for_backward"] == 8.064
    few = einc.parse(MERGES).analyze(tokens=1).to_json()
    assert few["macs"]["forward"] == 112


def test_what_sums_nothing_is_elementwise() -> None:
    """A diagonal is a product, and what x alone has is summed before."""
    text = "structure s { y[i] = x[i, c] * D[i] * E[b] i = 5 c = 3 b = 2 }"
    report = einc.parse(text).analyze(tokens=10).to_json()
    assert report["macs"]["matrix"] == report["flops"]["forward"] == 0
    # (x[i], D) and then E, of which b is summed; or first D and E, once a call.
    assert report["macs"]["forward"] == 5.5
    assert report["flops"]["elementwise"] == 5.5 + 2 * 5 + 1 / 10
    assert report["flops"]["training"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "y[p] = x[a, b] * A[a, p] y[p] += x[a, b] * C[b, p] a, b, p = 4",
        "y[p, q] = x[a, b] * A[a, p] * B[q] y[r, s] += x[c, e] * C[e, r] * D[s]"
        " a, b, c, e, p, q, r, s = 4",
        # Over an index of one value nothing is summed.
        "y[o] = x[i] * A[i, o] y[p] += x[j, k] * B[j, p] k = 1 i, j, o, p = 4",
    ],
)
def test_each_sum_of_x_is_kept(text: str) -> None:
    """As torch keeps them, over different indices."""
    structure = einc.parse(f"structure s {{ {text} }}")
    profile = structure.analyze()
    assert profile.figures is not None
    binding = profile.figures.binding
    layer = structure.module_class(backward="autograd")()
    kept: set[tuple[int, int]] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if len(tensor) == 3 or 3 in tensor.shape:
            kept.add((tensor.data_ptr(), tensor.numel()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(3, binding.d_in, requires_grad=True))
    assert profile.figures.memory.saved_for_backward * 3 == sum(n for _, n in kept)
