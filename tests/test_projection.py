"""From dense weights: against theory, against SVDs by hand, and back again."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from structures import Case, exact
from torch import nn
from torch.nn.utils import parametrizations, prune

import einc
from einc import library
from einc.nn import project, restructure


def layer(spec: str, *shape: int, **arguments: int) -> nn.Module:
    made = einc.load(spec, **arguments).module_class(*shape)
    return made(bias=False, dtype=torch.float64)


def gates_of(module: nn.Module) -> tuple[torch.Tensor, ...]:
    if not hasattr(module, "router"):
        return ()
    gates = torch.zeros(module.experts, dtype=torch.float64)
    gates[1], gates[-1] = 0.3, 0.7
    return (gates,)


def error(module: nn.Module, weight: torch.Tensor) -> float:
    found = module.to_dense(*gates_of(module)).detach()
    return float((found - weight).norm() / weight.norm())


ROUTED = [n for n in library.NAMES if n.endswith("_moe")]
PLAIN = [n for n in library.NAMES if n not in ROUTED]


SMALLER = {"cp": {"rank": 12}}
"""At rank d the fit of cp creeps for many seconds, past its budget on a slow machine."""


@pytest.mark.parametrize("shape", [(36, 36), (24, 40), (62, 50)])
@pytest.mark.parametrize("spec", PLAIN)
def test_a_matrix_of_the_structure_is_recovered(
    spec: str, shape: tuple[int, int]
) -> None:
    """(62, 50) is padded in most."""
    torch.manual_seed(1)
    arguments = SMALLER.get(spec, {})
    weight = layer(spec, *shape, **arguments).to_dense().detach()
    module = layer(spec, *shape, **arguments)
    found = project(module, weight, seconds=60)
    assert found < 1e-6
    assert error(module, weight) == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("spec", ROUTED)
def test_all_experts_are_set_alike(spec: str) -> None:
    unrouted = {"btt_moe": "btt", "dense_moe": "dense", "kronecker_moe": "kronecker"}
    torch.manual_seed(1)
    weight = layer(unrouted.get(spec, "low_rank"), 36, 49).to_dense().detach()
    module = layer(spec, 36, 49)
    assert project(module, weight) < 1e-9
    assert error(module, weight) < 1e-9
    x = torch.randn(5, 36, dtype=torch.float64)
    nn.init.normal_(module.router)
    torch.testing.assert_close(module(x), x @ weight.T)


@pytest.mark.parametrize("spec", ROUTED)
def test_a_router_of_zeros_gives_one_expert_a_share(spec: str) -> None:
    structure = einc.load(spec, active=1)
    module = structure.module_class(36, 49)(bias=False, dtype=torch.float64)
    weight = torch.randn(49, 36, dtype=torch.float64)
    found = project(module, weight)
    x = torch.eye(36, dtype=torch.float64)
    missed = (module(x).T - weight).detach().norm() / weight.norm()
    assert missed == pytest.approx(found)


def test_one_expert_of_a_sum_and_of_tied_factors() -> None:
    shared = "y[o] = x[i] * A[r, i, k] * B[k, o] y[p] += x[j] * D[j, p]"
    text = f"structure s {{ {shared} r, k = 4 route r top 1 }}"
    module = einc.parse(text).module_class(9, 9)(bias=False, dtype=torch.float64)
    weight = torch.randn(9, 9, dtype=torch.float64)
    assert project(module, weight) < 1e-6
    x = torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(module(x).T, weight)
    tied = "y[o] = x[i] * U[r, i, k] * U[r, o, k] r, k = 4 route r top 1"
    module = einc.parse(f"structure s {{ {tied} }}").module_class(9, 9)()
    with pytest.raises(einc.UsageError, match="a term of tied factors alone"):
        project(module, weight)
    tied = "y[o] = x[i] * U[r, i, k] * U[s, o, k] r, s = 2 k = 3 route r top 1"
    module = einc.parse(f"structure s {{ {tied} }}").module_class(9, 9)()
    with pytest.raises(einc.UsageError, match="`U` is routed by different indices"):
        project(module, weight)


def test_factors_that_are_computed_are_not_projected() -> None:
    weight = torch.randn(16, 16)
    module = einc.load("btt").module_class(16, 16)()
    prune.l1_unstructured(module, "A", 0.3)
    with pytest.raises(einc.UsageError, match="`A` is computed from others"):
        project(module, weight)
    module = einc.load("btt").module_class(16, 16)()
    parametrizations.weight_norm(module, "A")
    with pytest.raises(einc.UsageError, match="a layer with parametrizations"):
        project(module, weight)


def test_low_rank_is_the_truncated_svd() -> None:
    weight = torch.randn(20, 30, dtype=torch.float64)
    values = torch.linalg.svdvals(weight)
    found = project(layer("low_rank", 30, 20, rank=5), weight)
    assert found == pytest.approx(float(values[5:].norm() / values.norm()))


@pytest.mark.parametrize("rank", [1, 2])
def test_block_tensor_train_is_an_svd_a_block(rank: int) -> None:
    weight = torch.randn(48, 36, dtype=torch.float64)
    module = layer("btt", 36, 48, rank=rank)
    f, g, _, e = module.B.shape
    a = module.A.shape[1]
    blocks = weight.reshape(f, e, g, a).permute(0, 2, 1, 3)
    rest = torch.linalg.svdvals(blocks)[..., rank:]
    assert project(module, weight) == pytest.approx(float(rest.norm() / weight.norm()))


def test_kronecker_is_van_loan_s_rearrangement() -> None:
    weight = torch.randn(16, 36, dtype=torch.float64)
    module = layer("kronecker", 36, 16)
    (j, p), (k, q) = module.A.shape, module.B.shape
    rearranged = weight.reshape(p, q, j, k).permute(0, 2, 1, 3).reshape(p * j, q * k)
    values = torch.linalg.svdvals(rearranged)
    assert project(module, weight) == pytest.approx(
        float(values[1:].norm() / values.norm())
    )


def test_tensor_trains_are_within_tt_svd_s_bound() -> None:
    """At most sqrt(n - 1) times the least error, which no unfolding's SVD exceeds."""
    torch.manual_seed(0)
    weight = torch.randn(27, 64, dtype=torch.float64)
    module = layer("tensor_train3", 64, 27, rank=3)
    j, p, r = module.A.shape
    _, k, q, t = module.B.shape
    _, m, s = module.C.shape
    cells = weight.reshape(p, q, s, j, k, m)
    least = 0.0
    for left, rank in (((0, 3), r), ((0, 3, 1, 4), t)):
        right = [i for i in range(6) if i not in left]
        rows = [cells.shape[i] for i in left]
        unfolded = cells.permute(*left, *right).reshape(torch.Size(rows).numel(), -1)
        rest = torch.linalg.svdvals(unfolded)[rank:].norm() / weight.norm()
        least = max(least, float(rest))
    found = project(module, weight)
    assert least - 1e-12 <= found <= least * 2**0.5 + 1e-12


