"""What generated code copies is what its header lists, so that speed cannot rot unseen.

Copies are counted by a dispatch mode: a reshape that is no view is a clone.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from structures import Case, any_case
from torch.utils._python_dispatch import TorchDispatchMode

import einc
from einc import library
from einc.api import StructuredMap

UNROUTED = [n for n in library.NAMES if library.structure(n).route is None]
CHUNKED = ["kronecker", "tensor_train", "monarch", "btt", "blast", "butterfly3"]
WIDTHS = [(256, 256), (192, 768)]


class Clones(TorchDispatchMode):
    """Counts what is written anew."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ):
        self.count += func.overloadpacket in (
            torch.ops.aten.clone,
            torch.ops.aten._to_copy,
            torch.ops.aten.copy_,
        )
        return func(*args, **(kwargs or {}))


def listed(source: str, head: str = "copies beside the products: ") -> list[str]:
    """The copies that a file's header lists."""
    if head not in source:
        return []
    text = source.split(head)[1]
    # A line that is too long goes on in the next.
    line = re.split(r"\n\n|\n(?!        )|\n    copies", text)[0]
    return [] if line.startswith("none") else " ".join(line.split()).split("; ")


def check(structure: StructuredMap, d_in: int, d_out: int, tokens: int) -> None:
    for dtype in ("float32", "bfloat16"):
        options: dict[str, Any] = {"tokens": tokens, "dtype": dtype}
        module = structure.module_class(d_in, d_out, **options)(bias=False)
        x = torch.randn(tokens, d_in)
        with torch.no_grad(), Clones() as clones:
            y = module(x)
        expected = listed(structure.source(d_in, d_out, **options))
        assert clones.count == len(expected), expected
        assert y.is_contiguous()
        torch.testing.assert_close(y, x @ module.to_dense().T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", WIDTHS, ids=str)
@pytest.mark.parametrize("name", UNROUTED)
def test_copies_of_the_library_are_those_listed(name: str, shape: tuple[int, int]):
    check(einc.load(name), *shape, tokens=5)


@settings(max_examples=60, deadline=None)
@given(any_case())
def test_copies_are_those_listed(case: Case):
    if case.route is None:
        check(case.load(), case.d_in, case.d_out, tokens=3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHUNKED)
def test_copies_of_each_chunk_are_those_listed(name: str, dtype: Any):
    """Those of tokens in each, those of weights once."""
    structure = einc.load(name)
    options: dict[str, Any] = {"tokens": 4096, "dtype": dtype}
    module = structure.module_class(1024, 1024, **options)(bias=False)
    with torch.no_grad(), Clones() as clones:
        module(torch.randn(2 * module.chunk, 1024))
    copies = listed(structure.source(1024, 1024, **options))
    of_tokens = ["n" in re.split(r", |\*", copy) for copy in copies]
    assert clones.count == len(copies) + sum(of_tokens)


@pytest.mark.parametrize("tokens", [64, 4096])
@pytest.mark.parametrize("rank", [1, 4])
def test_two_products_take_one_copy(rank: int, tokens: int):
    """The first one is weight x tokens, and the second sees its result as it lies."""
    btt = einc.load("btt", rank=rank)
    copies = listed(btt.source(1024, 1024, tokens=tokens))
    assert copies[-1] == "n, f*e"
    assert all("n" not in copy.split(", ") for copy in copies[:-1])


def test_a_chain_takes_two_copies():
    copies = listed(einc.load("butterfly3").source(4096, 4096))
    of_tokens = [copy for copy in copies if "n" in copy.split(", ")]
    assert of_tokens == ["b*c, a, n", "n, p*q*s"]


def test_few_tokens_do_not_pay_for_weights():
    """At one token a weight is not permuted for the sake of the tokens' layout."""
    copies = listed(einc.load("btt", rank=4).source(1024, 1024, tokens=1))
    assert copies and all("n" in re.split(r", |\*", copy) for copy in copies)


def test_outputs_are_contiguous_for_views():
    module = einc.load("monarch").module_class(64, 64)()
    assert module(torch.randn(2, 3, 64)).view(2, 3, 8, 8).shape == (2, 3, 8, 8)


def test_fractions_of_a_layout_are_counted():
    kronecker = einc.parse(
        "structure k { y[p, q] = x[j, k] * A[j, p] * B[k, q]  j, p ~ d^(1/3) }"
    )
    assert kronecker.analyze().exponents.best.nu == Fraction(2, 3)
    check(kronecker, 512, 512, tokens=7)
