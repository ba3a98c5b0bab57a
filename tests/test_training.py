"""Rates, losses and the coordinate check, against the formulas by hand."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from models import make, swap_gpt
from torch import nn
from torch.nn.utils import parametrizations, prune

import einc
from einc.nn import auxiliary_loss, coord_check, param_groups, restructure


class Mlp(nn.Module):
    def __init__(self, width: int, spec: str = "", **arguments: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 3)
        if spec:
            restructure(self, spec, arguments=arguments)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(ids))
        return self.head(x + self.down(torch.relu(self.up(x))))


def rates(model: nn.Module, *given: object, **options: object) -> dict[str, float]:
    groups = param_groups(model, *given, **options)  # type: ignore[arg-type]
    return {n: group["lr"] for group in groups for n in group["names"]}


def test_every_parameter_is_in_one_group_once() -> None:
    for name in ("gpt", "gpt2", "encoder"):
        model, _ = make(name)
        restructure(model, "btt_moe")
        groups = param_groups(model, 1e-3)
        found = [id(p) for group in groups for p in group["params"]]
        assert sorted(found) == sorted({id(p) for p in model.parameters()})
        names = [n for group in groups for n in group["names"]]
        assert set(names) == {n for n, _ in model.named_parameters()}


def test_without_a_base_dense_layers_have_the_rate() -> None:
    model = Mlp(16, "btt")
    found = rates(model, 0.5)
    for name in ("embed.weight", "norm.bias", "head.weight", "head.bias", "up.bias"):
        assert found[name] == 0.5
    for layer in ("up", "down"):
        module = model.get_submodule(layer)
        for name, multiple in module.lr_multipliers("adamw").items():
            assert found[f"{layer}.{name}"] == 0.5 * multiple


@pytest.mark.parametrize("spec", ["", "btt"])
def test_width_mup(spec: str) -> None:
    """Base 16, width 64: hidden weights have four times the inputs."""
    model, base = Mlp(64, spec), Mlp(16, spec)
    adam = rates(model, 1.0, base=base)
    assert adam["embed.weight"] == adam["norm.weight"] == adam["up.bias"] == 1
    assert adam["head.weight"] == 1 / 4 and adam["head.bias"] == 1
    sgd = rates(model, 1.0, optimizer="sgd", base=base)
    assert sgd["embed.weight"] == sgd["norm.weight"] == sgd["up.bias"] == 4
    assert sgd["head.weight"] == 1 / 4 and sgd["head.bias"] == 1
    if not spec:
        assert adam["up.weight"] == adam["down.weight"] == 1 / 4
        assert sgd["up.weight"] == sgd["down.weight"] == 1
        return
    for layer in ("up", "down"):
        for name in ("A", "B"):
            module = model.get_submodule(layer)
            assert adam[f"{layer}.{name}"] == module.lr_multipliers("adamw")[name] / 4
            assert sgd[f"{layer}.{name}"] == module.lr_multipliers("sgd")[name]


def test_a_dense_base_serves_a_structured_model() -> None:
    meta = Mlp(16).to("meta")
    model = Mlp(64, "low_rank", rank=4)
    assert rates(model, 1.0, base=meta) == rates(model, 1.0, base=Mlp(16, "low_rank"))


def test_routers_and_scalars() -> None:
    spec = einc.load("btt_moe", experts=4)
    model = nn.Sequential(nn.Linear(64, 64))
    restructure(model, spec)
    base = nn.Sequential(nn.Linear(16, 16))
    assert rates(model, 1.0, base=base)["0.router"] == 1 / 4
    assert rates(model, 1.0, optimizer="sgd", base=base)["0.router"] == 1 / 4
    normalized = einc.parse(
        "structure s { y[o] = x[i] * U[i, r] * V[r, o]  r = 2  normalize all }"
    )
    model = nn.Sequential(nn.Linear(64, 64))
    restructure(model, normalized)
    found = rates(model, 1.0, 0.1, base=base)
    assert found["0.U_scale"] == found["0.V_scale"] == found["0.bias"] == 1


@pytest.mark.parametrize(
    ("change", "computed_from", "norm"),
    [
        (parametrizations.weight_norm, "parametrizations.A.original1", True),
        (parametrizations.spectral_norm, "parametrizations.A.original", False),
        (partial(prune.l1_unstructured, amount=0.3), "A_orig", False),
        (partial(nn.utils.spectral_norm, dim=0), "A_orig", False),
    ],
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_a_factor_is_computed_from_has_its_rate(
    change: Any, computed_from: str, norm: bool, optimizer: Any
) -> None:
    torch.manual_seed(0)
    model, base = (nn.Sequential(nn.Linear(n, n), nn.GELU()) for n in (64, 32))
    restructure(model, "btt")
    for other in (None, base):
        expected = rates(model, 1.0, optimizer=optimizer, base=other)
        changed = copy.deepcopy(model)
        change(changed[0], "A")
        found = rates(changed, 1.0, optimizer=optimizer, base=other)
        assert found.pop(f"0.{computed_from}") == expected.pop("0.A") != 1
        if norm:
            assert found.pop("0.parametrizations.A.original0") == 1
        assert found == expected


def test_decay_is_the_same_for_all_weights_and_none_for_vectors() -> None:
    model = Mlp(64, "btt")
    for group in param_groups(model, 0.01, 0.1, base=Mlp(16)):
        dims = {p.dim() >= 2 for p in group["params"]}
        assert len(dims) == 1
        expected = 0.01 * 0.1 if dims.pop() else 0.0
        assert group["effective_decay"] == pytest.approx(expected)
        assert group["lr"] * group["weight_decay"] == pytest.approx(expected)
    optimizer = torch.optim.AdamW(param_groups(model, 0.01, 0.1))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrunk = before[name] * (1 - 0.001 * (parameter.dim() >= 2))
        torch.testing.assert_close(parameter, shrunk, rtol=1e-6, atol=0)
    again = torch.optim.AdamW(param_groups(model, 0.01, 0.1))
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["names"] == optimizer.param_groups[0]["names"]


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    restructure(model, "btt", mode="add")
    names = [n for group in param_groups(model, 1.0) for n in group["names"]]
    assert names and all(n.startswith("0.adapter.") for n in names)


class Vision(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 9, width))
        self.bag = nn.EmbeddingBag(50, width)
        self.down = nn.ConvTranspose2d(width, 3, 4)
        self.up = nn.ConvTranspose2d(3, width, 4)
        self.patches = nn.Conv2d(3, width, 4)


def test_fans_of_other_modules() -> None:
    found = param_groups(Vision(64), 1e-3, 0.1, base=Vision(16))
    multiples = {name: g["multiplier"] for g in found for name in g["names"]}
    assert multiples.pop("down.weight") == 0.25
    assert set(multiples.values()) == {1.0} and "positions" in multiples


def test_the_base_may_be_structured_or_without_bias() -> None:
    def made(width: int, bias: bool = True) -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width, bias=bias))

    base = made(16)
    einc.nn.restructure(base, "btt", include="1")
    expected = param_groups(made(64), 1e-3, 0.1, base=made(16))
    for other in (base, made(16, bias=False)):
        found = param_groups(made(64), 1e-3, 0.1, base=other)
        assert [(g["names"], g["multiplier"]) for g in found] == [
            (g["names"], g["multiplier"]) for g in expected
        ]
    adapted = made(64)
    einc.nn.restructure(adapted, "btt", include="1", mode="add")
    found = param_groups(adapted, 1e-3, 0.1, base=made(16))
    assert any("1.adapter.A" in group["names"] for group in found)


def test_used_wrongly() -> None:
    with pytest.raises(einc.UsageError, match=r"0 or more, not -0\.1"):
        param_groups(nn.Linear(4, 4), 1e-3, -0.1)
    with pytest.raises(einc.UsageError, match=r"`0\.weight` is not initialized"):
        param_groups(nn.Sequential(nn.LazyLinear(16)), 1e-3)
    with pytest.raises(einc.UsageError, match="adamw or sgd, not muon"):
        param_groups(Mlp(8), 1.0, optimizer="muon")  # type: ignore[arg-type]
    with pytest.raises(einc.UsageError, match="no module `0`"):
        param_groups(nn.Sequential(nn.Linear(8, 8)), 1.0, base=Mlp(8))
    named = nn.ModuleDict({"x": nn.ModuleDict({"base": nn.Linear(8, 8)})})
    with pytest.raises(einc.UsageError, match=r"no module `x\.base`"):  # no adapter
        param_groups(named, 1.0, base=nn.ModuleDict({"x": nn.Linear(4, 4)}))


# Routing


def test_the_auxiliary_loss_is_the_mean_over_layers_and_read_once() -> None:
    model, loss = make("gpt")
    restructure(model, "btt_moe")
    layers = [m for m in model.modules() if hasattr(m, "router")]
    for layer in layers:
        nn.init.normal_(layer.router)
    with pytest.raises(RuntimeError, match="no routed layer"):
        auxiliary_loss(model)
    loss(model)
    each = [layer._latest.loss for layer in layers]
    value = auxiliary_loss(model)
    torch.testing.assert_close(value, torch.stack(each).mean())
    value.backward()
    assert all(layer.router.grad.abs().sum() > 0 for layer in layers)
    with pytest.raises(RuntimeError, match="no routed layer"):
        auxiliary_loss(model)
    found = einc.nn.routing_statistics(model)
    assert len(found) == len(layers) == 8
    assert set(found["blocks.0.up"]) == {"load", "entropy", "experts_in_use"}
    assert einc.nn.routing_statistics(model.eval()) == {}


# The coordinate check


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


BATCH = (torch.arange(35) % 7, torch.arange(35) % 3)


def test_at_the_right_scale_nothing_grows_and_at_a_wrong_one_it_shows() -> None:
    """One rate for all: under Adam hidden updates grow with the width."""
    widths = [32, 64, 128, 256]
    makes = {"dense": Mlp, "btt": lambda width: Mlp(width, "btt")}
    found = coord_check(makes, widths, BATCH, loss, lr=2e-3)
    slopes = found.slopes("updates") | found.slopes("activations")
    assert {"dense/up", "dense/head", "btt/down", "btt/embed"} <= set(slopes)
    for name, slope in found.slopes("updates").items():
        if not name.endswith("head"):  # starts at the scale of nn.Linear, not muP's
            assert slope < 0.25, name
    assert set(found.activations["btt"]["up"]) == set(widths)
    wrong = {"dense": OneRate}
    grown = coord_check(wrong, widths, BATCH, loss, lr=2e-3).slopes("updates")
    assert grown["dense/up"] > found.slopes("updates")["dense/up"] + 0.4


class OneRate(Mlp):
    """Says that it is as wide at any width, so that its rates are all the same."""

    def named_modules(self, *given: object, **options: object):  # type: ignore[no-untyped-def]
        for name, module in super().named_modules(*given, **options):
            if isinstance(module, nn.Linear):
                module.in_features = module.out_features = 1
            yield name, module


def test_the_check_is_a_table_and_a_picture(tmp_path: Path) -> None:
    found = coord_check({"dense": Mlp}, [8, 16], BATCH, loss, steps=1)
    again = coord_check({"dense": Mlp}, [8, 16], BATCH, loss, steps=1)
    assert found == again
    lines = str(found).splitlines()
    assert lines[0].split("  ")[0] == "module" and "update at 16" in lines[0]
    assert any(line.startswith("dense/up") for line in lines)
    found.plot(tmp_path / "check.svg")
    again.plot(tmp_path / "again.svg")
    assert (tmp_path / "check.svg").read_bytes() == (
        tmp_path / "again.svg"
    ).read_bytes()
    with pytest.raises(einc.UsageError, match="end in one of"):
        found.plot(tmp_path / "check.txt")


def test_the_example_trains(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    for spec in ("btt", "btt_moe"):
        given = ["swap_gpt.py", "--spec", spec, "--steps", "21", "--width", "16"]
        monkeypatch.setattr("sys.argv", given)
        swap_gpt.main()
        out = capsys.readouterr().out
        losses = [
            float(line.split()[-1]) for line in out.splitlines() if "loss" in line
        ]
        assert losses[-1] < losses[0] - 0.3
    monkeypatch.setattr("sys.argv", ["swap_gpt.py", "--dry-run", "--width", "16"])
    swap_gpt.main()
    assert "blocks.1.down" in capsys.readouterr().out
