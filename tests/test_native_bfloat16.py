"""The native kernel for bfloat16: what it computes, on this CPU and as others would.

Tensors are of small whole numbers, of which sums up to 256 are numbers of bfloat16, too:
values and gradients are those of the dense matrix, counted index by index, to the bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import Equation, dense
from structures import Case, exact
from test_native import (
    BTT,
    BUTTERFLY,
    FEW_ARE_CHAINS,
    KRONECKER,
    ROLES,
    SIZES,
    case,
    counted,
    is_native,
    native_class,
    small,
    small_class,
)
from test_style import accept
from torch import nn

import einc
from einc import compiler
from einc.codegen.choices import Dtype
from einc.codegen.layout import TOKENS
from einc.codegen.native.chain import Axes, Chain, native_chain
from einc.codegen.native.loops import Strides
from einc.codegen.native.matrices import InMatrices, Roles, Way, in_matrices
from einc.nn.compile import module_class


def whole(*shape: int) -> torch.Tensor:
    """Ones of both signs among zeros, so few that their sums stay small."""
    signs = torch.randint(0, 2, shape) * 2 - 1
    return (signs * (torch.rand(shape) < 0.25)).to(torch.bfloat16)


MANY = (7, 43, 301)
"""Tokens that are one block of one thread, one of each of two, and several."""


def check(case: Case, layer: nn.Module, *tokens: int) -> None:
    """Values and all gradients of batches of so many."""
    for n in tokens:
        check_batch(case, layer, n)


def check_batch(case: Case, layer: nn.Module, n: int) -> None:
    torch.manual_seed(n)
    layer.to(torch.bfloat16)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
    x, pull = whole(n, case.d_in).requires_grad_(), whole(n, case.d_out)
    inputs = [x, *layer.parameters()]
    y, flops = counted(lambda: layer(x))
    assert is_native(flops)
    found, flops = counted(lambda: torch.autograd.grad(y, inputs, pull))
    assert is_native(flops)

    wide = [leaf.detach().double().requires_grad_() for leaf in inputs]
    names = [name for name, _ in layer.named_parameters()]
    named = dict(zip(names, wide[1:], strict=True))
    factors = {name: named[name] for name in case.equation.factors}
    w = dense(case.equation, case.known_sizes, factors, case.d_in, case.d_out)
    expected = wide[0] @ w.T + named["bias"]
    wanted = torch.autograd.grad(expected, wide, pull.double())
    for one, other in zip([y, *found], [expected, *wanted], strict=True):
        assert torch.equal(one, other.to(torch.bfloat16))


# What it computes


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: dict[str, int]) -> None:
    """Whole tiles, parts of them, and sums of odd lengths."""
    one = case(BTT, **sizes)
    check(one, native_class(one, "bfloat16")(), *MANY)


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 131, 1000])
def test_tokens(n: int) -> None:
    check(small(), small_class("bfloat16")(), n)


@pytest.mark.parametrize("text", ROLES)
def test_roles(text: str) -> None:
    """Dimensions that are summed, kept, shared and new, wherever they stand."""
    indices = Equation.read(text).indices
    size = 17 if len(indices) <= 5 else 5
    one = case(text, **{index: size - (i % 2) for i, index in enumerate(indices)})
    check(one, native_class(one, "bfloat16")(), *MANY)


@settings(max_examples=6, deadline=None, suppress_health_check=FEW_ARE_CHAINS)
@given(exact(least=2, most=3), st.integers(1, 400))
def test_random_structures(one: Case, n: int) -> None:
    assume(lowered(one) is not None)
    check(one, native_class(one, "bfloat16")(), n)


@pytest.mark.parametrize(
    "flags",
    [
        "-mno-amx-bf16 -Wall -Wno-psabi -Werror",
        "-mno-amx-bf16 -mno-avx512bf16 -Wall -Wno-psabi -Werror",
        "-mno-amx-bf16 -mno-avx512f -Wall -Wno-psabi -Werror",
        "-mno-amx-bf16 -mno-avx -Wall -Wno-psabi -Werror",
        "-Wall -Wno-psabi -Werror",
    ],
    ids=["dot-products", "avx512", "avx2", "sse", "all-there-is"],
)
def test_other_processors(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matrix units, and with shorter vectors; and the C gives no warning."""
    for one in (
        case(KRONECKER, j=6, k=17, p=20, q=35),
        case(BTT, g=9, a=6, f=19, r=2, e=33),
        case(BTT, g=8, a=6, f=11, r=4, e=16),
    ):
        made: Any = native_class(one, "bfloat16")
        parts = vars(sys.modules[made.__module__])
        monkeypatch.setitem(parts, "COMPILER", ["cc", *flags.split()])
        check(one, made(), *MANY)


