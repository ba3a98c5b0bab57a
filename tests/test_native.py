"""The native kernel: which structures have one, and what it computes, on this CPU.

Values and gradients are compared with the dense matrix, counted index by index, in
float64, and the kernel is compiled by the C compiler that is here.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracles import Equation, dense, size_of
from structures import Case, exact
from test_style import accept, lengthened
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import einc
from einc import compiler, library
from einc.codegen.choices import Dtype
from einc.codegen.layout import TOKENS
from einc.codegen.native.chain import native_chain
from einc.codegen.native.looped import Product, Side, looped
from einc.codegen.native.loops import Loops, best_loops
from einc.errors import UsageError
from einc.nn.compile import module_class

FEW_ARE_CHAINS = [HealthCheck.filter_too_much]
"""Of random structures."""

CHAINS = {
    *("blast", "btt", "butterfly3", "einsum2", "kronecker", "low_rank", "monarch"),
    *("tensor_train", "tensor_train3", "tucker"),
}


def case(text: str, features: tuple[int, int] | None = None, **sizes: int) -> Case:
    equation = Equation.read(text)
    sizes = {index: sizes[index] for index in equation.indices}
    d_in, d_out = features or (size_of(equation.x, sizes), size_of(equation.y, sizes))
    statements = tuple(f"{index} = {size}" for index, size in sizes.items())
    return Case(equation, statements, d_in, d_out, sizes)


def native_class(case: Case, dtype: Dtype = "float32") -> type[nn.Module]:
    """The generated class, which takes calls of all numbers of tokens.

    In the order written: the best one multiplies factors this small with each other.
    """
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    structure = case.load()
    profile = structure.analyze(case.d_in, case.d_out, tokens=4096, order="given")
    module = compiler.module(profile, dtype=dtype, kernels="native")
    source = compiler.source(structure.structure, [module])
    assert profile.figures is not None
    made: Any = module_class(source, module.name, profile.figures.binding)
    made.KERNEL.least = (0, 0)
    return made


@cache
def small_class(dtype: Dtype = "float32") -> type[nn.Module]:
    """That of `small`, compiled once."""
    return native_class(small(), dtype)


def counted(run: Any) -> tuple[Any, dict[str, int]]:
    """What `run` returns, and its FLOPs by operator."""
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, {str(k): v for k, v in counter.get_flop_counts()["Global"].items()}


def is_native(flops: dict[str, int]) -> bool:
    return bool(flops) and all(name.startswith("einc.native") for name in flops)


def check(case: Case, layer: nn.Module, n: int, tolerance: float = 1e-5) -> None:
    """Values and all gradients of a batch of n tokens, from float64."""
    torch.manual_seed(n)
    x = torch.randn(n, case.d_in, requires_grad=True)
    y, flops = counted(lambda: layer(x))
    assert is_native(flops)

    wide = {name: p.detach().double() for name, p in layer.named_parameters()}
    leaves = [x.detach().double(), *wide.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    factors = {name: wide[name] for name in case.equation.factors}
    w = dense(case.equation, case.known_sizes, factors, case.d_in, case.d_out)
    expected = leaves[0] @ w.T + wide["bias"]

    pull = torch.randn_like(y)
    inputs = [x, *layer.parameters()]
    found, flops = counted(lambda: torch.autograd.grad(y, inputs, pull))
    assert is_native(flops)
    wanted = torch.autograd.grad(expected, leaves, pull.double())
    for one, other in zip([y, *found], [expected, *wanted], strict=True):
        scale = other.abs().max().item() if other.numel() else 1.0
        torch.testing.assert_close(
            one.double(), other, rtol=0.0, atol=tolerance * max(scale, 1e-30)
        )


BTT = "y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]"
KRONECKER = "y[p, q] = x[j, k] * A[j, p] * B[k, q]"
BUTTERFLY = "y[p, q, s] = x[a, b, c] * A[a, b, c, p] * B[p, b, c, q] * C[p, q, c, s]"


def small() -> Case:
    return case(BTT, g=4, a=6, f=5, r=2, e=7)


# Which structures have one


def test_the_library() -> None:
    have = {
        name
        for name in library.NAMES
        if native_chain(einc.load(name).analyze(4096, 4096))
    }
    assert have == CHAINS


@pytest.mark.parametrize(
    "text",
    [
        "y[e] = x[a] * A[a, e]",
        "y[f, e] = x[g, a] * A[g, a, f] * A[f, g, e]",
        "y[e] = x[a] * A[a, r] * B[r, e, k]",
        "y[f, e] = x[g, a] * A[g, a, f] * B[f, g, e]\n y[o] += x[h] * C[h, o]",
    ],
    ids="one-factor tied summed-alone two-terms".split(),
)
def test_other_structures(text: str) -> None:
    sizes = "g = 4\n a = 4\n f = 4\n e = 4\n h = 16\n o = 16\n r = 4\n k = 4"
    used = [s for s in sizes.split("\n ") if f"{s[0]}," in text or f"{s[0]}]" in text]
    spec = "structure other {\n " + text + "\n " + "\n ".join(used) + "\n}\n"
    features = (16, 16) if "g" in text else (4, 4)
    with pytest.raises(UsageError, match=r"no native kernel for `other` at \d+ x \d+"):
        compiler.module(einc.parse(spec).analyze(*features), kernels="native")


# What it computes


SIZES = [
    dict(g=8, a=8, f=8, r=1, e=8),
    dict(g=16, a=16, f=16, r=2, e=16),
    dict(g=5, a=7, f=6, r=3, e=9),
    dict(g=11, a=40, f=18, r=4, e=20),
    dict(g=40, a=3, f=70, r=1, e=2),
    dict(g=1, a=9, f=4, r=2, e=8),
    dict(g=9, a=8, f=1, r=2, e=9),
    dict(g=9, a=3, f=17, r=2, e=5),
    dict(g=2, a=64, f=3, r=1, e=50),
    dict(g=2, a=5, f=3, r=17, e=4),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: dict[str, int]) -> None:
    """Whole vectors of all lengths, and what is left of them."""
    one = case(BTT, **sizes)
    check(one, native_class(one)(), 19)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 11, 12, 13, 35, 131, 1000])
def test_tokens(n: int) -> None:
    """Whole tiles, blocks and parts of them, and what is left."""
    check(small(), small_class()(), n)


ROLES = [
    KRONECKER,
    BUTTERFLY,
    "y[q, p] = x[k, j] * A[j, p] * B[k, q]",
    "y[p, q] = x[j, k] * A[j, p, r] * B[r, k, q]",
    "y[e] = x[a] * A[a, r] * B[r, e]",
    "y[p, q] = x[j, c] * V[j, c, r] * S[j, p, r] * U[p, q, r]",
    "y[e, f] = x[a, g] * A[f, r, a, g] * B[e, r, g, f]",
    "y[f, h, e] = x[g, k, a] * A[g, a, f, r, k, h] * B[h, f, k, g, r, e]",
    "y[h, f, e] = x[h, g, a] * A[g, a, f] * B[f, g, e]",
    "y[a, b] = x[a, b] * A[b] * B[a]",
]


@pytest.mark.parametrize("text", ROLES)
def test_roles(text: str) -> None:
    """Dimensions that are summed, kept, shared and new, wherever they stand."""
    indices = Equation.read(text).indices
    size = 17 if len(indices) <= 5 else 5
    one = case(text, **{index: size - (i % 2) for i, index in enumerate(indices)})
    check(one, native_class(one)(), 29)


def along(loops: Loops, left: Any, right: Any, out: Any, n: int) -> None:
    """What the loops say, one index after another, added to `out`."""
    tile = (loops.rows, loops.summed, loops.columns, loops.lanes)
    places = [torch.zeros(1, dtype=torch.long)] * 3
    for loop in (*loops.outer, *tile):
        steps = torch.arange(n if loop.of_tokens else loop.size)
        places = [
            (place[:, None] + steps * step).flatten()
            for place, step in zip(places, loop.steps, strict=True)
        ]
    of_left, of_right, of_out = places
    out.index_add_(0, of_out, left[of_left] * right[of_right])


@settings(max_examples=150, suppress_health_check=FEW_ARE_CHAINS)
@given(exact(least=2, most=3, pads=False), st.integers(1, 3))
def test_loops_of_random_structures(one: Case, n: int) -> None:
    """Forward and all gradients, by the loops as they are written into C."""
    profile = one.load().analyze(one.d_in, one.d_out, order="given")
    chain = native_chain(profile)
    assume(chain is not None)
    assert chain is not None
    lowered = looped(chain)
    torch.manual_seed(n)
    factors = {
        name: torch.randn(
            *(one.known_sizes[i] for i in one.equation.factors[name]),
            dtype=torch.float64,
        )
        for name in one.equation.factors
    }
    leaves = [torch.randn(n, one.d_in, dtype=torch.float64), *factors.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    w = dense(one.equation, one.known_sizes, factors, one.d_in, one.d_out)
    y, dy = leaves[0] @ w.T, torch.randn(n, one.d_out, dtype=torch.float64)
    dx, *expected = torch.autograd.grad(y, leaves, dy)

    def space(side: Side) -> torch.Tensor:
        return torch.zeros(n * side.row, dtype=torch.float64)

    def rows(values: torch.Tensor, side: Side) -> torch.Tensor:
        return values.reshape(n, side.row)[:, : side.row - side.padding]

    def ordered(product: Product, loops: Loops) -> torch.Tensor:
        """The weight as the loops have it."""
        weight = factors[product.weight.name].detach()
        axes = product.weight.axes
        ones = [axis for axis in axes if axis not in loops.free]
        order = [axes.index(axis) for axis in (*ones, *loops.free)]
        return weight.permute(order).flatten()

    taken, given = [space(s) for s in lowered.sides], [space(s) for s in lowered.back]
    rows(taken[0], lowered.sides[0]).copy_(leaves[0].detach())
    rows(given[-1], lowered.back[-1]).copy_(dy)
    for i, product in enumerate(lowered.products):
        weight = ordered(product, product.forward)
        along(product.forward, taken[i], weight, taken[i + 1], n)
    torch.testing.assert_close(rows(taken[-1], lowered.sides[-1]), y)
    for i, product in reversed(list(enumerate(lowered.products))):
        weight = ordered(product, product.backward)
        along(product.backward, given[i + 1], weight, given[i], n)
    torch.testing.assert_close(rows(given[0], lowered.back[0]), dx)
    wanted = dict(zip(factors, expected, strict=True))
    for i, product in enumerate(lowered.products):
        pair = (taken[i], given[i + 1])
        left, right = pair[::-1] if product.turned else pair
        found = torch.zeros(chain.counts[i], dtype=torch.float64)
        along(product.gradient, left, right, found, n)
        factors[product.weight.name] = wanted[product.weight.name]
        torch.testing.assert_close(found, ordered(product, product.gradient))


@settings(max_examples=8, deadline=None, suppress_health_check=FEW_ARE_CHAINS)
@given(exact(least=2, most=3), st.integers(1, 40))
def test_random_structures(one: Case, n: int) -> None:
    """The same compiled."""
    profile = one.load().analyze(one.d_in, one.d_out, order="given")
    assume(native_chain(profile) is not None)
    check(one, native_class(one)(), n, 1e-4)


@pytest.mark.parametrize("flags", ["-mno-avx512f -w", "-mno-avx -w", "-Wall -Werror"])
def test_other_processors(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter vectors; and the C gives no warning."""
    for one in (
        case(KRONECKER, j=6, k=17, p=20, q=35),
        case(BTT, g=4, a=6, f=19, r=2, e=33),
    ):
        made: Any = native_class(one)
        kernel = made.KERNEL
        parts = vars(sys.modules[made.__module__])
        monkeypatch.setitem(parts, "COMPILER", ["cc", *flags.split()])
        monkeypatch.setattr(kernel, "library", None)
        check(one, made(), 50)
        monkeypatch.setattr(kernel, "library", None)


