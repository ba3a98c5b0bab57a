"""All ways to lower a structure compute the same, whichever is the cheapest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from structures import Case, any_case

import einc
from einc import compiler
from einc.api import StructuredMap
from einc.codegen import chunks, gradients, lower, lowering
from einc.codegen.nodes import Product
from einc.nn.compile import module_class

TOKENS = 300
"""In two chunks or more, where there are chunks."""
CHAINS = ["kronecker", "tensor_train", "tensor_train3", "monarch", "btt", "butterfly3"]
"""The first three have weights that share nothing with what else the result has."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CACHE", 1)


def layer_of(structure: StructuredMap, report: Any, **options: Any) -> torch.nn.Module:
    module = compiler.module(report, **options)
    source = compiler.source(report.structure, [module])
    built: Any = module_class(source, module.name, report.figures.binding)
    torch.manual_seed(0)
    return built().double()


def results(layer: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Of a layer: y, and the gradients of x and all parameters."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    weights = [leaf, *layer.parameters()]
    return [y, *torch.autograd.grad(y.square().sum(), weights)]


@pytest.mark.parametrize("tokens", [3, TOKENS])
@pytest.mark.parametrize("name", [*CHAINS, "blast", "low_rank"])
def test_every_lowering_computes_the_same(
    name: str, tokens: int, monkeypatch: pytest.MonkeyPatch
):
    """Each with all that backward by hand makes of it."""
    structure = einc.load(name)
    report = structure.analyze(256, 1024, tokens=tokens, certify=False)
    x = torch.randn(tokens, 256, dtype=torch.float64)
    expected = results(layer_of(structure, report, backward="autograd"), x)
    found = lowering.lowerings
    count = len(found(report.figures.binding, report.plan, "float32", by_hand=True))
    kinds = set()
    for place in range(count):

        def one(*args: Any, chosen: int = place, **options: Any) -> list[Any]:
            return [found(*args, **options)[chosen]]

        monkeypatch.setattr(lower, "lowerings", one)
        layer = layer_of(structure, report)
        for result, right in zip(results(layer, x), expected, strict=True):
            torch.testing.assert_close(result, right)
        (only,) = one(report.figures.binding, report.plan, "float32", by_hand=True)
        values = [statement.value for statement in only.body]
        kinds |= {value.kind for value in values if isinstance(value, Product)}
    assert ("expanded" in kinds) == (name in CHAINS[:3])


@pytest.mark.parametrize("name", CHAINS)
def test_all_gradients_by_hand_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch):
    structure = einc.load(name)
    report = structure.analyze(256, 1024, tokens=TOKENS, certify=False)
    x = torch.randn(TOKENS, 256, dtype=torch.float64)
    expected = results(layer_of(structure, report, backward="autograd"), x)
    found = gradients.all_gradients
    forward = lowering.lowerings(
        report.figures.binding, report.plan, "float32", by_hand=True
    )[0]
    for place in range(len(list(found(forward)))):

        def one(products: Any, chosen: int = place) -> Iterator[Any]:
            yield list(found(products))[chosen]

        monkeypatch.setattr(lower, "all_gradients", one)
        layer = layer_of(structure, report)
        assert layer.chunk
        for result, right in zip(results(layer, x), expected, strict=True):
            torch.testing.assert_close(result, right)


@settings(max_examples=40, deadline=None)
@given(any_case())
def test_expanded_or_not(case: Case):
    if case.route is not None:
        return
    structure = case.load()
    report = structure.analyze(case.d_in, case.d_out, tokens=TOKENS, certify=False)
    x = torch.randn(TOKENS, case.d_in, dtype=torch.float64)
    for dtype in ("float32", "bfloat16"):
        layers = [
            layer_of(structure, report, dtype=dtype, expand=expand)
            for expand in (True, False)
        ]
        for one, other in zip(*(results(layer, x) for layer in layers), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("tokens", [1, 64, 4096])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kronecker_needs_no_copy(tokens: int, dtype: Any):
    """The outer factor meets each token's matrix as it lies."""
    source = einc.load("kronecker").source(1024, 1024, tokens=tokens, dtype=dtype)
    written = "n, p*q" if tokens > 64 else "none"
    assert f"copies beside the products: {written}\n" in source
    assert "torch.bmm(A.expand(x" in source


def test_narrow_matrices_are_not_multiplied_one_by_one():
    kronecker = einc.parse(
        "structure k { y[p, q] = x[j, k] * A[j, p] * B[k, q]  k, q = 4 }"
    )
    assert "expand(" not in kronecker.source(1024, 1024)