@settings(max_examples=30)
@given(exact(0, 3))
def test_random_structures_are_fitted_no_worse_than_by_zero(case: Case) -> None:
    """Diagonals, repeated and padded features, private and shared indices."""
    made = case.load().module_class(case.d_in, case.d_out)
    module = made(bias=False, dtype=torch.float64)
    torch.manual_seed(0)
    weight = torch.randn(case.d_out, case.d_in, dtype=torch.float64)
    found = project(module, weight, seconds=0.2)
    assert error(module, weight) == pytest.approx(found, abs=1e-9)
    if case.equation.factors:
        assert found <= 1 + 1e-9


@settings(max_examples=40)
@given(exact(1, 2, pads=False))
def test_one_and_two_factors_are_stationary(case: Case) -> None:
    """The nearest matrix of a bilinear family: no gradient is left."""
    made = case.load().module_class(case.d_in, case.d_out)
    module = made(bias=False, dtype=torch.float64)
    torch.manual_seed(0)
    weight = torch.randn(case.d_out, case.d_in, dtype=torch.float64)
    project(module, weight, seconds=1.0)
    (module.to_dense() - weight).square().sum().backward()
    for parameter in module.parameters():
        assert parameter.grad.abs().max() < 1e-6 * (1 + float(weight.norm()) ** 2)


def test_normalized_factors_keep_their_scale() -> None:
    spec = (
        "structure s { y[f, e] = x[g, a] * A[g, a, f] * B[f, g, e]"
        "  g, a ~ d_in^(1/2)  f, e ~ d_out^(1/2)  normalize all }"
    )
    module = einc.parse(spec).module_class(36, 36)(bias=False, dtype=torch.float64)
    weight = 30 * torch.randn(36, 36, dtype=torch.float64)
    found = project(module, weight)
    assert error(module, weight) == pytest.approx(found)
    assert found == pytest.approx(project(layer("monarch", 36, 36), weight))