def test_features_that_are_padded() -> None:
    one = case(BTT, (29, 41), g=5, a=6, f=6, r=2, e=7)
    check(one, native_class(one)(), 5)


def test_without_a_bias() -> None:
    layer = small_class()(bias=False)
    x = torch.randn(9, 24)
    torch.testing.assert_close(layer(x), x @ layer.to_dense().T)


def test_normalized_factors() -> None:
    one = small()
    normalized = Case(one.equation, (*one.statements, "normalize A, B"), 24, 35)
    layer: Any = native_class(normalized)()
    with torch.no_grad():
        layer.A.mul_(3.0)
    x = torch.randn(5, 24)
    got, flops = counted(lambda: layer(x))
    assert any("native" in name for name in flops)
    layer.KERNEL.least = (6, 6)
    torch.testing.assert_close(got, layer(x))


def test_strides_of_x_of_weights_and_of_the_gradient() -> None:
    """Rows with something between them, and a gradient that is one value."""
    layer: Any = small_class()()
    layer.A.data = layer.A.data.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    x = torch.randn(9, 2, 24)[:, 1].requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, x @ layer.to_dense().T + layer.bias)
    y.sum().backward()
    torch.testing.assert_close(x.grad, layer.to_dense().sum(0).expand(9, -1))


