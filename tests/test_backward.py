"""A backward by hand: autograd's gradients with fewer copies, and all that torch does."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from structures import Case, any_case
from test_copies import Clones, listed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import einc
from einc import compiler, library
from einc.api import StructuredMap

MANY = 1 << 20
"""Tokens of a call for which there are chunks, whatever the features."""
CHAINS = [
    "monarch",
    "btt",
    "kronecker",
    "tensor_train",
    "butterfly3",
    "blast",
    "einsum2",
]


def made(structure: StructuredMap, *shape: int, **options: Any) -> Any:
    torch.manual_seed(0)
    return structure.module_class(*shape, MANY, **options)(dtype=torch.float64)


def is_by_hand(structure: StructuredMap, *shape: int, **options: Any) -> bool:
    report = structure.analyze(*shape, tokens=MANY, certify=False)
    return compiler.module(report, **options).chunks is not None


def gradients(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = x.clone().requires_grad_()
    y = module(x)
    pull = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return torch.autograd.grad(y, [x, *module.parameters()], pull)


def check(structure: StructuredMap, shape: tuple[int, int], *tokens: int) -> None:
    """Values and gradients in chunks of 8 are those of autograd at once."""
    expected = made(structure, *shape, backward="autograd")
    batches = [torch.randn(n, shape[0], dtype=torch.float64) for n in tokens]
    for backward in ("manual", "recompute"):
        for dtype in ("float32", "bfloat16"):
            module = made(structure, *shape, dtype=dtype, backward=backward)
            module.load_state_dict(expected.state_dict())
            type(module).chunk = 8
            for x in batches:
                torch.testing.assert_close(module(x), expected(x))
                torch.testing.assert_close(gradients(module, x), gradients(expected, x))


@pytest.mark.parametrize("shape", [(256, 256), (192, 768), (60, 97)], ids=str)
@pytest.mark.parametrize("name", [n for n in library.NAMES if "moe" not in n])
def test_gradients_are_autograds(name: str, shape: tuple[int, int]):
    check(einc.load(name), shape, 0, 1, 8, 19)


@settings(max_examples=60, deadline=None)
@given(any_case())
def test_gradients_of_any_structure_are_autograds(case: Case):
    if case.route is None:
        check(case.load(), (case.d_in, case.d_out), 11)


@pytest.mark.parametrize("name", CHAINS)
def test_chains_have_one(name: str):
    assert is_by_hand(einc.load(name), 1024, 1024)


@pytest.mark.parametrize("name", ["dense", "low_rank", "block_diagonal"])
def test_there_is_none_where_nothing_is_copied(name: str):
    assert not is_by_hand(einc.load(name), 1024, 1024)


def test_a_structure_that_reads_x_twice_has_autograds():
    assert not is_by_hand(einc.load("low_rank_plus_block"), 1024, 1024)


@pytest.mark.parametrize("name", CHAINS)
def test_gradcheck_to_the_second_order(name: str):
    module = made(einc.load(name), 16, 16)
    type(module).chunk = 2
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    names = dict(module.named_parameters())

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, given, (x,))

    inputs = (x, *(p.detach().requires_grad_() for p in names.values()))
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("backward", ["manual", "recompute"])
@pytest.mark.parametrize("name", ["btt", "butterfly3"])
def test_torch_func(name: str, backward: Any, bias: bool):
    """Tangents, gradients of each token by themselves, batches of weights."""
    module = made(einc.load(name), 16, 16, backward=backward)
    plain = made(einc.load(name), 16, 16, backward="autograd")
    if bias:
        torch.nn.init.normal_(module.bias)
    else:
        module.bias = plain.bias = None
    plain.load_state_dict(module.state_dict())
    type(module).chunk = 2
    x = torch.randn(5, 3, 16, dtype=torch.float64)
    found = []
    for one in (module, plain):
        parameters = dict(one.named_parameters())

        def loss(values: Any, x: torch.Tensor, one: Any = one) -> torch.Tensor:
            return torch.func.functional_call(one, values, (x,)).square().sum()

        each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
        stacked = {k: torch.stack([v, 2 * v]) for k, v in parameters.items()}
        many = torch.func.vmap(loss, (0, None))(stacked, x)
        tangent = torch.func.jvp(one, (x,), (x + 1,))
        moved = {k: v + 1 for k, v in parameters.items()}
        tangents = torch.func.jvp(partial(loss, x=x), (parameters,), (moved,))
        hessian = torch.func.hessian(loss, 1)(parameters, x[0])
        found.append((list(each.values()), many, tangent, tangents, hessian))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["btt", "butterfly3"])
def test_torch_func_without_gradients_around_it(name: str):
    """torch.func differentiates under no_grad, too."""
    module = made(einc.load(name), 16, 16)
    type(module).chunk = 2
    x, pull = torch.randn(3, 5, 16).double(), torch.randn(5, 16).double()

    def pulled(one: torch.Tensor) -> torch.Tensor:
        return torch.func.vjp(module, one)[1](pull)[0]

    expected = torch.func.vmap(pulled)(x)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(pulled)(x), expected)


@pytest.mark.parametrize("name", CHAINS)
def test_jacobians_by_tangents_all_at_once(name: str):
    module = made(einc.load(name), 16, 16)
    type(module).chunk = 2
    x = torch.randn(5, 16, dtype=torch.float64)
    jacobian = partial(torch.autograd.functional.jacobian, module, x, vectorize=True)
    torch.testing.assert_close(jacobian(strategy="forward-mode"), jacobian())


@pytest.mark.parametrize("backward", ["manual", "recompute", "autograd"])
@pytest.mark.parametrize("name", CHAINS)
def test_what_it_returns_can_be_changed_in_place(name: str, backward: Any):
    """As by nn.ReLU(inplace=True), for one chunk of tokens and for more."""
    module = made(einc.load(name), 16, 16, backward=backward)
    if backward != "autograd":
        type(module).chunk = 4
    first = next(module.parameters())
    for tokens in (3, 9):
        x = torch.randn(tokens, 16, dtype=torch.float64)
        expected = torch.autograd.grad(module(x).relu().sum(), first)
        y = module(x)
        y.relu_()
        torch.testing.assert_close(torch.autograd.grad(y.sum(), first), expected)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_is_of_any_number_of_tokens(name: str):
    module = made(einc.load(name), 16, 16)
    type(module).chunk = 2
    traced = torch.jit.trace(module, torch.randn(5, 16, dtype=torch.float64))
    x = torch.randn(9, 16, dtype=torch.float64)
    torch.testing.assert_close(traced(x), module(x))


@pytest.mark.parametrize("tokens", [5, 300])
@pytest.mark.parametrize("name", CHAINS)
def test_flops_are_those_of_the_profile(name: str, tokens: int):
    structure = einc.load(name)
    module = structure.module_class(256, 256, MANY)(bias=False)
    type(module).chunk = 64
    x = torch.randn(tokens, 256, requires_grad=True)
    report = structure.analyze(256, 256, tokens=MANY, certify=False)
    assert report.figures is not None
    with FlopCounterMode(display=False) as counter:
        module(x).sum().backward()
    free = [step for _, step in report.plan.steps if not step.holds_x]
    assert free or counter.get_total_flops() == (
        2 * report.figures.work.training_matrix * tokens
    )


def test_what_is_not_wanted_is_not_computed():
    """A frozen weight and an input without gradient save a product each."""
    module = einc.load("monarch").module_class(256, 256, MANY)()
    x = torch.randn(4, 256)

    def products(x: torch.Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            module(x).sum().backward()
        one = 2 * 4 * 256 * 16
        assert counter.get_total_flops() % one == 0
        return counter.get_total_flops() // one

    assert products(x.clone().requires_grad_()) == 6
    assert products(x) == 5
    module.A.requires_grad_(False)
    assert products(x) == 3  # y, z and the gradient of B
    assert module.A.grad is not None and module.B.grad is not None


def test_recomputing_keeps_x_alone():
    """The bytes that autograd holds for backward beside the parameters."""
    held = {}
    for backward in ("manual", "recompute", "autograd"):
        module = einc.load("btt", rank=4).module_class(
            256, 256, MANY, backward=backward
        )()
        type(module).chunk = 250
        sizes = {}

        def keep(tensor: torch.Tensor, sizes: Any = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        x = torch.randn(1000, 256, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = module(x)
        of_tokens = [n for n in sizes.values() if n >= 250 * 256]
        held[backward] = sum(n for n in of_tokens if n not in (16**3 * 4,)) / 256_000
        del y
    assert held["recompute"] < 1.1
    assert held["manual"] < 5.2


@pytest.mark.parametrize("tokens", [10, 20])
@pytest.mark.parametrize("name", CHAINS)
def test_the_bias_takes_no_pass_of_its_own(name: str, tokens: int):
    """A batched product begins from it; elsewhere it is added where y is written."""
    module = einc.load(name).module_class(1024, 1024, MANY)()
    torch.nn.init.normal_(module.bias)
    type(module).chunk = 8
    x = torch.randn(tokens, 1024, requires_grad=True)
    passes: dict[bool, list[int]] = {True: [], False: []}

    class Passes(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ):
            assert func is not torch.ops.aten.add.Tensor
            if func is torch.ops.aten.add.out:
                passes[False].append(kwargs["out"].shape[0])
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.baddbmm.default:
                passes[True].append(result.numel() // 1024)
            return result

    with Passes():
        y = module(x)
    batched = name not in ("kronecker", "tensor_train", "einsum2")
    rows = [8, 8, 4] if tokens == 20 else [8, 2]
    assert passes == {batched: rows, not batched: []}
    expected = x @ module.to_dense().T + module.bias
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)


def test_without_gradients_nothing_is_kept():
    module = einc.load("btt").module_class(64, 64, MANY)()
    type(module).chunk = 8
    function = vars(sys.modules[type(module).__module__])["_InChunks"]
    x = torch.randn(20, 64)
    weights = [module.A.reshape(8, 8, 8), module.B.reshape(8, 8, 8)]
    plain = partial(function.forward, type(module))
    with torch.no_grad():
        kept, alone = (plain(keeps, None, x, *weights) for keeps in (True, False))
    assert (len(kept), len(alone)) == (4, 1)
    torch.testing.assert_close(kept[0], alone[0])


def test_autocast_and_checkpointing():
    structure = einc.load("btt", rank=2)
    module = structure.module_class(256, 256, MANY)()
    plain = structure.module_class(256, 256, MANY, backward="autograd")()
    plain.load_state_dict(module.state_dict())
    type(module).chunk = 8
    x = torch.randn(20, 256)
    found = []
    for one in (module, plain):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = torch.utils.checkpoint.checkpoint(one, leaf, use_reentrant=False)
        assert y.dtype is torch.bfloat16
        found.append(torch.autograd.grad(y.float().sum(), [leaf, *one.parameters()]))
    torch.testing.assert_close(*found, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", CHAINS)
def test_copies_of_a_backward_are_those_listed(name: str):
    structure = einc.load(name)
    shape = (256, 1024)
    module = structure.module_class(*shape, MANY)(bias=False)
    source = structure.source(*shape, MANY)
    type(module).chunk = 5
    leaf = torch.randn(10, 256, requires_grad=True)
    y = module(leaf)
    with Clones() as clones:
        torch.autograd.grad(y, leaf, torch.ones_like(y))
    backward = 2 * listed(source, "copies in backward: ")
    assert clones.count <= len(backward)
    with Clones() as clones:
        # The gradients of views of weights are views.
        y = module(leaf)
        torch.autograd.grad(y, [leaf, *module.parameters()], torch.ones_like(y))
    forward = listed(source)
    forward += [copy for copy in forward if "n" in re.split(r", |\*", copy)]
    assert clones.count == len(forward) + len(backward)


def test_the_compiler_sees_plain_operations():
    module = einc.load("monarch").module_class(64, 64, MANY)()
    type(module).chunk = 2
    x = torch.randn(3, 64, requires_grad=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))


def test_few_tokens_have_autograds():
    """What a function in Python takes is more than what one chunk gains by it."""
    btt = einc.load("btt", rank=4)
    for tokens, by_hand in ((1, False), (64, False), (128, False), (129, True)):
        report = btt.analyze(1024, 1024, tokens=tokens, certify=False)
        assert (compiler.module(report).chunks is not None) == by_hand


@pytest.mark.parametrize("backward", ["manual", "recompute"])
def test_one_chunk_has_autograds(backward: Any):
    module = einc.load("monarch").module_class(64, 64, MANY, backward=backward)()
    type(module).chunk = 4
    for tokens, by_hand in ((4, False), (5, True)):
        y = module(torch.randn(tokens, 64))
        assert ("_InChunks" in str(y.grad_fn.next_functions[0][0])) == by_hand


@pytest.mark.parametrize("name", CHAINS)
def test_complex_gradients_have_conjugates(name: str):
    layer = einc.load(name).module_class(64, 64, MANY)(dtype=torch.complex128)
    x, pull = torch.randn(2, 20, 64, dtype=torch.complex128)
    found = []
    for chunk in (8, 20):
        type(layer).chunk = chunk
        weights = list(layer.parameters())
        found.append(torch.autograd.grad(layer(x), weights, pull))
    torch.testing.assert_close(*found)


def test_a_factor_may_have_the_name_of_a_function():
    spec = "y[f, e] = x[g, a]*any[g, a, f]*B[f, g, e]  g, a, f, e = 8"
    layer = einc.parse(f"structure s {{ {spec} }}").module_class(64, 64, MANY)()
    type(layer).chunk = 8
    layer(torch.randn(20, 64)).sum().backward()
    assert layer.get_parameter("any").grad is not None


@pytest.mark.parametrize("name", CHAINS)
def test_batched_gradients(name: str):
    layer = made(einc.load(name), 64, 64)
    type(layer).chunk = 8
    x = torch.randn(20, 64, dtype=torch.float64)

    def few(x: torch.Tensor) -> torch.Tensor:
        return layer(x).square().sum(0)[:3]

    jacobians = (
        torch.autograd.functional.jacobian(few, x, vectorize=vectorize)
        for vectorize in (True, False)
    )
    torch.testing.assert_close(*jacobians)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_few_digits_add_up_in_more(dtype: torch.dtype):
    """Of 512 chunks of the same tokens, a sum of so few digits would stop growing."""
    layer = einc.load("btt").module_class(64, 64, MANY)(dtype=dtype)
    type(layer).chunk = 8
    x = torch.randn(8, 64, dtype=dtype)
    pull = torch.ones(8, 64, dtype=dtype)
    weights = [layer.A, layer.B]
    one = torch.autograd.grad(layer(x), weights, pull)
    many = torch.autograd.grad(layer(x.repeat(512, 1)), weights, pull.repeat(512, 1))
    for few, all_ in zip(one, many, strict=True):
        torch.testing.assert_close(all_.float(), few.float() * 512, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "text",
    [
        "y[o] = x[i, j] * A[i] * B[j, o]  i ~ d_in^(1/2)",
        "y[o] = x[i, j, k] * A[o, i, k] * B[j]  i, j ~ d_in^(1/3)",
    ],
)
def test_weights_that_bring_nothing(text: str):
    """The gradients of their data are outer products."""
    check(einc.parse(f"structure s {{ {text} }}"), (64, 64), 20)
