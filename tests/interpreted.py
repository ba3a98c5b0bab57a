"""The fused kernel on a CPU, in Triton's interpreter, against the dense matrix.

Triton asks once, when it is imported, whether it interprets, so this file has a process
of its own: `TRITON_INTERPRET=1 pytest tests/interpreted.py`. test_triton.py starts it.
"""

from __future__ import annotations

import os
import sys
from itertools import product
from typing import Any

import pytest
import torch
import triton.language as tl
from oracles import Equation, dense
from structures import Case
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode
from triton.runtime.interpreter import InterpreterBuilder

from einc import compiler
from einc.nn.compile import module_class

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

BTT = "y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]"


def case(text: str, features: tuple[int, int] | None = None, **sizes: int) -> Case:
    equation = Equation.read(text)
    sizes = {index: sizes[index] for index in equation.indices}
    d_in, d_out = features or (
        torch.Size(sizes[i] for i in side).numel() for side in (equation.x, equation.y)
    )
    statements = tuple(f"{index} = {size}" for index, size in sizes.items())
    return Case(equation, statements, d_in, d_out, sizes)


def btt(g: int, a: int, f: int, r: int, e: int) -> Case:
    return case(BTT, g=g, a=a, f=f, r=r, e=e)


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter has bfloat16 as bits, and multiplies those: here by float32."""
    plain = InterpreterBuilder.create_dot

    def create_dot(self: Any, left: Any, right: Any, *others: Any) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            left, right = (self.cast_impl(one, tl.float32) for one in (left, right))
        return plain(self, left, right, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


def made(case: Case, tokens: int = 4096, order: Any = "given") -> type[nn.Module]:
    """The generated class, which takes this CPU for a GPU."""
    structure = case.load()
    options = {"tokens": tokens, "order": order}
    profile = structure.analyze(case.d_in, case.d_out, **options)
    module = compiler.module(profile, kernels="triton")
    source = compiler.source(structure.structure, [module])
    assert profile.figures is not None
    found = module_class(source, module.name, profile.figures.binding)
    vars(sys.modules[found.__module__])["_is_on_gpu"] = lambda *tensors: True
    return found


def counted(run: Any) -> tuple[Any, dict[str, int]]:
    """What `run` returns, and its FLOPs by operator."""
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, {str(k): v for k, v in counter.get_flop_counts()["Global"].items()}


def check(case: Case, layer: nn.Module, n: int, tolerance: float = 1e-5) -> None:
    """Values and all gradients of a batch of n tokens, from float64."""
    torch.manual_seed(n)
    dtype = next(layer.parameters()).dtype
    x = torch.randn(n, case.d_in, dtype=dtype, requires_grad=True)
    y, flops = counted(lambda: layer(x))
    assert len(flops) == 1 and "einc.fused" in next(iter(flops))
    assert y.shape == (n, case.d_out) and y.dtype == dtype

    wide = {name: p.detach().double() for name, p in layer.named_parameters()}
    leaves = [x.detach().double(), *wide.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    factors = {name: wide[name] for name in case.equation.factors}
    w = dense(case.equation, case.known_sizes, factors, case.d_in, case.d_out)
    expected = leaves[0] @ w.T + wide["bias"]

    pull = torch.randn_like(y)
    got = [y, *torch.autograd.grad(y, [x, *layer.parameters()], pull)]
    wanted = [expected, *torch.autograd.grad(expected, leaves, pull.double())]
    for one, other in zip(got, wanted, strict=True):
        scale = other.abs().max().item() if other.numel() else 1.0
        torch.testing.assert_close(
            one.double(), other, rtol=0.0, atol=tolerance * max(scale, 1e-30)
        )


SIZES = [
    (8, 8, 8, 1, 8),
    (16, 16, 16, 2, 16),
    (5, 7, 6, 3, 9),
    (3, 40, 5, 4, 20),
    (40, 3, 70, 1, 2),
    (1, 9, 4, 2, 8),
    (4, 8, 1, 2, 9),
    (2, 64, 3, 1, 50),
    (2, 5, 3, 17, 4),
]


@pytest.mark.parametrize("tokens", [1, 4096])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: tuple[int, int, int, int, int], tokens: int) -> None:
    """Powers of two and others; blocks for one token and for many."""
    one = btt(*sizes)
    check(one, made(one, tokens)(), 19)


def test_sides_that_only_half_precision_takes() -> None:
    one = btt(2, 128, 3, 1, 65)
    check(one, made(one)(dtype=torch.bfloat16), 19, 3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [0, 1, 2, 35, 131])
def test_tokens(n: int, dtype: torch.dtype) -> None:
    one = btt(6, 6, 5, 2, 7)
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
    check(one, made(one)(dtype=dtype), n, tolerance[dtype])


@pytest.mark.parametrize(
    "text",
    [
        "y[f, e] = x[g, a] * A[g, a, f] * B[f, g, e]",
        "y[e, f] = x[a, g] * A[f, r, a, g] * B[e, r, g, f]",
        "y[f, e] = x[g, a] * B[e, f, r, g] * A[a, r, f, g]",
        "y[f, h, e] = x[g, k, a] * A[g, a, f, r, k, h] * B[h, f, k, g, r, e]",
        "y[f, e, k] = x[g, a, h] * A[g, a, r, h, f] * B[f, g, r, e, k]",
    ],
)
def test_roles(text: str) -> None:
    """An index is what it is by the tensors that have it, wherever it stands there."""
    one = case(text, g=5, a=6, f=4, r=3, e=7, h=2, k=3)
    check(one, made(one, order="best")(), 5)


def test_features_that_are_padded() -> None:
    one = case(BTT, (29, 41), g=5, a=6, f=6, r=2, e=7)
    check(one, made(one)(), 5)


def test_normalized_factors() -> None:
    one = btt(4, 6, 5, 2, 7)
    normalized = Case(one.equation, (*one.statements, "normalize A, B"), 24, 35)
    layer = made(normalized)()
    with torch.no_grad():
        layer.A.mul_(3.0)
    x = torch.randn(5, 24)
    got = layer(x)
    vars(sys.modules[type(layer).__module__])["_is_on_gpu"] = lambda *tensors: False
    torch.testing.assert_close(got, layer(x))


def test_strides_of_x_and_of_the_gradient() -> None:
    """Rows with something between them, and a gradient that is one value."""
    one = btt(4, 6, 5, 2, 7)
    layer = made(one)()
    x = torch.randn(9, 2, 24)[:, 1].requires_grad_()
    layer(x).sum().backward()
    expected = layer.to_dense().sum(0).expand(9, -1)
    torch.testing.assert_close(x.grad, expected)


def test_flops() -> None:
    """Forward and the gradient of x take two products each, those of the weights four."""
    one = btt(4, 6, 5, 2, 7)
    layer = made(one)(bias=False)
    x = torch.randn(3, 24, requires_grad=True)
    y, forward = counted(lambda: layer(x))
    macs = 3 * (4 * 6 * 5 * 2 + 5 * 4 * 2 * 7)
    assert sum(forward.values()) == 2 * macs
    _, backward = counted(lambda: y.sum().backward())
    assert sum(backward.values()) == 2 * 3 * macs
    assert sorted(backward.values()) == [2 * macs, 4 * macs]


def test_what_needs_no_gradient_costs_none() -> None:
    layer = made(btt(4, 6, 5, 2, 7))()
    layer.requires_grad_(False)
    y = layer(torch.randn(3, 24, requires_grad=True))
    _, flops = counted(lambda: y.sum().backward())
    assert len(flops) == 1


def test_second_derivatives() -> None:
    one = btt(3, 4, 2, 2, 3)
    layer = made(one)(bias=False)
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
    layer = made(btt(4, 6, 5, 2, 7))()
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


def test_autocast() -> None:
    layer = made(btt(4, 6, 5, 2, 7))()
    x = torch.randn(3, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, flops = counted(lambda: layer(x))
    assert y.dtype == torch.bfloat16 and "einc.fused" in next(iter(flops))
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)


def test_other_dtypes_are_left_to_the_plain_operations() -> None:
    layer = made(btt(4, 6, 5, 2, 7))()
    x = torch.randn(3, 24)
    with pytest.raises(RuntimeError, match=r"dtype|scalar type"):
        layer(x.bfloat16())
    layer, x = layer.double(), x.double()
    _, flops = counted(lambda: layer(x))
    assert set(flops) == {"aten.bmm", "aten.baddbmm"}


def test_transforms_are_left_to_the_plain_operations() -> None:
    layer = made(btt(4, 6, 5, 2, 7))()
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


def test_equal_kernels_are_one_operator() -> None:
    """Two classes of a process share it, as their text does."""
    operators = {
        sys.modules[made(btt(*sizes)).__module__]._operator
        for sizes in product([4, 5], [6], [5], [2], [7])
    }
    assert len(operators) == 1