def test_it_is_the_same_again() -> None:
    """Bit for bit: each thread's gradients are added up in one order."""
    layer = small_class()()
    x = torch.randn(500, 24)
    runs = []
    for _ in range(3):
        y = layer(x)
        runs.append([y, *torch.autograd.grad(y.square().sum(), layer.parameters())])
    for again in runs[1:]:
        assert all(map(torch.equal, runs[0], again))


def test_the_space_of_many_threads_is_counted_whole() -> None:
    """Past 32 bits: what is too small a space is written past."""
    library = small_class().KERNEL.compiled()
    sizes = (ctypes.c_long(1 << 24), ctypes.c_long(1 << 24))
    assert library.space_backward(*sizes) > 1 << 32


def test_threads() -> None:
    """Any number of them, also more than there are tokens."""
    layer = small_class()()
    x = torch.randn(40, 24)
    expected, before = layer(x), torch.get_num_threads()
    try:
        for threads in (1, 3, 50):
            torch.set_num_threads(threads)
            torch.testing.assert_close(layer(x), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wanted", range(1, 16))
def test_some_gradients(wanted: int) -> None:
    """Any set of them, and no FLOPs for the others."""
    one = case(BUTTERFLY, a=3, b=4, c=5, p=2, q=6, s=7)
    layer = native_class(one)(bias=False)
    x = torch.randn(20, one.d_in)
    leaves = [x, *layer.parameters()]
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(bool(wanted >> i & 1))
    chosen = [leaf for leaf in leaves if leaf.requires_grad]
    y = layer(x)
    pull = torch.randn_like(y)
    found, flops = counted(lambda: torch.autograd.grad(y, chosen, pull))
    expected = torch.autograd.grad(x @ layer.to_dense().T, chosen, pull)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    first, second, third = 60 * 2, 2 * 4 * 5 * 6, 2 * 6 * 5 * 7
    again = first * (wanted >> 2 > 0) + second * (wanted >> 3 > 0)
    back = first * (wanted & 1) + second * (wanted & 3 > 0) + third * (wanted & 7 > 0)
    count = again + back
    for i, macs in enumerate((first, second, third), start=1):
        count += macs * (wanted >> i & 1)
    assert sum(flops.values()) == 2 * 20 * count


# What torch asks of a module


def test_flops() -> None:
    layer = small_class()(bias=False)
    x = torch.randn(3, 24, requires_grad=True)
    _, flops = counted(lambda: layer(x))
    assert sum(flops.values()) == 2 * 3 * (4 * 6 * 5 * 2 + 5 * 4 * 2 * 7)


def test_few_tokens_are_left_to_the_plain_operations() -> None:
    """Where there are gradients, more are few."""
    layer: Any = native_class(small())()
    layer.KERNEL.least = (200, 256)
    x = torch.randn(2, 128, 24)
    for tokens, trains, expected in (
        (127, True, False),
        (128, True, True),
        (99, False, False),
        (100, False, True),
    ):
        with torch.set_grad_enabled(trains):
            _, flops = counted(lambda n=tokens: layer(x[:, :n]))
        assert is_native(flops) == expected
    _, flops = counted(lambda: layer.requires_grad_(False)(x[:, :100]))
    assert is_native(flops)


def test_how_many_tokens_are_few() -> None:
    """As many as the weights are worth, in powers of two, or as many as there are."""

    def least(name: str, size: int, dtype: Dtype) -> Any:
        profile = einc.load(name).analyze(size, size)
        module = compiler.module(profile, dtype=dtype, kernels="native")
        return module.native and module.native.least

    assert least("kronecker", 4096, "float32") == (256, 256)
    assert least("monarch", 4096, "float32") == (256, 512)
    assert least("butterfly3", 1024, "float32") == (1, 128)
    assert least("kronecker", 4096, "bfloat16") == (1, 1)
    assert least("monarch", 1024, "bfloat16") == (1, 1)
    assert least("monarch", 4096, "bfloat16") == (1, 128)
    assert least("monarch", 6400, "bfloat16") == (16, 128)
    assert least("tensor_train", 4096, "bfloat16") == (1, 1)
    assert least("low_rank", 4096, "bfloat16") == least("low_rank", 4096, "float32")


def test_other_dtypes_are_left_to_the_plain_operations() -> None:
    layer = small_class()()
    x = torch.randn(3, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, flops = counted(lambda: layer(x))
    assert y.dtype == torch.bfloat16 and not is_native(flops)
    layer.double()
    _, flops = counted(lambda: layer(x.double()))
    assert not is_native(flops)
    meta = small_class()(device="meta")
    assert meta(x.to("meta")).shape == (3, 35)


def test_transforms_are_left_to_the_plain_operations() -> None:
    layer: Any = small_class()()
    x = torch.randn(3, 24)
    weight = layer.to_dense().detach()
    _, tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, weight.sum(1).expand(3, -1))
    with forward_ad.dual_level():
        y = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, torch.ones_like(x))))
    torch.testing.assert_close(y.tangent, weight.sum(1).expand(3, -1))
    gradient = torch.func.grad(lambda x: layer(x).sum())(x)
    torch.testing.assert_close(gradient, weight.sum(0).expand(3, -1))
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x))
    x.requires_grad_()
    rows = [w.expand(3, -1) for w in torch.eye(35)]
    (found,) = torch.autograd.grad(
        layer(x), x, torch.stack(rows), is_grads_batched=True
    )
    torch.testing.assert_close(found, weight[:, None].expand(-1, 3, -1))


