"""Structured layers inside real models: swapped, trained, saved and loaded."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path

import pytest
import torch
from models import MODELS, Loss, make
from safetensors.torch import load_model, save_model
from torch import multiprocessing, nn
from torch.utils.flop_counter import FlopCounterMode

import einc
from einc.api import StructuredMap

OWN = einc.parse(
    "structure own { y[p, q] = x[a, b] * A[a, p, b, r] * B[b, p, q, r]"
    "  a, b ~ d_in^(1/2)  p, q ~ d_out^(1/2)  r = 2 }"
)
"""A structure that the library does not have."""

SPECS: dict[str, str | StructuredMap] = {
    "btt": "btt",
    "low_rank": "low_rank",
    "btt_moe": "btt_moe",
    "own": OWN,
}
EVERYWHERE = pytest.mark.parametrize("spec", SPECS)
EACH = pytest.mark.parametrize("name", MODELS)


def swapped(name: str, spec: str, seed: int = 0) -> tuple[nn.Module, Loss]:
    model, loss = make(name, seed)
    einc.nn.restructure(model, SPECS[spec])
    for module in model.modules():
        if hasattr(module, "router"):  # as after some training
            nn.init.normal_(module.router)
    return model, loss


def stepped(model: nn.Module, loss: Loss, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(einc.nn.param_groups(model, 1e-3, 0.01))
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        found.append(value.item())
    return found


@EACH
@EVERYWHERE
def test_ten_steps_lower_the_loss(name: str, spec: str) -> None:
    model, loss = swapped(name, spec)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = stepped(model, loss, 10)
    assert loss(model).item() < losses[0]
    for parameter, value in model.named_parameters():
        if value.grad is not None:
            assert torch.isfinite(value.grad).all()
        assert not torch.equal(value, before[parameter]), parameter


@EACH
@EVERYWHERE
def test_saved_and_loaded_into_a_fresh_one(
    name: str, spec: str, tmp_path: Path
) -> None:
    model, loss = swapped(name, spec)
    stepped(model, loss, 2)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    save_model(model, str(tmp_path / "model.safetensors"))
    model.eval()
    for load in (
        lambda fresh: fresh.load_state_dict(torch.load(tmp_path / "model.pt")),
        lambda fresh: load_model(fresh, str(tmp_path / "model.safetensors")),
    ):
        fresh, _ = swapped(name, spec, seed=1)
        load(fresh)
        torch.testing.assert_close(loss(fresh.eval()), loss(model), rtol=0, atol=0)


@EACH
@EVERYWHERE
def test_figures_are_torch_s(name: str, spec: str) -> None:
    model, loss = make(name)
    rows = einc.nn.restructure(model, SPECS[spec], dry_run=True).rows
    before = {row.name: sizes(model, row.name) for row in rows}
    tokens: dict[str, int] = {}

    def count(layer: str) -> None:
        def keep(_: nn.Module, given: tuple[torch.Tensor, ...], __: object) -> None:
            tokens[layer] = given[0].shape[:-1].numel()

        hooks.append(model.get_submodule(layer).register_forward_hook(keep))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for row in rows:
        count(row.name)
    loss(model)
    for hook in hooks:
        hook.remove()
    many = max(tokens.values())  # where factors are merged, a call's cost is shared
    done = einc.nn.restructure(model, SPECS[spec], tokens=many)
    with FlopCounterMode(display=False) as counter:
        loss(model)
    counts = counter.get_flop_counts()
    compared = 0
    for row in done.rows:
        assert row.parameters == (before[row.name], sizes(model, row.name))
        if tokens.get(row.name) == many:
            counted = counts[f"{type(model).__name__}.{row.name}"]
            assert sum(counted.values()) == round(row.flops[1] * many), row
            compared += row.structure is not None
    assert compared >= 4


def sizes(model: nn.Module, name: str) -> int:
    return sum(p.numel() for p in model.get_submodule(name).parameters())


# What stands around a model

AROUND = pytest.mark.parametrize("spec", ["btt", "btt_moe"])


@AROUND
def test_copies(spec: str) -> None:
    model, loss = swapped("gpt", spec)
    model.eval()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(loss(copied), loss(model), rtol=0, atol=0)


@AROUND
def test_half_precision(spec: str) -> None:
    model, loss = swapped("gpt", spec)
    model.eval()
    exact = loss(model).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(model).item() == pytest.approx(exact, rel=0.02)
    assert loss(model.to(torch.bfloat16)).item() == pytest.approx(exact, rel=0.02)


@AROUND
def test_gradient_checkpointing(spec: str) -> None:
    found = []
    for checkpointed in (False, True):
        model, loss = swapped("gpt2", spec)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        loss(model).backward()
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found)


@AROUND
def test_compiled_whole(spec: str) -> None:
    model, loss = swapped("gpt", spec)
    model.eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(loss(compiled), loss(model))


@AROUND
def test_exported(spec: str) -> None:
    model, _ = swapped("gpt", spec)
    ids = torch.randint(50, (3, 12))
    exported = torch.export.export(model.eval(), (ids,))
    torch.testing.assert_close(exported.module()(ids), model(ids))


SHARDED = ["btt", "btt_moe"]


def _distributed(rank: int, path: str) -> None:
    """One of two processes that talk through gloo, each with half of a batch."""
    store = f"file://{path}/store"
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2
    )
    found = {spec: _trained_in_shards(rank, spec) for spec in SHARDED}
    gradients = _gradients_of_replicas(rank)
    if rank == 0:
        torch.save((found, gradients), f"{path}/found.pt")
    gc.collect()  # what a graph still holds of the group
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _trained_in_shards(rank: int, spec: str) -> dict[str, torch.Tensor]:
    """Parameters sharded by block."""
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    model, ids = _whole(spec)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(einc.nn.param_groups(model, 0.1, optimizer="sgd"))
    for _ in range(2):
        optimizer.zero_grad()
        _task(model, ids[rank::2]).backward()
        optimizer.step()
    return {name: p.full_tensor() for name, p in model.state_dict().items()}


def _gradients_of_replicas(rank: int) -> list[torch.Tensor]:
    model, ids = _whole("btt")
    parallel = nn.parallel.DistributedDataParallel(model)
    _task(parallel, ids[rank::2]).backward()
    return [p.grad for p in model.parameters()]


def _whole(spec: str) -> tuple[nn.Module, torch.Tensor]:
    model, _ = swapped("gpt", spec)
    return model, torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(3))


def _task(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    from models import swap_gpt

    return swap_gpt.loss(model, ids)


def test_fully_sharded_and_distributed_data_parallel(tmp_path: Path) -> None:
    """Two processes for both: to start them takes longer than what they do."""
    multiprocessing.spawn(_distributed, (str(tmp_path),), nprocs=2)
    found, gradients = torch.load(tmp_path / "found.pt")
    for spec in SHARDED:
        model, ids = _whole(spec)
        optimizer = torch.optim.SGD(einc.nn.param_groups(model, 0.1, optimizer="sgd"))
        for _ in range(2):
            optimizer.zero_grad()
            ((_task(model, ids[0::2]) + _task(model, ids[1::2])) / 2).backward()
            optimizer.step()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found[spec][name], value, msg=name)
    model, ids = _whole("btt")
    ((_task(model, ids[0::2]) + _task(model, ids[1::2])) / 2).backward()
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()])


# What looks for nn.Linear


def test_peft_adapts_what_is_left_and_refuses_a_structure() -> None:
    import peft

    model, _ = swapped("gpt2", "btt")
    with pytest.raises(ValueError, match=r"(?i)not supported|no modules|not found"):
        peft.get_peft_model(model, peft.LoraConfig(target_modules=["c_fc"]))
    model, loss = make("gpt2")
    einc.nn.restructure(model, "btt", include="*.mlp.*")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["c_attn"]))
    loss(adapted).backward()
    trained = [n for n, p in adapted.named_parameters() if p.grad is not None]
    assert trained and all("c_attn.lora" in n for n in trained)


def test_torchao_passes_over_structures() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model, loss = make("gpt")
    einc.nn.restructure(model, "btt", include="*.up")
    before = loss(model.eval()).item()
    quantize_(model, Int8WeightOnlyConfig())
    assert type(model.blocks[0].down.weight) is not nn.Parameter
    assert type(model.blocks[0].up.A) is nn.Parameter
    assert loss(model).item() == pytest.approx(before, rel=0.02)
