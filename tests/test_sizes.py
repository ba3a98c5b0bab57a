"""Integers for sizes: exact products, little padding, no rank lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import paper
import pytest
from frontend import body, bound, structure
from hypothesis import given, settings
from hypothesis import strategies as st

from einc.errors import SpecError, UsageError
from einc.factorise import divisors, factorisations
from einc.sizes import Binding, bind, features
from einc.stated import MAX_SIZE
from einc.structure import Structure

# Layers of GPT-2, Pythia, Llama, Qwen, ViT and Mixer, vocabularies and odd ones.
ONE_WAY = """
192x576 384x1536 640x2560 768x2304 768x3072 896x4864 1000x3000 1024x3072 1024x4096
1152x4304 1280x5120 1536x8960 1600x6400 2048x8192 3584x18944 4096x11008 4096x14336
5120x13824 768x50257 1024x50257 4096x32000 4096x128256 769x2053 997x1009
"""
SQUARE = [256, 768, 1000, 1024, 1280, 2048, 2880, 4093, 4096, 7919, 8192]
SHAPES = [
    shape
    for line in ONE_WAY.split()
    for shape in [(int(line.split("x")[0]), int(line.split("x")[1]))]
    for shape in (shape, shape[::-1])
] + [(d, d) for d in SQUARE]

FAMILY = {
    "x": {"a", "b", "g"},
    "y": {"d1", "e", "f"},
    "A": {"a", "g", "d1", "f", "r"},
    "B": {"b", "g", "e", "f", "r"},
}


def cut_bound(tensors: dict[str, set[str]], sizes: dict[str, float]) -> float:
    """The smallest cut between x and y: over all ways to put factors on a side."""
    factors = sorted(set(tensors) - {"x", "y"})
    cuts = []
    for sides in product("xy", repeat=len(factors)):
        near = {"x": set(tensors["x"]), "y": set(tensors["y"])}
        for factor, side in zip(factors, sides, strict=True):
            near[side] |= tensors[factor]
        cuts.append(math.prod(sizes[i] for i in near["x"] & near["y"]))
    return min(cuts)


def covers(binding: Binding) -> None:
    """The sizes of each side multiply to its padded features, and drop none."""
    (term,) = binding.structure.terms
    (padded,) = binding.padded
    for axes, count, least in zip(
        term.sides, padded, (binding.d_in, binding.d_out), strict=True
    ):
        assert math.prod(binding.sizes[a.name] for a in axes) == count >= least


def slack(count: int) -> float:
    """The most that `~` may pad where no index is of both sides."""
    return max(Fraction(5, 1000) * count, 8)


# The paper's structures at real layers


def test_the_shapes_are_many() -> None:
    assert len(set(SHAPES)) == len(SHAPES) >= 45


@pytest.mark.parametrize("theta", paper.THETAS, ids=" ".join)
def test_the_paper_at_real_layers(theta: tuple[str, ...]) -> None:
    resolved = body(paper.body(theta))
    exponents = paper.exponents(theta)
    assert {a.name: a.theta for a in resolved.axes} == exponents
    for d_in, d_out in SHAPES:
        binding = bind(resolved, d_in, d_out)
        covers(binding)
        (padded,) = binding.padded
        for count, asked in zip(padded, (d_in, d_out), strict=True):
            assert 0 <= count - asked <= slack(asked)
            if d_in.bit_count() == d_out.bit_count() == 1:
                assert count == asked
        bases = dict.fromkeys("abg", d_in) | dict.fromkeys(["d1", "e", "f"], d_out)
        ideal = {
            name: bases.get(name, min(d_in, d_out)) ** float(exponent)
            for name, exponent in exponents.items()
        }
        ideal["r"] = binding.sizes["r"]  # an inner index is the nearest integer
        assert abs(ideal["r"] - min(d_in, d_out) ** float(exponents["r"])) <= 0.5
        most = min(cut_bound(FAMILY, ideal), d_in, d_out)
        assert min(cut_bound(FAMILY, dict(binding.sizes)), d_in, d_out) >= 0.95 * most
        for name, exponent in exponents.items():
            if exponent == 0:
                assert binding.sizes[name] == 1
        assert binding.warnings == ()


@pytest.mark.parametrize("theta", paper.THETAS, ids=" ".join)
def test_powers_of_two_are_never_padded(theta: tuple[str, ...]) -> None:
    resolved = body(paper.body(theta))
    for i, o in product(range(6, 15), repeat=2):
        assert not bind(resolved, 2**i, 2**o).is_padded


def test_choices_are_the_same_every_time() -> None:
    text = paper.body(paper.THETAS[-1])
    first = bound(text, 3000, 1009)
    factorisations.cache_clear()
    assert bound(text, 3000, 1009).sizes == first.sizes


# `~` alone never fails, and no feature is ever dropped

CONSTANTS = ["", "", "2 * ", "1/2 * ", "5/3 * "]


def shares(draw: st.DrawFn, names: list[str], total: Fraction) -> dict[str, Fraction]:
    """Exponents that add up to `total`."""
    weights = [draw(st.integers(0, 3)) for _ in names]
    if names and not any(weights):
        weights[0] = 1
    whole = sum(weights)
    return {n: total * Fraction(w, whole) for n, w in zip(names, weights, strict=True)}


@st.composite
def growing(draw: st.DrawFn, both: st.SearchStrategy[int]) -> Structure:
    """A structure of `~` sizes alone, with `both` indices of x and y."""
    names = {
        "x": [f"a{n}" for n in range(draw(st.integers(1, 4)))],
        "y": [f"e{n}" for n in range(draw(st.integers(1, 4)))],
        "both": [f"g{n}" for n in range(draw(both))],
        "inner": [f"r{n}" for n in range(draw(st.integers(0, 2)))],
    }
    everything = [n for group in names.values() for n in group]
    factors = [
        [n for n in everything if draw(st.booleans())]
        for _ in range(draw(st.integers(0, 3)))
    ] + [everything]
    common = Fraction(draw(st.integers(0, 4)) if names["both"] else 0, 4)
    exponents = {
        n: draw(st.fractions(0, Fraction(1, 2), max_denominator=8))
        for n in names["inner"]
    }
    for group, total in ("both", common), ("x", 1 - common), ("y", 1 - common):
        exponents |= shares(draw, names[group], total)
    sides = [draw(st.permutations(names[s] + names["both"])) for s in ("x", "y")]
    equation = f"y[{', '.join(sides[1])}] = x[{', '.join(sides[0])}]"
    for number, factor in enumerate(factors):
        equation += f" * F{number}[{', '.join(factor)}]"
    sizes = [
        f"{name} ~ {draw(st.sampled_from(CONSTANTS))}"
        f"{draw(st.sampled_from(['d', 'd_in', 'd_out']))}^({exponent})"
        for name, exponent in exponents.items()
    ]
    return body("\n".join([equation, *sizes]))


FEATURES = st.one_of(st.integers(1, 40), st.integers(1, 5000))


@given(growing(st.just(0)), FEATURES, FEATURES)
@settings(max_examples=200)
def test_sides_without_common_indices(
    resolved: Structure, d_in: int, d_out: int
) -> None:
    binding = bind(resolved, d_in, d_out)
    covers(binding)
    (padded,) = binding.padded
    for count, asked in zip(padded, (d_in, d_out), strict=True):
        assert count - asked <= slack(asked)
    assert not {"W105", "W106"} & {w.code for w in binding.warnings}


@given(growing(st.integers(1, 3)), FEATURES, FEATURES)
@settings(max_examples=200)
def test_sides_with_common_indices(resolved: Structure, d_in: int, d_out: int) -> None:
    binding = bind(resolved, d_in, d_out)
    covers(binding)
    (padded,) = binding.padded
    for count, asked, tensor in zip(padded, (d_in, d_out), "xy", strict=True):
        warned = any(f"`{tensor}[" in w.message for w in binding.warnings)
        assert count - asked <= slack(asked) or warned


SHARES = [("1/2", 2), ("1/3", 3), ("1/4", 4)]
"""Exponents, and how many indices of it make a side."""


@st.composite
def sums(draw: st.DrawFn) -> str:
    """Up to four terms whose sides share indices in any way, all sizes with `~`."""
    exponent, count = draw(st.sampled_from(SHARES))
    names = [f"{letter}{i}" for letter in "ab" for i in range(count)] + ["c0"]
    lines = []
    for number in range(draw(st.integers(2, 4))):
        y, x = (draw(st.permutations(names))[:count] for _ in "yx")
        held = ", ".join(dict.fromkeys([*y, *x]))
        sign = "+=" if number else "="
        lines.append(f"y[{', '.join(y)}] {sign} x[{', '.join(x)}] * W{number}[{held}]")
    used = [name for name in names if name in " ".join(lines)]
    return "\n".join(lines) + f"\n{', '.join(used)} ~ d^({exponent})"


@settings(max_examples=200)
@given(sums(), st.integers(1, 5000), st.integers(1, 5000))
def test_growing_sizes_of_sums_never_fail(text: str, d_in: int, d_out: int) -> None:
    binding = bound(text, d_in, d_out)
    for term, padded in zip(binding.structure.terms, binding.padded, strict=True):
        for side, product_, count in zip(
            term.sides, padded, (d_in, d_out), strict=True
        ):
            assert math.prod(binding.shape(side)) == product_ >= count


@pytest.mark.parametrize("d", [96, 768, 1000])
def test_sizes_of_a_term_leave_the_next_one_its_features(d: int) -> None:
    """W and V transpose each other's indices; 24 x 32 and 32 x 24 do both."""
    text = """
        y[a, b] = x[c, e] * W[a, b, c, e]
        y[a, c] += x[b, e] * V[a, b, c, e]
        a, b, c, e ~ d^(1/2)
    """
    assert not bound(text, d, d).is_padded