def test_compiled_transforms_are_left_to_the_plain_operations() -> None:
    layer: Any = small_class()()
    x, ones = torch.randn(3, 24), torch.ones(3, 24)
    weight = layer.to_dense().detach()

    def compiled(function: Any) -> Any:
        torch.compiler.reset()
        return torch.compile(function, backend="eager", fullgraph=True)

    tangent = compiled(lambda x: torch.func.jvp(layer, (x,), (ones,))[1])(x)
    torch.testing.assert_close(tangent, weight.sum(1).expand(3, -1))
    gradient = compiled(torch.func.grad(lambda x: layer(x).sum()))(x)
    torch.testing.assert_close(gradient, weight.sum(0).expand(3, -1))


def test_second_derivatives() -> None:
    one = case(BTT, g=3, a=4, f=2, r=2, e=3)
    layer: Any = native_class(one)(bias=False)
    x = torch.randn(3, 12, requires_grad=True)
    leaves = [x, layer.A, layer.B]
    w = dense(one.equation, one.known_sizes, {"A": layer.A, "B": layer.B}, 12, 6)
    found = []
    for y in (layer(x), x @ w.T):
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        total = sum(one.square().sum() for one in first)
        found.append(torch.autograd.grad(total, leaves))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_compiles_whole() -> None:
    layer = small_class()()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for n in (4, 7):
        x = torch.randn(n, 24, requires_grad=True)
        y = compiled(x)
        torch.testing.assert_close(y, layer(x))
        pull = torch.randn_like(y)
        leaves = [x, *layer.parameters()]
        got = torch.autograd.grad(y, leaves, pull)
        wanted = torch.autograd.grad(layer(x), leaves, pull)
        torch.testing.assert_close(got, wanted)


