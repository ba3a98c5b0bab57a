"""Choosing layers, what is left alone and why, adapters: on small models by hand."""

from __future__ import annotations

import re

import pytest
import torch
from models import make
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

import einc
from einc.nn import Adapted, restructure


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 24)
        self.attn = nn.ModuleDict({n: nn.Linear(24, 24) for n in ("q", "k")})
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 24))
        self.lm_head = nn.Linear(24, 16, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.attn["q"](x) + self.attn["k"](x)
        return self.lm_head(self.mlp(x))


IDS = torch.arange(10).reshape(2, 5)


def changed(model: nn.Module, **options: object) -> list[str]:
    try:
        found = restructure(model, "btt", dry_run=True, **options)  # type: ignore[arg-type]
    except einc.UsageError as error:
        assert str(error).startswith("no layer to change")
        return []
    return [row.name for row in found.changed]


EVERY = ["attn.q", "attn.k", "mlp.0", "mlp.2"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, EVERY),
        ({"include": "mlp.*"}, ["mlp.0", "mlp.2"]),
        ({"include": ["attn.q", "mlp.?"]}, ["attn.q", "mlp.0", "mlp.2"]),
        ({"include": re.compile(r"attn\.[kq]")}, ["attn.q", "attn.k"]),
        ({"include": lambda module, name: module.out_features == 48}, ["mlp.0"]),
        ({"exclude": "*.q"}, ["attn.k", "mlp.0", "mlp.2"]),
        ({"include": "*", "exclude": [re.compile("attn.*"), "mlp.2"]}, ["mlp.0"]),
        ({"include": ["lm_head"]}, ["lm_head"]),
        ({"include": ["q", "2"]}, ["attn.q", "mlp.2"]),
        ({"include": "p.2"}, []),
    ],
)
def test_selection(options: dict[str, object], expected: list[str]) -> None:
    assert changed(Net(), **options) == expected


def test_a_mapping_gives_each_pattern_its_own() -> None:
    model = Net()
    done = restructure(
        model,
        {
            "attn.q": ("low_rank", {"rank": 3}),
            "attn.*": "kronecker",
            "mlp.0": einc.load("btt", rank=2),
            "mlp.*": ("btt", {"rank": 3}),
        },
    )
    assert [row.structure for row in done.rows] == [
        "low_rank(rank = 3)",
        "kronecker",
        "btt(rank = 2)",
        "btt(rank = 3)",
        None,
    ]
    assert done.rows[-1].reason == "no pattern fits"
    assert model.attn["q"].U.shape == (24, 3)
    assert model(IDS).shape == (2, 5, 16)


def test_arguments_hold_for_all() -> None:
    model = Net()
    restructure(model, "btt", arguments={"rank": 4})
    assert model.mlp[0].A.shape[-1] == model.attn["q"].A.shape[-1] == 4


def test_heads_and_tied_weights_are_left_alone_and_it_says_so() -> None:
    model = Net()
    rows = {row.name: row for row in restructure(model, "btt", dry_run=True).rows}
    assert rows["lm_head"].reason == "an output head"
    model.lm_head, model.last = nn.Identity(), model.lm_head
    rows = {row.name: row for row in restructure(model, "btt", dry_run=True).rows}
    assert rows["last"].reason == "shares its weight with `embed`"
    assert changed(model, include=["last"]) == ["last"]


def test_a_dry_run_changes_nothing_and_tells_the_same() -> None:
    model = Net()
    before = str(model)
    told = restructure(model, "btt", dry_run=True)
    assert str(model) == before
    assert restructure(model, "btt") == told
    table = str(told).splitlines()
    assert re.match(r"layer +shape +becomes +parameters +before", table[0])
    assert re.match(r"attn\.q +24 -> 24 +btt\(rank = 1\) +264 +600", table[2])
    assert "(left: an output head)" in str(told)
    assert told.to_json()["rows"][0]["structure"] == "btt(rank = 1)"


def test_layers_keep_what_they_were() -> None:
    model = Net().to(torch.bfloat16).eval()
    model.attn["q"].requires_grad_(False)
    restructure(model, "btt")
    layer = model.attn["q"]
    assert layer.A.dtype == torch.bfloat16 and not layer.training
    assert not layer.A.requires_grad and model.attn["k"].A.requires_grad
    assert model.mlp[0].bias is not None
    only_bias = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 24))
    only_bias[0].weight.requires_grad_(False)
    only_bias[1].bias.requires_grad_(False)
    restructure(only_bias, "btt")
    trained = [n for n, p in only_bias.named_parameters() if p.requires_grad]
    assert trained == ["0.bias", "1.A", "1.B"]
    meta = Net().to("meta")
    restructure(meta, "btt")
    assert meta.mlp[0].A.is_meta


def test_a_layer_in_two_places_stays_one() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model.append(model[0])
    done = restructure(model, "btt")
    assert model[0] is model[2] and len(done.rows) == 1
    assert len(list(model.parameters())) == 3


def test_one_class_a_shape() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 12))
    restructure(model, "btt")
    assert len({type(layer) for layer in model}) == 2