@given(FEATURES, FEATURES)
def test_an_index_of_both_sides_divides_both(d_in: int, d_out: int) -> None:
    binding = bound(
        "y[g, o] = x[g, i] * W[g, i, o]\ng ~ d^(1/2)", d_in=d_in, d_out=d_out
    )
    (padded,) = binding.padded
    assert all(count % binding.sizes["g"] == 0 for count in padded)
    target = math.sqrt(min(d_in, d_out))
    assert abs(math.log(binding.sizes["g"] / target)) < 0.5 * 2 + 1e-9
    common = math.gcd(d_in, d_out)
    if any(common % g == 0 for g in integers_near(target)):
        assert padded == (d_in, d_out)


def integers_near(target: float) -> Iterator[int]:
    spread = math.exp(0.1)
    yield from range(math.ceil(target / spread), math.floor(target * spread) + 1)


def test_indices_of_both_sides_cover_them_where_no_other_can() -> None:
    """With sizes 3 x 3 one of ten features would be dropped."""
    binding = bound("y[h, g] = x[g, h] * W[g, h]\ng, h ~ d^(1/2)", 10, 10)
    covers(binding)
    assert binding.padded[0] in [(10, 10), (12, 12)]
    binding = bound("y[g] = x[g] * W[g]\ng ~ d", 100, 130)
    assert binding.sizes == {"g": 130}
    assert [w.code for w in binding.warnings] == ["W106"]