def test_equal_c_of_other_shapes_is_another_operator() -> None:
    """A dimension of size 1 is nothing to C, and something to second derivatives."""
    for text in (BTT, "y[f, e] = x[g, a] * A[g, a, f] * B[f, g, e]"):
        sizes = {i: {"r": 1}.get(i, 3) for i in Equation.read(text).indices}
        layer: Any = native_class(case(text, **sizes))(bias=False)
        first = torch.autograd.grad(
            layer(torch.randn(4, 9)).square().sum(), layer.A, create_graph=True
        )
        (second,) = torch.autograd.grad(first[0].sum(), layer.A)
        assert second.shape == layer.A.shape


def test_the_operators_keep_the_rules_of_torch() -> None:
    kernel = small_class().KERNEL  # type: ignore[attr-defined]
    layer = small_class()()
    x = torch.randn(9, 24, requires_grad=True)
    weights, bias = [layer.A, layer.B], layer.bias
    torch.library.opcheck(kernel.operator, (x, bias, *weights))
    detached = [w.detach() for w in weights]
    back = (torch.randn(9, 35), x.detach(), detached, [True, False, True])
    torch.library.opcheck(kernel.back, back)


# Where it is compiled


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    made = native_class(case(BTT, g=4, a=6, f=5, r=2, e=6))
    monkeypatch.setitem(vars(sys.modules[made.__module__]), "COMPILER", [])
    _, flops = counted(lambda: made()(torch.randn(5, 24)))
    assert flops and not is_native(flops)


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    made = native_class(case(BTT, g=4, a=6, f=5, r=2, e=8))
    parts = vars(sys.modules[made.__module__])
    monkeypatch.setitem(parts, "COMPILER", ["cc", "-no-such-option"])
    with pytest.raises(
        RuntimeError, match=r"cc does not compile the kernel:\n.*no-such"
    ):
        made()(torch.randn(5, 24))