def test_conv1d_starts_from_its_transposed_weight() -> None:
    model = nn.Sequential(Conv1D(12, 8))
    x = torch.randn(4, 8)
    nn.init.normal_(model[0].bias)
    expected = model(x)
    assert restructure(model, "dense", init="project").rows[0].kind == "Conv1D"
    torch.testing.assert_close(model(x), expected)


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_what_is_not_a_plain_dense_layer() -> None:
    assert restructure_rows(nn.Sequential(Scaled(8, 8), nn.Linear(8, 8))) == ["1"]
    hooked = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    hooked[0].register_forward_hook(lambda *_: None)
    rows = restructure(hooked, "btt", dry_run=True).rows
    assert [row.reason for row in rows] == ["it has hooks", ""]
    nn.utils.parametrizations.weight_norm(hooked[1])
    with pytest.raises(einc.UsageError, match="`0` it has hooks"):
        restructure(hooked, "btt")


def restructure_rows(model: nn.Module) -> list[str]:
    return [row.name for row in restructure(model, "btt").rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "nothing"}, "no layer to change: `attn.q` not included"),
        ({"init": "random"}, "init is `scratch` or `project`"),
        ({"mode": "add", "init": "project"}, "an adapter starts at zero"),
        ({"arguments": {"rnk": 3}}, "no parameter `rnk`"),
    ],
)
def test_used_wrongly(options: dict[str, object], message: str) -> None:
    model = Net()
    before = str(model)
    with pytest.raises(einc.UsageError, match=message):
        restructure(model, "btt", **options)  # type: ignore[arg-type]
    assert str(model) == before


def test_sizes_that_do_not_fit_leave_the_model_as_it_was() -> None:
    model = Net()
    before = str(model)
    fixed = "structure s { y[g, o] = x[g, i] * W[g, i, o]  i = 24  g = 1 }"
    with pytest.raises(einc.SpecError, match=r"layer `mlp\.2`"):
        restructure(model, einc.parse(fixed))
    assert str(model) == before


def test_a_model_that_is_a_layer_has_no_place() -> None:
    with pytest.raises(einc.UsageError, match="it is the model itself"):
        restructure(nn.Linear(8, 8), "btt")


# Modules that read a child's weight


def test_multihead_attention_keeps_its_projection() -> None:
    model, _ = make("encoder")
    done = restructure(model, "btt")
    reasons = {row.name.rpartition(".")[2]: row.reason for row in done.rows}
    assert reasons == {
        "out_proj": "nn.MultiheadAttention reads its weight directly",
        "linear1": "",
        "linear2": "",
    }
    with pytest.raises(einc.UsageError, match="cannot be changed: nn"):
        restructure(make("encoder")[0], "btt", include=["layers.0.self_attn.out_proj"])


@pytest.mark.parametrize("masked", [False, True])
def test_the_encoder_s_fast_path_is_left(masked: bool) -> None:
    """In eval mode torch would read linear1.weight."""
    model, _ = make("encoder")
    restructure(model, "btt")
    x = torch.randn(2, 6, 32)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[1, 4:] = masked
    given = {"src_key_padding_mask": mask} if masked else {}
    expected = model.train()(x, **given)
    with torch.no_grad():
        found = model.eval()(x, **given)
    torch.testing.assert_close(found[~mask], expected[~mask])


