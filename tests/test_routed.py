"""Routed modules against a plain double loop over tokens and their experts.

The oracle knows no plans, groups or operators: for each token it sorts the logits,
takes the softmax that the language defines, and adds one einsum for each expert.
"""

from __future__ import annotations

import string
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Equation, Route
from structures import Case, routed
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import einc
from einc.order import ORDERS

one_failure = settings(report_multiple_bugs=False)


def compare(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def gates_of(x: torch.Tensor, router: torch.Tensor, top: int) -> dict[int, Any]:
    """The gates of one token by expert: softmax over the top k, or over all for one."""
    logits = router @ x
    order = sorted(range(len(logits)), key=lambda r: -logits[r].item())[:top]
    exps = [logits[r].exp() for r in range(len(logits))]
    among = order if top > 1 else range(len(logits))
    total = sum(exps[r] for r in among)
    return {r: exps[r] / total for r in order}


def expert(
    equation: Equation,
    route: Route,
    r: int,
    x: torch.Tensor,
    sizes: dict[str, int],
    parameters: dict[str, torch.Tensor],
) -> torch.Tensor:
    """What one expert makes of one token."""
    letters = dict(zip(equation.indices, string.ascii_letters, strict=False))
    subscripts = ["".join(letters[i] for i in equation.x)]
    tensors = [x.reshape([sizes[i] for i in equation.x])]
    for name, indices in equation.factors.items():
        tensor = parameters[name]
        if route.index in indices:
            tensor = tensor.select(indices.index(route.index), r)
        rest = [i for i in indices if i != route.index]
        subscripts.append("".join(letters[i] for i in rest))
        tensors.append(tensor)
    output = "".join(letters[i] for i in equation.y)
    return torch.einsum(f"{','.join(subscripts)}->{output}", *tensors).reshape(-1)


def loop(case: Case, module: Any, x: torch.Tensor) -> torch.Tensor:
    """The whole module by a double loop: (tokens, d_out)."""
    assert case.route is not None
    parameters = {name: getattr(module, name) for name in case.equation.factors}
    rows = []
    for token in x:
        y = module.bias
        for r, gate in gates_of(token, module.router, case.route.top).items():
            args = (token, case.known_sizes, parameters)
            y = y + gate * expert(case.equation, case.route, r, *args)
        rows.append(y)
    return torch.stack(rows) if rows else x.new_zeros(0, case.d_out)


def randomize(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()


def check(case: Case, module: Any, tokens: int) -> None:
    """Values and all gradients, the router's among them."""
    randomize(module)
    x = torch.randn(tokens, case.d_in, dtype=torch.float64, requires_grad=True)
    got, expected = module(x), loop(case, module, x)
    compare(got, expected)
    pull = torch.randn_like(got)
    leaves = [x, *module.parameters()]
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    gradients = torch.autograd.grad(got, leaves, pull, **options)
    if not tokens:
        assert all(not gradient.any() for gradient in gradients)
        return
    wanted = torch.autograd.grad(expected, leaves, pull, **options)
    for one, other in zip(gradients, wanted, strict=True):
        compare(one, other)


@settings(one_failure, max_examples=150)
@given(
    routed(), st.sampled_from(ORDERS), st.integers(1, 2000), st.integers(0, 5), st.data()
)
def test_module_is_the_double_loop(
    case: Case, order: Any, planned: int, tokens: int, data: st.DataObject
) -> None:
    made = case.load().module_class(case.d_in, case.d_out, tokens=planned, order=order)
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    check(case, made(dtype=torch.float64), tokens)


def flops(run: Any) -> int:
    with FlopCounterMode(display=False) as mode:
        run()
    return int(mode.get_total_flops())


@one_failure
@given(routed(), st.sampled_from(ORDERS), st.integers(1, 40))
def test_flops_are_what_torch_counts(case: Case, order: Any, tokens: int) -> None:
    structure = case.load()
    options: dict[str, Any] = {"tokens": tokens, "order": order}
    report = structure.analyze(case.d_in, case.d_out, **options).to_json()["flops"]
    module = structure.module_class(case.d_in, case.d_out, **options)()
    x = torch.randn(tokens, case.d_in, requires_grad=True)
    router = tokens * report["router"]
    assert flops(lambda: module(x)) == round(report["forward"] * tokens) + router
    training = flops(lambda: module(x).sum().backward())
    assert training == round(report["training"] * tokens) + 3 * router