def test_values_are_rounded_as_torch_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the nearest, ties to even, and not a number is none: by the C of all processors."""
    one = case("y[b] = x[a] * A[a, c] * B[c, b]", a=16, c=16, b=16)
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    # x and a sixteenth of it, added in float32, are no numbers of bfloat16.
    x = bits.view(torch.bfloat16).reshape(-1, 16)
    factor = torch.eye(16) + torch.eye(16).roll(1, 0) / 16
    results = []
    for flags in ("", "-mno-amx-bf16 -mno-avx512bf16"):
        made: Any = native_class(one, "bfloat16")
        parts = vars(sys.modules[made.__module__])
        monkeypatch.setitem(parts, "COMPILER", ["cc", *flags.split()])
        layer = made(bias=False, dtype=torch.bfloat16)
        with torch.no_grad():
            layer.A.copy_(factor)
            layer.B.copy_(torch.eye(16))
            results.append(layer(x))
    is_normal = (x.abs() > 1e-30) & (x.abs() < 1e30) | (x == 0)
    rows = is_normal.all(1)
    expected = (x[rows].float() @ factor).to(torch.bfloat16)
    for found in results:
        assert torch.equal(found[rows], expected)
        assert found[x.isnan().any(1)].isnan().any(1).all()


# What torch asks of a module


def test_autocast() -> None:
    """Parameters and x are float32, and so are their gradients."""
    layer: Any = small_class("bfloat16")()
    x = torch.randn(9, 24, requires_grad=True)
    leaves = [x, *layer.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, flops = counted(lambda: layer(x))
    assert y.dtype == torch.bfloat16 and is_native(flops)
    found = torch.autograd.grad(y.float().square().sum(), leaves)
    expected = x @ layer.to_dense().T + layer.bias
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for one, other in zip([y.float(), *found], [expected, *wanted], strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()


def test_other_dtypes_are_left_to_the_plain_operations() -> None:
    layer = small_class("bfloat16")()
    x = torch.randn(9, 24)
    for dtype in (torch.float32, torch.float16, torch.float64):
        layer.to(dtype)
        y, flops = counted(lambda dtype=dtype: layer(x.to(dtype)))
        assert y.dtype == dtype and flops and not is_native(flops)


@pytest.mark.parametrize("n", MANY)
@pytest.mark.parametrize("wanted", range(1, 16))
def test_some_gradients(wanted: int, n: int) -> None:
    """Any set of them."""
    layer: Any = butterfly()(bias=False)
    layer.to(torch.bfloat16)
    x = whole(n, 60)
    leaves = [x, *layer.parameters()]
    torch.manual_seed(wanted)
    for i, leaf in enumerate(leaves):
        leaf.data.copy_(whole(*leaf.shape))
        leaf.requires_grad_(bool(wanted >> i & 1))
    chosen = [leaf for leaf in leaves if leaf.requires_grad]
    pull = whole(n, 84)
    found = torch.autograd.grad(layer(x), chosen, pull)
    layer.KERNEL.least = (n + 1, n + 1)
    expected = torch.autograd.grad(layer(x), chosen, pull)
    layer.KERNEL.least = (0, 0)
    assert all(map(torch.equal, found, expected))


@cache
def butterfly() -> type[nn.Module]:
    return native_class(case(BUTTERFLY, a=3, b=4, c=5, p=2, q=6, s=7), "bfloat16")


def test_strides_threads_and_runs() -> None:
    """Rows with something between them; bit for bit for a number of threads."""
    layer: Any = small_class("bfloat16")()
    check(small(), layer, 40)
    x = whole(40, 2, 24)[:, 1]
    expected, before = layer(x), torch.get_num_threads()
    try:
        for threads in (1, 3, 50):
            torch.set_num_threads(threads)
            assert torch.equal(layer(x), expected)
    finally:
        torch.set_num_threads(before)
    x = torch.randn(500, 24, dtype=torch.bfloat16)
    runs = [
        torch.autograd.grad(layer(x).square().sum(), layer.parameters())
        for _ in range(3)
    ]
    for again in runs[1:]:
        assert all(map(torch.equal, runs[0], again))


def test_compiles_whole() -> None:
    layer = small_class("bfloat16")(dtype=torch.bfloat16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(7, 24, dtype=torch.bfloat16, requires_grad=True)
    leaves = [x, *layer.parameters()]
    results = []
    for module in (compiled, layer):
        y = module(x)
        results.append([y, *torch.autograd.grad(y.sum(), leaves)])
    assert all(map(torch.equal, *results))


def test_the_operators_keep_the_rules_of_torch() -> None:
    layer: Any = small_class("bfloat16")(dtype=torch.bfloat16)
    x = torch.randn(9, 24, dtype=torch.bfloat16, requires_grad=True)
    weights = [layer.A, layer.B]
    torch.library.opcheck(layer.KERNEL.operator, (x, layer.bias, *weights))


def test_two_dtypes_in_a_file() -> None:
    """Each class has the C for its own."""
    structure = einc.load("monarch").structure
    profiles = [compiler.analyze(structure, *shape) for shape in ((64, 64), (96, 96))]
    dtypes: tuple[Dtype, Dtype] = ("float32", "bfloat16")
    modules = [
        compiler.module(profile, dtype=dtype, kernels="native")
        for profile, dtype in zip(profiles, dtypes, strict=True)
    ]
    source = compiler.source(structure, modules)
    accept(source)
    for module, profile, dtype in zip(modules, profiles, dtypes, strict=True):
        assert profile.figures is not None
        made: Any = module_class(source, module.name, profile.figures.binding)
        made.KERNEL.least = (0, 0)
        layer = made(dtype=getattr(torch, dtype))
        x = torch.randn(9, layer.in_features, dtype=getattr(torch, dtype))
        y, flops = counted(lambda layer=layer, x=x: layer(x))
        assert is_native(flops)
        dense = x.double() @ layer.to_dense().double().T + layer.bias.double()
        assert (y.double() - dense).norm() < 0.01 * dense.norm()


# How tensors lie


def lowered(one: Case) -> tuple[Chain, InMatrices] | None:
    profile = one.load().analyze(one.d_in, one.d_out, order="given")
    chain = native_chain(profile)
    return None if chain is None else (chain, in_matrices(chain))


def seen(values: torch.Tensor, form: Strides, chain: Chain, n: int) -> torch.Tensor:
    """A buffer as a tensor, its dimensions in the order of the form."""
    shape = [n if dim is TOKENS else chain.sizes[dim] for dim in form]
    return values.as_strided(shape, list(form.values()))


@settings(max_examples=150, suppress_health_check=FEW_ARE_CHAINS)
@given(exact(least=2, most=3, pads=False), st.integers(1, 3))
def test_forms_of_random_structures(one: Case, n: int) -> None:
    """In both directions, products from form to form give what the dense matrix does."""
    both = lowered(one)
    assume(both is not None)
    assert both is not None
    chain, found = both
    torch.manual_seed(n)
    factors = {
        name: torch.randn(*(one.known_sizes[i] for i in indices), dtype=torch.float64)
        for name, indices in one.equation.factors.items()
    }
    w = dense(one.equation, one.known_sizes, factors, one.d_in, one.d_out)
    weights = [
        factors[leaf.name].reshape([chain.sizes[a] for a in axes])
        for leaf, axes in zip(chain.weights, chain.holds, strict=True)
    ]
    for way, roles, held, matrix in (
        (found.forward, found.roles, chain.holds, w.T),
        (found.back, [r.turned for r in found.roles[::-1]], chain.holds[::-1], w),
    ):
        turned = weights if matrix is not w else weights[::-1]
        x = torch.randn(n, len(matrix), dtype=torch.float64)
        got = along(chain, way, roles, held, turned, x)
        torch.testing.assert_close(got, x @ matrix)


def along(
    chain: Chain,
    way: Way,
    roles: Iterable[Roles],
    holds: Iterable[Axes],
    weights: Iterable[torch.Tensor],
    x: torch.Tensor,
) -> torch.Tensor:
    """What products of matrices make of x, by the addresses that C has of their values."""
    n, written = len(x), x.flatten()
    for i, (one, held, weight) in enumerate(zip(roles, holds, weights, strict=True)):
        written = reordered(chain, way, i, written, n)
        out = torch.zeros(n * way.written[i + 1][TOKENS], dtype=x.dtype)
        dims = [*way.read[i], *(a for a in held if a not in way.read[i])]
        letter = {dim: chr(ord("a") + k) for k, dim in enumerate(dims)}
        terms = ["".join(letter[d] for d in t) for t in (way.read[i], held)]
        given = "".join(letter[d] for d in way.written[i + 1])
        for form, inner in ((way.read[i], one.taken), (way.written[i + 1], one.given)):
            assert is_matrices(form, one, inner, chain)
        left = seen(written, way.read[i], chain, n)
        product = torch.einsum(f"{','.join(terms)}->{given}", left, weight)
        seen(out, way.written[i + 1], chain, n).copy_(product)
        written = out
    return reordered(chain, way, len(way.read) - 1, written, n).reshape(n, -1)


def reordered(
    chain: Chain, way: Way, i: int, values: torch.Tensor, n: int
) -> torch.Tensor:
    source, target = way.written[i], way.read[i]
    to = torch.zeros(n * target[TOKENS], dtype=values.dtype)
    tensor = seen(values, source, chain, n)
    tensor = tensor.permute([list(source).index(dim) for dim in target])
    seen(to, target, chain, n).copy_(tensor)
    return to


def is_matrices(form: Strides, roles: Roles, inner: Axes, chain: Chain) -> bool:
    """Whether tokens and kept axes are one dimension, and batch and inner axes, too."""

    def are_one(axes: Sequence[Any]) -> bool:
        return all(
            form[one] == form[other] * chain.sizes[other]
            for one, other in pairwise(axes)
        )

    return (
        are_one([TOKENS, *roles.kept])
        and are_one(roles.batch)
        and are_one(inner)
        and (not inner or form[inner[-1]] == 1)
    )


def test_what_a_product_reads_is_written_so_where_that_is_enough() -> None:
    """Two plain matrices need no copies, Monarch one, and what is long x and dy."""
    orders = {}
    for name, size in (("low_rank", 64), ("monarch", 64), ("monarch", 1024)):
        chain = native_chain(einc.load(name).analyze(size, size, tokens=2048))
        assert chain is not None
        found = in_matrices(chain)
        orders[name, size] = [
            [
                i
                for i, forms in enumerate(zip(way.written, way.read, strict=True))
                if forms[0] != forms[1]
            ]
            for way in (found.forward, found.back)
        ]
    assert orders == {
        ("low_rank", 64): [[], []],
        ("monarch", 64): [[1], [1]],
        ("monarch", 1024): [[0, 1], [0, 1]],
    }