class Reader(nn.Module):
    """A module that einc does not know to read a child's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.child.weight.T


def test_others_that_read_a_weight_fail_and_say_so() -> None:
    model = Reader()
    restructure(model, "btt")
    with pytest.raises(AttributeError, match="weight"):
        model(torch.randn(3, 8))


def test_what_is_excluded_may_be_what_must_stay() -> None:
    model, _ = make("encoder")
    done = restructure(
        model, "btt", include=["out_proj", "linear1"], exclude="*.out_proj"
    )
    assert [row.name for row in done.changed] == [
        "layers.0.linear1",
        "layers.1.linear1",
    ]


def test_a_projection_that_fails_leaves_all_layers_as_they_were() -> None:
    model = Net()
    nn.init.constant_(model.mlp[2].weight, torch.nan)
    before = str(model)
    with pytest.raises(
        einc.UsageError, match=r"layer `.*`: the weight is to have real values"
    ):
        restructure(model, "btt", init="project")
    assert str(model) == before


# Adapters


def test_what_fails_leaves_what_adapters_are_beside_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))

    def fails(line: str) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        restructure(model, "low_rank", mode="add", progress=fails)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_with_adapters_keeps_their_dense_layers() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    restructure(model, "low_rank", include="0", mode="add")
    found = restructure(model, "btt")
    assert [row.name for row in found.changed] == ["2"]
    assert found.rows[0].reason == "it is the dense layer of an adapter"
    einc.nn.merge(model)


def test_all_adapters_are_merged_or_none() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    restructure(model, {"0": "low_rank", "1": "btt_moe"}, mode="add")
    with pytest.raises(einc.UsageError, match="no one matrix"):
        einc.nn.merge(model)
    assert not any(layer.merged for layer in model)


def test_no_adapter_beside_a_weight_that_others_have() -> None:
    with pytest.raises(einc.UsageError, match="shares its weight with `embed`"):
        restructure(Net(), "low_rank", include="lm_head", mode="add")


class Twice(nn.Module):
    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        layer = nn.Linear(16, 16)
        self.add_module(first, layer)
        self.add_module(second, layer)
        self.other = nn.Linear(16, 16)


def test_all_names_of_a_layer_count() -> None:
    model = Twice("a", "frozen")
    assert changed(model, exclude="frozen") == changed(model, exclude="a") == ["other"]
    assert changed(model, include="frozen") == changed(model, include="a") == ["a"]
    assert changed(Twice("body", "lm_head")) == ["other"]
    assert changed(Twice("body", "lm_head"), include="lm_head") == ["body"]


def hooked(name: str) -> nn.Linear:
    layer = nn.Linear(16, 16)
    match name:
        case "backward":
            layer.register_full_backward_pre_hook(lambda *_: None)
        case "state":
            layer.register_state_dict_post_hook(lambda *_: None)
        case "weight":
            layer.weight.register_hook(lambda gradient: None)
        case "forward":
            layer.forward = lambda x: x  # type: ignore[method-assign]
        case "float8":
            layer.weight = nn.Parameter(
                layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False
            )
    return layer


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("backward", "it has hooks"),
        ("state", "it has hooks"),
        ("weight", "its weight has hooks"),
        ("forward", "its forward is replaced"),
        ("float8", "its weight is torch.float8_e4m3fn"),
    ],
)
def test_what_a_new_layer_would_not_have(name: str, reason: str) -> None:
    model = nn.Sequential(hooked(name), nn.Linear(16, 16))
    found = restructure(model, "btt")
    assert [row.name for row in found.changed] == ["1"]
    assert found.rows[0].reason == reason


def test_a_layer_that_is_not_initialized() -> None:
    model = nn.Sequential(nn.LazyLinear(16), nn.Linear(16, 16))
    found = restructure(model, "btt")
    assert found.rows[0].reason == "it is not initialized"


@pytest.mark.parametrize("spec", [5, None, ["btt"], ("btt",), (einc.load("btt"), {})])
def test_what_is_no_structure(spec: object) -> None:
    with pytest.raises(einc.UsageError, match="a structure is a SPEC"):
        restructure(nn.Sequential(nn.Linear(16, 16)), spec)  # type: ignore[arg-type]


def test_an_adapter_s_figures_are_beside_the_dense_layer_s() -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    [row] = restructure(model, "low_rank", arguments={"rank": 2}, mode="add").rows
    assert row.parameters == (16 * 17, sum(p.numel() for p in model.parameters()))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(3, 16))
    assert row.flops == (2 * 256, 2 * 256 + 2 * 64)
    assert counter.get_total_flops() == 3 * row.flops[1]


@pytest.mark.parametrize("spec", ["btt", "low_rank", "low_rank_plus_block", "btt_moe"])
@pytest.mark.parametrize("name", ["gpt", "gpt2"])
def test_adapters_start_at_zero_and_learn(spec: str, name: str) -> None:
    model, loss = make(name)
    model.eval()
    expected = loss(model)
    restructure(model, spec, mode="add")
    torch.testing.assert_close(loss(model), expected, rtol=0, atol=0)
    frozen = [p for n, p in model.named_parameters() if ".base." in n]
    assert frozen and not any(p.requires_grad for p in frozen)
    model.train()
    optimizer = torch.optim.AdamW(einc.nn.param_groups(model, 1e-3))
    for _ in range(5):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert loss(model.eval()) < expected
    moved = [
        (p - 0).abs().sum() > 0
        for n, p in model.named_parameters()
        if ".adapter." in n and "bias" not in n and "router" not in n
    ]
    assert all(moved)


@pytest.mark.parametrize("name", ["gpt", "gpt2"])
def test_merging_and_back(name: str) -> None:
    model, loss = make(name)
    restructure(model, "btt", mode="add")
    for module in model.modules():
        if isinstance(module, Adapted):
            module.adapter.reset_parameters()
    model.eval()
    weights = [p.clone() for p in model.parameters()]
    expected = loss(model)
    with torch.autocast("cpu", torch.bfloat16):
        einc.nn.merge(model)
    torch.testing.assert_close(loss(model), expected)
    assert "merged=True" in str(model)
    einc.nn.merge(model)  # a second time does nothing
    einc.nn.unmerge(model)
    torch.testing.assert_close(loss(model), expected)
    torch.testing.assert_close(list(model.parameters()), weights)


def test_a_routed_adapter_has_no_one_matrix() -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    restructure(model, "btt_moe", mode="add")
    with pytest.raises(einc.UsageError, match="no one matrix to merge"):
        einc.nn.merge(model)


def test_a_term_of_tied_factors_alone_cannot_start_at_zero() -> None:
    tied = einc.parse("structure s { y[o] = x[i] * U[i, r] * U[o, r]  r = 2 }")
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    before = str(model)
    with pytest.raises(einc.UsageError, match="cannot start at zero"):
        restructure(model, {"0": "btt", "1": tied}, mode="add")
    assert str(model) == before
    assert all(p.requires_grad for p in model.parameters())