MANY = [f"g{n}" for n in range(26)]
IN, OUT = [f"i{n}" for n in range(12)], [f"o{n}" for n in range(12)]
LARGE = {
    "blocks": f"y[{', '.join(MANY)}] = x[{', '.join(MANY)}] * W[]\n"
    f"{', '.join(MANY)} ~ d^(1/26)",
    "input": f"y[] = x[{', '.join(MANY)}] * W[]\n{', '.join(MANY)} ~ d_in^(1/26)",
    "kronecker": f"y[{', '.join(OUT)}] = x[{', '.join(IN)}]"
    + "".join(f" * F{n}[i{n}, o{n}]" for n in range(12))
    + f"\n{', '.join(IN)} ~ d_in^(1/12)\n{', '.join(OUT)} ~ d_out^(1/12)",
    "monarch": "y[f, e] = x[g, a] * A[a, g] * B[f, e]\n"
    "g, a ~ d_in^(1/2)\nf, e ~ d_out^(1/2)",
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("d", [MAX_SIZE, MAX_SIZE - 1, 2**30, 1396755360])
def test_many_indices_and_large_features(name: str, d: int) -> None:
    """The work of a choice is bounded: none of these takes as long as a second."""
    covers(bound(LARGE[name], d, 1 if name == "input" else d - d // 7))


# Sizes that are said, and what they leave


@given(st.integers(1, 60), st.integers(1, 3000))
def test_exact_sizes_pad_up_to_5_percent(size: int, d_out: int) -> None:
    text = f"y[p, q] = x[i] * W[i, p, q]\nq = {size}"
    above = -(-d_out // size) * size
    if Fraction(above, d_out) <= Fraction(105, 100):
        binding = bound(text, 64, d_out)
        covers(binding)
        assert binding.padded == ((64, above),)
        codes = [w.code for w in binding.warnings]
        assert codes == ([] if above == d_out else ["W105"])
        return
    with pytest.raises(SpecError) as caught:
        bound(text, 64, d_out)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E210" and diagnostic.help is not None
    numbers = [int(w) for w in diagnostic.help.split() if w.isdigit()]
    assert numbers == [n for n in (above - size, above) if n > 0]
    for nearest in numbers:
        assert not bound(text, 64, nearest).is_padded


@given(st.integers(1, 2**31 - 1))
def test_a_single_index_takes_all(d: int) -> None:
    binding = bound("y[o] = x[i] * U[i, r] * V[r, o]\nr = 1", d, 3)
    assert binding.sizes == {"i": d, "r": 1, "o": 3}
    assert not binding.is_padded


@given(st.integers(1, 10**6))
def test_an_inner_index_is_the_nearest_integer(d: int) -> None:
    sizes = bound("y[o] = x[i] * U[i, r] * V[r, o]\nr ~ d^(1/3) / 2", d, d).sizes
    assert abs(sizes["r"] - d ** (1 / 3) / 2) <= 0.5 + 1e-9 or sizes["r"] == 1


@pytest.mark.parametrize("one", ["1", "d_in^(0)", "1 * d^(0)", "rank", "d/d", "2/2"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (1000, 3000), (997, 1009)])
def test_growth_with_exponent_0_of_1_is_1(one: str, shape: tuple[int, int]) -> None:
    text = (
        "structure s(rank = 1) {"
        " y[b, o] = x[a, i] * U[a, i, r] * V[r, b, o]"
        f" a ~ {one} b, r ~ {one} i ~ d_in * rank }}"
    )
    binding = bind(structure(text), *shape)
    assert binding.sizes == {"a": 1, "i": shape[0], "r": 1, "b": 1, "o": shape[1]}


def test_what_is_left_goes_to_the_index_without_a_size() -> None:
    sizes = bound("y[o] = x[i, j] * W[i, j, o]\nj = 4", 100, 7).sizes
    assert sizes == {"i": 25, "j": 4, "o": 7}
    sizes = bound("y[o] = x[i, j] * W[i, j, o]\nj ~ d_in^(1/4)", 4096, 7).sizes
    assert sizes == {"i": 512, "j": 8, "o": 7}


def test_parameters_and_arguments() -> None:
    text = (
        "structure s(rank = d^(1/2), alpha = 1/2) {"
        " y[o] = x[a, b] * U[a, b, r] * V[r, o] a ~ d_in^alpha r = rank }"
    )
    assert bind(structure(text), 1024, 4096).sizes["r"] == 32
    sizes = bind(structure(text, rank=3, alpha=Fraction(1, 5)), 1024, 4096).sizes
    assert sizes == {"a": 4, "b": 256, "r": 3, "o": 4096}


def test_routed_structures_have_a_top() -> None:
    text = "y[o] = x[i] * W[r, i, o]\nr = 8\nroute r top min(2, d)"
    binding = bound(text, 16, 16)
    assert binding.top == 2
    (axis,) = [a for a in binding.structure.axes if a.name == "r"]
    assert (binding.size(axis), binding.active_size(axis)) == (8, 2)
    assert bound("y[o] = x[i] * W[i, o]", 16, 16).top is None


def test_features_that_are_not_given() -> None:
    free = body("y[o] = x[i] * W[i, o]")
    fixed = body("y[p, q] = x[i] * W[i, p, q]\ni = 12\np, q = 5")
    assert features(free, None, None) is None
    assert features(free, 10, None) == (10, 10)
    assert features(fixed, None, None) == (12, 25)
    assert features(fixed, None, 7) == (12, 7)
    assert fixed.fixed_features(0) == 12 and free.fixed_features(1) is None
    odd = structure("structure s(r = 8/(d-1)) { y[o] = x[i] * A[i, o] i, o = d/d*4 }")
    assert features(odd, None, None) == (4, 4)
    for d_in, d_out in [(0, 1), (1, 0), (MAX_SIZE + 1, 1), (-3, 4)]:
        with pytest.raises(UsageError, match="features must be from 1 to 2147483647"):
            features(free, d_in, d_out)


# Factorisations


@given(st.integers(1, 5000))
def test_divisors(value: int) -> None:
    assert divisors(value) == [n for n in range(1, value + 1) if value % n == 0]


@pytest.mark.parametrize("value", [2**31 - 1, 2**31 - 2, 2**30, 46337**2, 1396755360])
def test_divisors_of_large_integers(value: int) -> None:
    found = divisors(value)
    assert found == sorted({value // n for n in found})
    assert all(value % n == 0 for n in found)
    assert {2**31 - 1: 2, 2**30: 31, 46337**2: 3}.get(value, len(found)) == len(found)


@given(st.integers(1, 5000), st.lists(st.floats(0, 5), min_size=1, max_size=6))
def test_factorisations_are_exact(value: int, targets: list[float]) -> None:
    choices = factorisations(value, tuple(targets)).nearest
    for choice in choices:
        assert math.prod(choice.sizes) == value
        logs = [math.log(s) for s in choice.sizes]
        distance = sum(abs(a - b) for a, b in zip(logs, targets, strict=True))
        assert math.isclose(choice.distance, distance, abs_tol=1e-9)
    assert list(choices) == sorted(choices, key=lambda c: c.distance)


@given(st.integers(1, 3000), st.floats(0, 5), st.floats(0, 5), st.floats(0, 5))
def test_the_nearest_factorisation_is_found(
    value: int, a: float, b: float, c: float
) -> None:
    every = divisors(value)
    distances = [
        abs(math.log(i) - a) + abs(math.log(j) - b) + abs(math.log(value // i // j) - c)
        for i in every
        for j in every
        if value % (i * j) == 0
    ]
    nearest = factorisations(value, (a, b, c)).nearest[0]
    assert math.isclose(nearest.distance, min(distances), abs_tol=1e-9)