@pytest.mark.parametrize("script", ["exit 0", None], ids=["nothing", "no program"])
def test_a_compiler_that_compiles_nothing(
    script: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cc"
    file.write_text("no program" if script is None else f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    made = native_class(case(BTT, g=4, a=6, f=5, r=2, e=10))
    parts = vars(sys.modules[made.__module__])
    monkeypatch.setitem(parts, "COMPILER", [str(file)])
    with pytest.raises(RuntimeError, match="does not compile the kernel"):
        made()(torch.randn(5, 24))


@pytest.mark.parametrize(
    ("value", "command"),
    [
        ("", ["cc"]),
        ("./mine -O1", ["./mine", "-O1"]),
        (" ", []),
        ("'cc", []),
        ("no-such-compiler", []),
    ],
)
def test_which_compiler(
    value: str,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Where it is, since it runs in a folder of its own."""
    (tmp_path / "mine").write_text("")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", value)
    found = vars(sys.modules[small_class().__module__])["_compiler"]()
    assert len(found) == len(command) and found[1:] == command[1:]
    assert all(os.path.isabs(one) and shutil.which(one) for one in found[:1])


# Its text and its layouts


def test_two_shapes_in_a_file() -> None:
    structure = einc.load("monarch").structure
    modules = [
        compiler.module(compiler.analyze(structure, *shape), kernels="native")
        for shape in ((64, 64), (768, 3072))
    ]
    accept(compiler.source(structure, modules))


@pytest.mark.parametrize("length", [0, 9, 20])
def test_its_text_is_as_a_formatter_leaves_it(length: int) -> None:
    for text in (BTT, KRONECKER, BUTTERFLY):
        indices = Equation.read(text).indices
        one = case(text, **dict.fromkeys(indices, 6))
        structure = einc.parse(lengthened(one, length)).structure
        profile = compiler.analyze(structure, one.d_in, one.d_out, 4096, "given")
        accept(compiler.source(structure, [compiler.module(profile, kernels="native")]))


def test_lanes_are_what_lies_together() -> None:
    """Of Monarch: f and e forward, a and g backward; no value is gathered."""
    chain = native_chain(einc.load("monarch").analyze(1024, 1024))
    assert chain is not None
    names = [
        [axis.name for axis in loops.lanes.dims if axis is not TOKENS]
        for product in looped(chain).products
        for loops in (product.forward, product.backward, product.gradient)
    ]
    assert names == [["f"], ["a"], ["a"], ["e"], ["g"], ["e"]]


def test_dimensions_that_lie_together_are_one_loop() -> None:
    a, b, c = einc.load("butterfly3").structure.terms[0].input
    sizes = {a: 2, b: 3, c: 16}
    left = {TOKENS: 100, a: 48, b: 16, c: 1}
    out = {TOKENS: 16, c: 1}
    loops = best_loops((left, None, out), (a, b, c), sizes)
    assert loops.outer == () and loops.lanes.dims == (c,)
    assert loops.summed.dims == (a, b) and loops.summed.size == 6
    assert loops.summed.steps == (16, 16, 0) and loops.free == (a, b, c)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 14, 257])
@pytest.mark.parametrize(
    "sizes",
    [(4, 8, 8), (2, 8, 8), (4, 4, 8), (4, 8, 4)],
    ids=lambda s: "x".join(map(str, s)),
)
def test_left_operands_with_lanes_apart(sizes: tuple[int, int, int], n: int) -> None:
    """gcc 12 reads those of other tokens than it is told to where it may use SLP."""
    one = apart_class(sizes)
    check(apart(sizes), one(), n)


def apart(sizes: tuple[int, int, int]) -> Case:
    text = "y[p, q] = x[a, b, c] * A[b, c, a] * B[p, q, b]"
    return case(text, **dict(zip("abc", sizes, strict=True)), p=8, q=4)


@cache
def apart_class(sizes: tuple[int, int, int]) -> type[nn.Module]:
    """Compiled once for all numbers of tokens."""
    return native_class(apart(sizes))


def test_exported_it_is_plain_operations() -> None:
    """For any batch, on machines without a compiler."""
    layer = small_class()()
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(
        layer, (torch.randn(300, 24),), dynamic_shapes=({0: batch},)
    )
    x = torch.randn(500, 24)
    torch.testing.assert_close(exported.module()(x), layer(x))
    assert "native" not in str(exported.graph)