def test_tied_factors() -> None:
    torch.manual_seed(2)
    tied = einc.parse("structure s { y[o] = x[i] * U[i, r] * U[o, r]  r = 4 }")
    module = tied.module_class(16, 16)(bias=False, dtype=torch.float64)
    half = torch.randn(16, 4, dtype=torch.float64)
    assert project(module, half @ half.T, seconds=20) < 1e-6


def test_a_weight_of_zeros_leaves_factors_that_can_learn() -> None:
    module = layer("btt", 16, 16, rank=2)
    assert project(module, torch.zeros(16, 16)) == 0
    assert module.to_dense().abs().max() == 0
    module.to_dense().sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize("name", ["blast", "cp", "tucker", "tensor_train4", "btt"])
def test_from_a_weight_of_zeros_a_layer_learns(name: str) -> None:
    torch.manual_seed(0)
    module = einc.load(name).module_class(16, 16)(bias=False)
    assert project(module, torch.zeros(16, 16)) == 0.0
    assert not module.to_dense().any()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    x, y = torch.randn(64, 16), torch.randn(64, 16)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (module(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


def test_modes_and_devices_around_it_are_nothing_to_it() -> None:
    weight = torch.randn(16, 16)
    module = einc.load("tensor_train3").module_class(16, 16)()
    expected = project(module, weight, seconds=30)
    with torch.inference_mode():
        assert project(module, weight, seconds=30) == pytest.approx(expected)
    torch.set_default_device("meta")
    try:
        assert project(module, weight, seconds=30) == pytest.approx(expected)
    finally:
        torch.set_default_device(None)
    with pytest.raises(einc.UsageError, match="meta device"):
        project(einc.load("btt").module_class(16, 16)(device="meta"), weight)


def test_equations_that_are_too_large_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = einc.load("tucker").module_class(16, 16)()
    torch.manual_seed(0)
    weight = torch.randn(16, 16)
    monkeypatch.setattr("einc.nn.fitting.MOST", 1)
    improved: list[object] = []
    monkeypatch.setattr(
        "einc.nn.fitting.TermFit._improve", lambda *_: improved.append(1)
    )
    assert project(module, weight, seconds=1) < 1 and not improved


def test_dense_to_structured_to_dense_and_back() -> None:
    """A structured model's matrices as dense ones give the structured ones again."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(36, 64), nn.GELU(), nn.Linear(64, 25))
    restructure(first, "btt", arguments={"rank": 2})
    dense = nn.Sequential(nn.Linear(36, 64), nn.GELU(), nn.Linear(64, 25))
    for one, other in zip(first[::2], dense[::2], strict=True):
        nn.init.normal_(one.bias)
        other.weight.data.copy_(one.to_dense())
        other.bias.data.copy_(one.bias)
    lines: list[str] = []
    done = restructure(
        dense, "btt", arguments={"rank": 2}, init="project", progress=lines.append
    )
    x = torch.randn(7, 36)
    torch.testing.assert_close(dense(x), first(x), rtol=1e-5, atol=1e-5)
    assert all(row.error is not None and row.error < 1e-5 for row in done.rows)
    assert len(lines) == 2 and lines[0].startswith("0: btt(rank = 2), error ")
    assert "error" in str(done).splitlines()[0]


def test_the_time_is_bounded() -> None:
    module = layer("cp", 256, 256)
    weight = torch.randn(256, 256, dtype=torch.float64)
    started = time.monotonic()
    project(module, weight, seconds=0.5)
    assert time.monotonic() - started < 30


def test_the_random_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    project(layer("low_rank", 8, 8, rank=2), torch.eye(8))
    torch.manual_seed(5)
    first, second = layer("cp", 4, 4), layer("cp", 4, 4)
    for module in (first, second):
        # From random starts, and done long before it would be out of time.
        assert project(module, torch.eye(4), seconds=600) < 1e-6
    assert torch.equal(first.A, second.A)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(8, 9), r"the weight is \(8, 9\), not \(8, 8\)"),
        (torch.full((8, 8), torch.nan), "real values, all of them finite"),
        (torch.ones(8, 8, dtype=torch.complex64), "real values, all of them finite"),
        (torch.zeros(8, 8, device="meta"), "no values on the meta device"),
    ],
)
def test_what_cannot_be_projected(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(einc.UsageError, match=message):
        project(layer("btt", 8, 8), weight)


def test_only_what_einc_made_is_known() -> None:
    with pytest.raises(einc.UsageError, match="Linear was not made by einc"):
        project(nn.Linear(8, 8), torch.zeros(8, 8))
