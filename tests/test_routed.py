"""Routed modules against a plain double loop over tokens and their experts.

The oracle knows no plans, groups or operators: for each token it sorts the logits,
takes the softmax that the language defines, and adds one einsum for each expert.
"""

from __future__ import annotations

import re
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
from einc.analysis.scaling import scales
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


@settings(one_failure, max_examples=80)
@given(
    routed(),
    st.sampled_from(ORDERS),
    st.integers(1, 2000),
    st.integers(0, 5),
    st.data(),
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


@settings(one_failure, max_examples=60)
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


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """The FLOPs of all matrix products that run, those in place among them."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm_", "baddbmm_"):
            a, b = args[-2:]
            self.flops += 2 * a.numel() * b.shape[-1]
        return func(*args, **(kwargs or {}))


def operators(made: type[nn.Module]) -> tuple[Any, Any]:
    """The Python functions behind the two operators of a module with one."""
    names = vars(sys.modules[made.__module__])
    (forward,) = (v for k, v in names.items() if k.startswith("_forward_"))
    (backward,) = (v for k, v in names.items() if k.startswith("_backward_"))
    return forward, backward


@settings(one_failure, max_examples=60)
@given(routed(), st.integers(0, 9), st.integers(1, 3))
def test_operators_run_the_flops_that_they_declare(
    case: Case, tokens: int, seed: int
) -> None:
    torch.manual_seed(seed)
    made = case.load().module_class(case.d_in, case.d_out)
    module: Any = made()
    randomize(module)
    calls: list[tuple[Any, ...]] = []
    names = vars(sys.modules[made.__module__])
    (name,) = (k for k in names if k.startswith("_experts_"))
    experts = names[name]
    names[name] = lambda *args: calls.append(args) or experts(*args)
    try:
        y = module(torch.randn(tokens, case.d_in))
    finally:
        names[name] = experts
    (args,) = calls
    args = tuple(arg.detach() for arg in args)
    forward, backward = operators(made)
    with torch.no_grad():
        with Products() as run:
            inside = forward(*args)
        assert run.flops == flops(lambda: experts(*args))
        with Products() as run:
            backward(*args, torch.randn_like(inside))
    x = args[0].clone().requires_grad_()
    declared = flops(lambda: experts(x, *args[1:]).sum().backward())
    assert run.flops == declared - flops(lambda: experts(*args))
    assert y.shape == (tokens, case.d_out)


def layer(
    name: str = "btt_moe",
    shape: tuple[int, int] = (48, 64),
    dtype: torch.dtype | None = torch.float64,
    **arguments: int,
) -> Any:
    torch.manual_seed(0)
    made = einc.load(name, **arguments).module_class(*shape)
    module = made(dtype=dtype)
    nn.init.normal_(module.router)
    return module


def inputs(module: Any, *batch: int) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(*batch, module.in_features, dtype=module.router.dtype)
    return x.requires_grad_()


def dense_gates(module: Any, x: torch.Tensor) -> torch.Tensor:
    """A gate for each token and expert: zero for those that it did not choose."""
    logits = x @ module.router.T
    best, chosen = logits.topk(module.top)
    gates = best.softmax(-1)
    if module.top == 1:
        gates = logits.softmax(-1).gather(-1, chosen)
    return torch.zeros_like(logits).scatter(-1, chosen, gates)


def by_all_experts(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Every expert for every token, times gates of which most are zero."""
    dense = dense_gates(module, x)
    every = torch.eye(module.experts, dtype=x.dtype)
    w = torch.stack([module.to_dense(one) for one in every])
    return torch.einsum("nr,roi,ni->no", dense, w, x) + module.bias


def agree(got: torch.Tensor, expected: torch.Tensor, leaves: list[Any]) -> None:
    """Values and gradients."""
    compare(got, expected)
    pull = torch.randn_like(got)
    one = torch.autograd.grad(got, leaves, pull, retain_graph=True)
    other = torch.autograd.grad(expected, leaves, pull)
    for a, b in zip(one, other, strict=True):
        compare(a, b)


MOE = ["dense_moe", "low_rank_moe", "kronecker_moe", "btt_moe"]


@pytest.mark.parametrize("top", [1, 2, 5])
@pytest.mark.parametrize("name", MOE)
def test_library(name: str, top: int) -> None:
    module = layer(name, experts=5, active=top)
    x = inputs(module, 40)
    agree(module(x), by_all_experts(module, x), [x, *module.parameters()])


@pytest.mark.parametrize("tokens", [0, 1, 2500])
@pytest.mark.parametrize("skew", ["even", "one", "two"])
def test_groups_of_any_size(tokens: int, skew: str) -> None:
    """More than a chunk, none at all, all tokens at the same experts."""
    module = layer(experts=6)
    with torch.no_grad():
        if skew != "even":
            module.router.mul_(1e-3)
            module.router[: 1 if skew == "one" else 2, 0] += 10.0
    x = inputs(module, tokens)
    if skew != "even":
        with torch.no_grad():
            x[:, 0] = 3.0
    chosen = module.route(x)[1]
    assert skew == "even" or not tokens or bool((chosen == 0).any(-1).all())
    assert skew != "two" or bool((chosen < 2).all())
    agree(module(x), by_all_experts(module, x), [x, *module.parameters()])


def test_a_token_does_not_see_the_others() -> None:
    module = layer(experts=16)
    x = inputs(module, 300)
    y = module(x)
    for i in range(0, 300, 37):
        compare(module(x[i : i + 1]), y[i : i + 1])
    compare(module(x.flip(0)), y.flip(0))
    compare(module(x.reshape(3, 4, 25, -1)), y.reshape(3, 4, 25, -1))


SPECS = {
    "one term of a sum": """
        y[o] = x[i] * D[i, o]
        y[p, q] += x[j, k] * A[r, j, p] * B[k, q, r]
        p = 4  j = 5  r = 3  route r top 2""",
    "both terms": """
        y[o] = x[i] * D[i, o, r]
        y[p, q] += x[j, k] * A[r, j, p] * B[k, q, r] * D2[r]
        p = 4  j = 5  r = 3  route r top 2""",
    "the same beginning twice": """
        y[p, q] = x[j, k] * A[r, j, p] * B[k, q, r]
        y[p, q] += x[j, k] * A[r, j, p] * C[k, q, r]
        p = 4  j = 5  r = 3  route r top 2""",
    "one product twice": """
        y[p, q] = x[j, k] * A[r, j, p] * B[k, q, r]
        y[q, p] += x[j, k] * A[r, j, p] * B[k, q, r]
        p = 4  q = 4  j = 5  r = 3  route r top 2""",
    "an identity beside it": """
        y[i] = x[i]
        y[o] += x[i] * A[r, i, m] * B[r, m, o]
        m = 3  r = 4  route r top 2""",
    "tied": """
        y[p, q] = x[j, k] * A[r, j, p] * A[r, k, q]
        j = 4  k = 4  p = 4  q = 4  r = 3  route r top 2""",
    "normalized": """
        y[f, e] = x[g, a] * A[g, a, f, r] * B[f, g, r, e]
        g = 5  f = 4  r = 3  route r top 2  normalize all""",
    "unrouted factors around it": """
        y[o] = x[i] * U[i, a] * A[r, a, b] * C[b, c] * B[c, r, h] * V[h, o]
        a = 6  b = 5  c = 4  h = 3  r = 4  route r top 2""",
    "an index of x, y and experts": """
        y[g, o] = x[g, i] * A[g, i, m, r] * D[g, r] * B[m, r, o]
        g = 4  m = 3  r = 3  route r top 2""",
    "names of the functions' own": """
        y[o] = x[i] * rows[i, k, r] * gate[k, tokens] * n[tokens, r, places] * grad_x[places, o]
        k = 3  tokens = 4  places = 5  r = 3  route r top 2""",
    "a gate that another index stands beside": """
        y[o] = x[i] * A[i, m, r, s] * B[m, r, s, o]
        m = 3  s = 2  r = 3  route r top 1""",
}


@pytest.mark.parametrize("order", ["best", "given"])
@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS.keys())
def test_what_the_language_can_say(text: str, order: Any) -> None:
    """By einsum with the gates as a tensor, all terms and padding by hand."""
    structure = einc.parse(f"structure s {{ {text} }}")
    d_in, d_out = (20, 16) if "j = 5" in text else (20, 20)
    if "j = 4" in text:
        d_in = d_out = 16
    profile = structure.analyze(d_in, d_out, order=order)
    assert profile.figures is not None
    sizes = profile.figures.binding.sizes
    torch.manual_seed(0)
    module: Any = structure.module_class(d_in, d_out, order=order)(dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.endswith("_scale"):
                parameter.normal_()
    x = inputs(module, 11)

    def whole(x: torch.Tensor) -> torch.Tensor:
        gate = dense_gates(module, x)
        factors = {f.name: getattr(module, f.name) for f in profile.structure.factors}
        for name in profile.structure.normalized:
            rms = factors[name].square().mean().sqrt()
            scale = profile_std(profile, name)
            factors[name] = factors[name] / (rms / scale).clamp(min=1.0)
            factors[name] = factors[name] * getattr(module, f"{name}_scale")
        y = module.bias
        for text in profile.structure.equations:
            equation = Equation.read(text.replace("+=", "="))
            y = y + term(text, equation, x, gate, factors, sizes)
        return y

    agree(module(x), whole(x), [x, *module.parameters()])


def profile_std(profile: Any, name: str) -> float:
    return scales(profile.figures.binding)[name].std


def term(
    text: str,
    equation: Equation,
    x: torch.Tensor,
    gate: torch.Tensor,
    factors: dict[str, torch.Tensor],
    sizes: dict[str, int],
) -> torch.Tensor:
    """One term by one einsum; a factor may stand in it twice."""
    right = text.split("=", 1)[1]
    refs = [
        (name, re.findall(r"\w+", indices))
        for name, indices in re.findall(r"(\w+)\[([^]]*)\]", right)
    ]
    names = list(dict.fromkeys(i for _, indices in refs for i in indices))
    letters = dict(zip(names, string.ascii_letters, strict=False))
    subscripts, tensors = [], []
    for name, indices in refs:
        word = "".join(letters[i] for i in indices)
        if name == "x":
            subscripts.append("Z" + word)
            tensors.append(x.reshape(len(x), *(sizes[i] for i in indices)))
        else:
            subscripts.append(word)
            tensors.append(factors[name])
    if "r" in letters:
        subscripts.append("Z" + letters["r"])
        tensors.append(gate)
    output = "Z" + "".join(letters[i] for i in equation.y)
    y = torch.einsum(f"{','.join(subscripts)}->{output}", *tensors)
    return y.reshape(len(x), -1)
