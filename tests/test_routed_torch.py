"""Routed modules among what training and torch do with them."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from test_routed import MOE, flops, inputs, layer
from torch import nn
from torch.utils.checkpoint import checkpoint

import einc
from einc import compiler


def loss_by_hand(module: Any, x: torch.Tensor) -> torch.Tensor:
    """experts * sum of share * load, and 0.1 * the mean squared log-partition."""
    logits = x.reshape(-1, module.in_features) @ module.router.T
    probabilities = logits.softmax(-1)
    chosen = logits.topk(module.top).indices
    total = torch.zeros(())
    for r in range(module.experts):
        load = (chosen == r).sum() / chosen.numel()
        total = total + module.experts * probabilities[:, r].mean() * load
    return total + 0.1 * logits.logsumexp(-1).square().mean()


def test_auxiliary_loss() -> None:
    module = layer(dtype=torch.float32)
    x = inputs(module, 3, 20)
    module(x)
    loss, wanted = module.auxiliary_loss(), loss_by_hand(module, x)
    torch.testing.assert_close(loss, wanted)
    leaves = [x, module.router]
    for one, other in zip(
        torch.autograd.grad(loss, leaves),
        torch.autograd.grad(wanted, leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_auxiliary_loss_of_even_and_of_one_sided_routing() -> None:
    """With zero logits it is the number of tokens that matters to no one: 1 + ..."""
    module = layer(experts=8, dtype=torch.float32)
    nn.init.zeros_(module.router)
    module(inputs(module, 64))
    # Probabilities are even, so the balance is 1, whoever is chosen.
    expected = 1 + 0.1 * math.log(8) ** 2
    assert module.auxiliary_loss().item() == pytest.approx(expected)


def test_auxiliary_loss_lives_until_it_is_read() -> None:
    module = layer()
    with pytest.raises(RuntimeError, match="training mode"):
        module.auxiliary_loss()
    module(inputs(module, 5))
    module.auxiliary_loss()
    with pytest.raises(RuntimeError, match="training mode"):
        module.auxiliary_loss()
    module(inputs(module, 5))
    module.eval()
    with pytest.raises(RuntimeError, match="training mode"):
        module.auxiliary_loss()
    module(inputs(module, 5))
    with pytest.raises(RuntimeError, match="training mode"):
        module.auxiliary_loss()
    module.train()
    with pytest.raises(RuntimeError, match="training mode"):
        module.auxiliary_loss()


def test_auxiliary_loss_is_the_latest_and_none_of_a_batch_without_tokens() -> None:
    module = layer()
    first, second = inputs(module, 5), inputs(module, 9)
    module(first)
    module(second)
    got = module.auxiliary_loss()
    torch.testing.assert_close(got, loss_by_hand(module, second), check_dtype=False)
    module(inputs(module, 0))
    assert module.auxiliary_loss().item() == 0


def test_loss_and_load_are_in_no_copy_and_no_state() -> None:
    module = layer()
    module(inputs(module, 5)).sum()
    assert set(module.state_dict()) == {"A", "B", "router", "bias"}
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with pytest.raises(RuntimeError):
            other.auxiliary_loss()
        with pytest.raises(RuntimeError):
            other.routing_statistics()
        x = inputs(module, 7)
        torch.testing.assert_close(other.eval()(x), module(x))
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh = type(module)(dtype=torch.float64)
    fresh.load_state_dict(torch.load(buffer))
    x = inputs(module, 7)
    torch.testing.assert_close(fresh(x), module(x))


def test_parametrized_modules_are_copied_after_a_forward() -> None:
    """Their copies are not made by what pickles a module."""
    module = nn.utils.parametrizations.weight_norm(layer(), "A")
    x = inputs(module, 7)
    y = module(x)
    other = copy.deepcopy(module)
    with pytest.raises(RuntimeError):
        other.auxiliary_loss()
    torch.testing.assert_close(other(x), y)


def test_statistics() -> None:
    module = layer(experts=6)
    with pytest.raises(RuntimeError):
        module.routing_statistics()
    x = inputs(module, 50)
    module(x)
    chosen = module.route(x)[1]
    found = module.routing_statistics()
    load = torch.bincount(chosen.flatten(), minlength=6) / chosen.numel()
    torch.testing.assert_close(found["load"], load, check_dtype=False)
    used = [p for p in load.tolist() if p]
    assert found["experts_in_use"] == len(used)
    assert found["entropy"] == pytest.approx(-sum(p * math.log(p) for p in used))
    assert not found["load"].requires_grad


def gradients(module: Any, x: torch.Tensor, run: Any) -> list[torch.Tensor]:
    module.zero_grad()
    x.grad = None
    y = run(x)
    (y.square().mean() + 0.5 * module.auxiliary_loss()).backward()
    return [x.grad, *(p.grad for p in module.parameters())]  # type: ignore[list-item]


def test_gradient_checkpointing() -> None:
    module = layer()
    x = inputs(module, 30)
    plain = gradients(module, x, module)
    again = gradients(module, x, lambda x: checkpoint(module, x, use_reentrant=False))
    torch.testing.assert_close(again, plain)
    # The forward that backward ran once more has left nothing behind.
    with pytest.raises(RuntimeError):
        module.auxiliary_loss()


def test_gradient_accumulation() -> None:
    module = layer()
    parts = [inputs(module, 8), -inputs(module, 8)]
    for x in parts:
        (module(x).sum() + module.auxiliary_loss()).backward()
    accumulated = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for x in parts:
        total = total + module(x).sum() + module.auxiliary_loss()
    total.backward()
    wanted = [p.grad for p in module.parameters()]
    torch.testing.assert_close(accumulated, wanted)


@pytest.mark.parametrize("name", MOE)
def test_compiles_whole(name: str) -> None:
    """No graph break, forward or backward, at any number of tokens; the loss too."""
    module = layer(name, dtype=torch.float32)
    compiled: Any = torch.compile(module, fullgraph=True, backend="aot_eager")
    for batch in ((40,), (3, 7), (64,)):
        x = inputs(module, *batch)
        plain = gradients(module, x, module)
        again = gradients(module, x, compiled)
        torch.testing.assert_close(again, plain)


def test_compiles_with_inductor() -> None:
    module = layer(dtype=torch.float32)
    x = inputs(module, 40)
    compiled: Any = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("name", MOE)
def test_exports_with_a_dynamic_batch(name: str) -> None:
    module = layer(name, dtype=torch.float32).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = inputs(module, 4).detach()
    exported = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    x = inputs(module, 11)
    torch.testing.assert_close(exported.module()(x), module(x))


@pytest.mark.parametrize("name", MOE)
def test_autocast_gives_what_linear_gives(name: str) -> None:
    """And routes in float32: the same experts."""
    module = layer(name, dtype=torch.float32)
    x = inputs(module, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
        like = nn.Linear(module.in_features, module.out_features)(x)
        gates, chosen = module.route(x)
        y.float().sum().backward()
    assert y.dtype == like.dtype
    assert gates.dtype == torch.float32
    assert torch.equal(chosen, module.route(x)[1])
    assert x.grad is not None and x.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), module(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", MOE)
def test_bfloat16(name: str) -> None:
    module = layer(name, dtype=torch.float32)
    half = copy.deepcopy(module).bfloat16()
    x = inputs(module, 200)
    y = half(x.bfloat16())
    gates, chosen = half.route(x.bfloat16())
    assert y.dtype == torch.bfloat16 and gates.dtype == torch.float32
    wide = copy.deepcopy(half).float()
    expected = wide.contract(x.bfloat16().float(), gates, chosen) + wide.bias
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert half.router.grad.dtype == torch.bfloat16


def test_weight_gradients_of_few_digits_are_summed_in_more() -> None:
    """Over many chunks of one expert: at worst what one rounding at the end loses."""
    torch.manual_seed(0)
    module = einc.load("btt_moe", experts=2, active=1).module_class(16, 16)()
    half = copy.deepcopy(module).bfloat16()
    exact = copy.deepcopy(half).double()
    x = (torch.randn(50_000, 16) + 1).bfloat16()
    half(x).sum().backward()
    exact(x.double()).sum().backward()
    for name in ("A", "B"):
        found, expected = half.get_parameter(name).grad, exact.get_parameter(name).grad
        error = (found.double() - expected).norm() / expected.norm()
        assert error < 4e-3


def test_names_are_nothing_to_the_experts() -> None:
    """Even where they are those of what is computed, or of Python's functions."""
    text = "{ y[i] = x[i]*D[i, r]*NAME[i, r]  i = 16 r = 3  route r top 3 }"
    found = []
    for name in ("Q", "each_D", "grad_D", "space_D", "len"):
        one = einc.parse("structure s " + text.replace("NAME", name))
        torch.manual_seed(0)
        module = one.module_class(16, 16, order="given")(dtype=torch.float64)
        y = module(torch.randn(3, 16, dtype=torch.float64))
        weights = [module.D, module.get_parameter(name)]
        found.append([y, *torch.autograd.grad(y.square().sum(), weights)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_meta_device() -> None:
    made = einc.load("btt_moe").module_class(48, 64)
    module = made(device="meta")
    y = module(torch.empty(5, 48, device="meta"))
    assert y.shape == (5, 64) and y.is_meta


def test_starts_with_a_router_of_zeros_and_unit_outputs() -> None:
    torch.manual_seed(0)
    module: Any = einc.load("btt_moe").module_class(1024, 1024)()
    assert not module.router.any()
    assert module.lr_multipliers("adamw")["router"] == 1.0
    y = module(torch.randn(100, 1024))
    # Two experts at gates of a half: 1 / sqrt(2) of one alone.
    assert 0.5 < y.square().mean().sqrt() < 1.0
    assert "experts=8, top=2" in repr(module)


@pytest.mark.parametrize("name", ["btt_moe", "dense_moe", "low_rank_moe"])
def test_grouped_products_compute_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a GPU in bfloat16, here on the CPU; its FLOPs are counted too."""
    module = layer(name, (64, 64), torch.float32)
    generated = sys.modules[type(module).__module__]
    x = inputs(module, 50)
    plain = gradients(module, x, module)
    counted = flops(lambda: module(x))
    monkeypatch.setattr(generated, "_is_grouped", lambda x: True)
    grouped = gradients(module, x, module)
    torch.testing.assert_close(grouped, plain, rtol=1e-4, atol=1e-5)
    assert flops(lambda: module(x)) == counted
    # Nothing is computed again there: three times forward.
    assert flops(lambda: module(x).sum().backward()) == 3 * counted
    module.bfloat16()
    compiled: Any = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = x.detach().bfloat16().requires_grad_()
    again, grouped = gradients(module, x, compiled), gradients(module, x, module)
    torch.testing.assert_close(again, grouped)


def test_without_aligned_sizes_there_is_no_grouped_form() -> None:
    assert "grouped_mm" not in einc.load("btt_moe").source(100, 100)
    assert "grouped_mm" in einc.load("btt_moe").source(64, 64)


def test_routing_an_unrouted_structure_is_writing_route() -> None:
    written = einc.load("btt_moe", experts=4, active=2)
    routed = einc.load("btt", rank=4).route("r", top=2)
    one, other = written.module_class(64, 64)(), routed.module_class(64, 64)()
    other.load_state_dict(one.state_dict())
    x = torch.randn(9, 64)
    torch.testing.assert_close(one(x), other(x))


def _train(rank: int, path: str) -> None:
    """One of two processes: half of the batch under DistributedDataParallel."""
    store = f"file://{path}/store"
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2
    )
    module = layer()
    parallel = nn.parallel.DistributedDataParallel(module)
    x = inputs(module, 24).detach()[rank::2]
    for _ in range(2):
        module.zero_grad()
        y = parallel(x)
        (y.square().mean() + module.auxiliary_loss()).backward()
    if rank == 0:
        torch.save([p.grad for p in module.parameters()], f"{path}/gradients.pt")
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel(tmp_path: Path) -> None:
    multiprocessing.spawn(_train, (str(tmp_path),), nprocs=2)
    module = layer()
    x = inputs(module, 24).detach()
    for rank in range(2):
        part = x[rank::2]
        loss = module(part).square().mean() + module.auxiliary_loss()
        (loss / 2).backward()
    found = torch.load(tmp_path / "gradients.pt")
    torch.testing.assert_close(found, [p.grad for p in module.parameters()])


@pytest.mark.parametrize("top", [1, 2])
def test_gradients_of_a_sum_compiled_by_inductor(top: int) -> None:
    """The router's, too, with a term beside that reads the same tokens."""
    text = "y[f, e] = x[g, a] * A[r, g, a, f] * B[r, f, g, e] y[i] += x[i]"
    sizes = f"g, a ~ d_in^(1/2) f, e ~ d_out^(1/2) r = 4 route r top {top}"
    torch.manual_seed(0)
    module = einc.parse(f"structure s {{ {text} {sizes} }}").module_class(64, 64)()
    nn.init.normal_(module.router)
    found = []
    for call in (module, torch.compile(module)):
        x = torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        y = call(x)
        loss = y.square().mean() + module.auxiliary_loss()
        found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_has_no_second_derivative_and_says_so() -> None:
    module = layer()
    x = inputs(module, 5)
    (first,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


def test_the_same_file_twice_is_two_modules_and_both_work() -> None:
    """As two copies of it, or one that is loaded again: the operators stay."""
    source = einc.load("btt_moe").source(48, 64)
    x = torch.randn(7, 48, requires_grad=True)
    made = []
    for _ in range(3):
        space: dict[str, Any] = {"__name__": "generated"}
        exec(source, space)
        made.append(space["BttMoe48x64"]())
        made[-1].load_state_dict(made[0].state_dict())
    del space
    gc.collect()
    for module in made:
        y = module(x)
        torch.testing.assert_close(y, made[0](x))
        y.sum().backward()


@pytest.mark.parametrize("name", MOE)
def test_backward_keeps_x_and_the_routing_alone(name: str) -> None:
    """Nothing of the size of x, nor of what stands between the factors."""
    module = layer(name, (256, 256), torch.float32)
    x = inputs(module, 100)
    own = {t.untyped_storage().data_ptr() for t in (x, *module.parameters())}
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    assert max(kept) <= 100 * module.experts


def test_torch_func_maps_and_refuses_to_differentiate() -> None:
    module = layer().eval()
    x = inputs(module, 3, 5).detach()
    torch.testing.assert_close(torch.func.vmap(module)(x), module(x))
    parameters = dict(module.named_parameters())

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(module, parameters, (x,)).sum()

    with pytest.raises(RuntimeError):
        torch.func.grad(loss)(parameters)
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(module, (x,), (x,))
    compiled: Any = torch.compile(module, backend="eager")
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(compiled, (x,), (x,))
    for name in ("router", "A"):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(
                parameters[name].detach(), torch.ones_like(parameters[name])
            )
            with pytest.raises(RuntimeError, match="forward-mode"):
                loss(parameters | {name: dual})


def test_frozen_parts_get_no_gradient() -> None:
    """As the first layer of a model, or under an adapter."""
    module = layer()
    module.A.requires_grad_(False)
    x = inputs(module, 9).detach()
    module(x).sum().backward()
    assert module.A.grad is None
    assert module.B.grad is not None and module.router.grad is not None


def test_two_shapes_in_one_file() -> None:
    structure = einc.load("btt_moe").structure
    shapes = [(64, 64), (64, 128)]
    modules = [compiler.module(compiler.analyze(structure, *s)) for s in shapes]
    source = compiler.source(structure, modules)
    assert source.count("def _by_expert(") == 1
    space: dict[str, Any] = {"__name__": "two_shapes"}
    exec(source, space)
    for d_in, d_out in shapes:
        one = space[f"BttMoe{d_in}x{d_out}"]()
        other = einc.load("btt_moe").module_class(d_in, d_out)()
        nn.init.normal_(one.router)
        other.load_state_dict(one.state_dict())
        x = torch.randn(6, d_in)
        torch.testing.assert_close(one(x), other(x))
