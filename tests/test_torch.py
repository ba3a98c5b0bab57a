"""Generated modules among what torch does with modules, one case a library structure.

Where nothing depends on the structure one structure stands for all.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import traceback

import pytest
import torch
from torch import nn

import einc
from einc import library
from einc.order import ORDERS

UNROUTED = [name for name in library.NAMES if library.structure(name).route is None]
SHAPE = (48, 64)
SQUARE = (64, 64)


def module(name: str, shape: tuple[int, int] = SHAPE, **options: object) -> nn.Module:
    torch.manual_seed(0)
    if name == "skip_low_rank":
        shape = SQUARE
    return einc.load(name).module_class(*shape)(**options)


def inputs(layer: nn.Module, *batch: int, dtype: torch.dtype | None = None):
    torch.manual_seed(1)
    return torch.randn(*batch, layer.in_features, dtype=dtype)


@pytest.mark.parametrize("name", UNROUTED)
def test_compiles_whole(name: str) -> None:
    layer = module(name)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for batch in ((4,), (2, 3)):
        x = inputs(layer, *batch).requires_grad_()
        y = compiled(x)
        torch.testing.assert_close(y, layer(x))
        y.square().sum().backward()
        assert x.grad is not None and all(
            p.grad is not None for p in layer.parameters()
        )


def test_compiles_with_inductor() -> None:
    layer = module("btt")
    x = inputs(layer, 16)
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("name", UNROUTED)
def test_exports_with_a_dynamic_batch(name: str) -> None:
    layer = module(name)
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(
        layer, (inputs(layer, 4),), dynamic_shapes=({0: batch},)
    )
    x = inputs(layer, 11)
    torch.testing.assert_close(exported.module()(x), layer(x))


@pytest.mark.parametrize("name", UNROUTED)
def test_autocast_gives_what_linear_gives(name: str) -> None:
    layer = module(name)
    x = inputs(layer, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        like = nn.Linear(layer.in_features, layer.out_features)(x)
    assert y.dtype == like.dtype
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1)


ELEMENTWISE = "structure s { y[p, q] = x[p, q] * A[p] * B[q]  p, q ~ d^(1/2) }"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast_of_elementwise_products(dtype: torch.dtype) -> None:
    """Those stay in float32; what comes out is what Linear gives."""
    layer = einc.parse(ELEMENTWISE).module_class(64, 64)(dtype=dtype)
    x = torch.randn(8, 64, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == nn.Linear(64, 64, dtype=dtype)(x).dtype


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["kronecker", "tensor_train", "btt_moe", "btt"])
def test_padded_output_is_contiguous(name: str, bias: bool) -> None:
    y = einc.load(name).module_class(64, 101)(bias=bias)(torch.randn(2, 3, 64))
    assert y.shape == (2, 3, 101) and y.is_contiguous()


@pytest.mark.parametrize("text", ["y[i] = x[i]", "y[i, j] = x[i, j] i = 2"])
def test_the_identity_is_not_its_input(text: str) -> None:
    layer = einc.parse(f"structure s {{ {text} }}").module_class(8, 8)(bias=False)
    x = torch.randn(3, 8, requires_grad=True)
    before = x.detach().clone()
    layer(x).relu_()
    torch.testing.assert_close(x.detach(), before)


@pytest.mark.parametrize("name", UNROUTED)
def test_meta_device(name: str) -> None:
    layer = module(name, device="meta")
    assert all(p.is_meta for p in layer.parameters())
    assert layer(inputs(layer, 3).to("meta")).shape == (3, layer.out_features)
    torch.manual_seed(0)
    layer.to_empty(device="cpu").reset_parameters()
    for ours, other in zip(layer.parameters(), module(name).parameters(), strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("name", UNROUTED)
def test_copies_and_checkpoints(name: str) -> None:
    layer = module(name)
    nn.init.normal_(layer.bias)
    x = inputs(layer, 3)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    fresh = type(layer)()
    fresh.load_state_dict(torch.load(buffer))
    for other in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
        assert other.LR_MULTIPLIERS == layer.LR_MULTIPLIERS


@pytest.mark.parametrize("name", ["tensor_train3", "blast", "tucker"])
def test_checkpoints_survive_another_order(name: str) -> None:
    if name not in library.NAMES:
        pytest.fail(f"{name} has left the library")
    state = module(name, SQUARE).state_dict()
    x = torch.randn(5, SQUARE[0])
    results = []
    for order in ORDERS:
        other = einc.load(name).module_class(*SQUARE, order=order)()
        other.load_state_dict(state)
        results.append(other(x))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", UNROUTED)
def test_any_batch(name: str) -> None:
    layer = module(name)
    whole = inputs(layer, 2, 3, 5)
    y = layer(whole)
    assert y.shape == (2, 3, 5, layer.out_features)
    torch.testing.assert_close(layer(whole[1, 2, 3]), y[1, 2, 3])
    for empty in ((0,), (4, 0), (0, 4)):
        x = inputs(layer, *empty).requires_grad_()
        y = layer(x)
        assert y.shape == (*empty, layer.out_features)
        y.sum().backward()
    strided = inputs(layer, 6, 3).transpose(0, 1)
    torch.testing.assert_close(layer(strided), layer(strided.contiguous()))


@pytest.mark.parametrize("name", UNROUTED)
def test_vmap_and_functional_call(name: str) -> None:
    layer = module(name)
    x = inputs(layer, 4, 3)
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x))
    zero = {key: torch.zeros_like(value) for key, value in layer.named_parameters()}
    y = torch.func.functional_call(layer, zero, (x,))
    if name != "skip_low_rank":
        assert not y.any()


def test_options_are_those_of_linear() -> None:
    layer = module("btt", bias=False, dtype=torch.float64)
    assert layer.bias is None and layer.A.dtype is torch.float64
    assert "bias" not in layer.state_dict()
    assert inspect.signature(type(layer)).parameters.keys() == {
        "bias",
        "device",
        "dtype",
    }
    assert repr(layer) == "Btt48x64(48, 64, bias=False)"
    assert (type(layer).in_features, type(layer).out_features) == SHAPE


def test_wrong_features_are_refused() -> None:
    layer = module("monarch")
    with pytest.raises(ValueError, match="expected 48 features, not 96"):
        layer(torch.randn(4, 96))


def test_bias_is_added() -> None:
    layer = module("dense")
    before = layer(torch.zeros(2, 48))
    nn.init.constant_(layer.bias, 3.0)
    torch.testing.assert_close(layer(torch.zeros(2, 48)), before + 3.0)


@pytest.mark.parametrize("name", UNROUTED)
@pytest.mark.parametrize("bias", [True, False])
def test_multipliers_name_the_parameters(name: str, bias: bool) -> None:
    layer = module(name, bias=bias)
    for optimizer in ("adamw", "sgd"):
        rates = layer.lr_multipliers(optimizer)
        assert rates.keys() == {key for key, _ in layer.named_parameters()}
        assert all(rate > 0 for rate in rates.values())
        rates.clear()
        assert layer.lr_multipliers(optimizer), "a copy is handed out"
    with pytest.raises(ValueError, match="adagrad"):
        layer.lr_multipliers("adagrad")


def test_source_is_there_for_inspect_and_tracebacks() -> None:
    generated = einc.load("btt").module_class(*SHAPE)
    assert "torch.bmm" in inspect.getsource(generated.contract)
    assert inspect.getsource(generated).startswith("class Btt48x64(nn.Module):")
    try:
        generated()(torch.randn(3, 48, dtype=torch.float64))
    except RuntimeError as error:
        lines = traceback.format_exception(error)
        assert any("torch.bmm(" in line for line in lines)
    else:
        pytest.fail("mixed dtypes must not pass")


def test_equal_calls_give_one_class() -> None:
    first = einc.load("btt", rank=2).module_class(*SHAPE)
    assert einc.load("btt", rank=2).module_class(*SHAPE) is first
    assert einc.load("btt", rank=3).module_class(*SHAPE) is not first


def test_training_lowers_the_loss_at_the_rates_given() -> None:
    torch.manual_seed(0)
    layer = module("btt", SQUARE)
    target = torch.randn(64, 64) / 8
    rates = layer.lr_multipliers("adamw")
    groups = [
        {"params": [p], "lr": 1e-3 * rates[key]} for key, p in layer.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    x = torch.randn(256, 64)
    losses = []
    for _ in range(60):
        loss = (layer(x) - x @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_without_factors_a_matrix_is_of_the_dtype_of_the_bias() -> None:
    made = einc.parse("structure s { y[g] = x[g]  g = 4 }").module_class()
    assert made(dtype=torch.float64).to_dense().dtype == torch.float64
    assert made(device="meta").to_dense().is_meta
    assert made(bias=False).to_dense().equal(torch.eye(4))
