"""The routed part of a generated file: router, grouping, the experts' functions.

In: `Module`s and their `Experts`. Out: text. Experts are two operators, forward and
backward, since torch.compile cannot trace what depends on how many tokens an expert
has. They are defined once in a process and stay: torch frees what is defined anew.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

from einc.codegen.lines import assign, statement
from einc.codegen.nodes import (
    Accumulate,
    Assign,
    Experts,
    Module,
    Product,
    Router,
    View,
)
from einc.codegen.writer import Writer

IMPORTS = """\
import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn
from torch.utils.flop_counter import {counter}
"""

HELPERS = '''\
def _by_expert(
    chosen: torch.Tensor, gates: torch.Tensor, experts: int, chunk: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Each expert with its places in `chosen`, `chunk` at a time: their tokens and gates.

    Place i is choice i % k of token i // k. All are there, whatever their number. The
    numbers go to the CPU: on a GPU the one synchronization of these functions.
    """
    expert, places = chosen.flatten().sort(stable=True)
    tokens, gate = places // chosen.shape[1], gates.flatten()[places, None]
    start = 0
    for r, count in enumerate(expert.bincount(minlength=experts).tolist()):
        for first in range(start, start + count, chunk):
            part = slice(first, min(first + chunk, start + count))
            yield r, places[part], tokens[part], gate[part]
        start += count


def _stacked(weight: torch.Tensor) -> torch.Tensor:
    """Contiguous. A transposition of two dimensions is the fastest way where one is."""
    return weight.reshape(weight.shape[0], -1).contiguous().view(weight.shape)


def _space(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    """The head of a buffer in a shape: chunks write where the last one did."""
    return buffer[: math.prod(shape)].view(shape)


def _cast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors as autocast gives them to matrix products, where it is on."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _is_recomputing() -> bool:
    """Whether this runs in a backward, as a checkpointed forward does once more."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1


def _shapes(x, gates, chosen, *others):
    return [t.new_empty(t.shape) for t in (x, gates, *others[:-1])]  # less grad


def _second_derivative(ctx, *grads):
    raise RuntimeError("routed structures have no second derivative")


def _operator(name: str, run, fake, gradient, macs: int):
    """`run` as an operator of torch, once in a process: equal names are equal code.

    torch.compile sees one node, whose numbers of tokens an expert are data, and
    torch's FlopCounterMode `macs` multiply-adds for each of them.
    """
    qualified = f"einc::{name}"
    if not hasattr(torch.ops.einc, name):
        schema = torch.library.infer_schema(run, mutates_args=())
        torch.library.define(qualified, schema)
        torch.library.impl(qualified, "default", run)
        torch.library.register_fake(qualified, fake)
        torch.library.register_autograd(qualified, gradient, setup_context=_save)
        register_flop_formula(getattr(torch.ops.einc, name))(
            lambda x, gates, *shapes, **other: 2 * macs * math.prod(gates)
        )
    return getattr(torch.ops.einc, name)
'''

GROUPED_HELPERS = '''\
_HAS_GROUPED_PRODUCT = hasattr(nn.functional, "grouped_mm")  # new in torch


def _is_grouped(x: torch.Tensor) -> bool:
    """Whether the device has a grouped product: then nothing waits for the host."""
    return x.is_cuda and x.dtype == torch.bfloat16 and _HAS_GROUPED_PRODUCT


def _grouped_product(
    rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """(b, n, s) times (experts, b, s, c): rows before ends[r] with the weights of r.

    Or (n, s) times (experts, s, c).
    """
    b, n = rows[..., 0].shape if rows.dim() == 3 else (1, rows.shape[0])
    starts = n * torch.arange(b, device=rows.device)[:, None]
    if rows.dim() == 3:
        weights = weights.transpose(0, 1).flatten(0, 1)
    y = nn.functional.grouped_mm(
        rows.reshape(b * n, rows.shape[-1]),
        weights.contiguous(),
        offs=(starts + ends).flatten().to(torch.int32),
    )
    return y.reshape(*rows.shape[:-1], weights.shape[-1])


if _HAS_GROUPED_PRODUCT and torch.ops.aten._grouped_mm not in flop_registry:
    register_flop_formula(torch.ops.aten._grouped_mm)(
        lambda a, b, *shapes, **other: 2 * math.prod(a[-2:]) * b[-1]
    )
'''


def helpers(out: Writer, modules: Sequence[Module]) -> None:
    """What all routed classes of a file share, and the functions of their experts."""
    experts = [one for module in modules for one in module.experts]
    is_grouped = any(one.grouped is not None for one in experts)
    counter = "flop_registry, " * is_grouped + "register_flop_formula"
    out.lines_of(IMPORTS.format(counter=counter))
    for block in [HELPERS, GROUPED_HELPERS] if is_grouped else [HELPERS]:
        _blank(out)
        out.lines_of(block)
    for module in modules:
        for one in module.experts:
            _experts(out, module, one)


def _blank(out: Writer) -> None:
    out.line()
    out.line()


def _experts(out: Writer, module: Module, experts: Experts) -> None:
    _blank(out)
    out.comment(
        f"The experts of {module.name}. They have no second derivatives, and torch.func "
        "does not map over them."
    )
    _forward(out, experts)
    _blank(out)
    _backward(out, experts)
    _blank(out)
    _register(out, experts)
    if experts.grouped is not None:
        _blank(out)
        _grouped(out, experts, experts.grouped)
    _blank(out)
    _choice(out, experts)


def _signature(out: Writer, name: str, arguments: Sequence[str], returned: str) -> None:
    annotated = [f"{argument}: torch.Tensor" for argument in arguments]
    line = f"def {name}({', '.join(annotated)}) -> {returned}:"
    if out.fits(line):
        out.line(line)
        return
    out.call(f"def {name}(", annotated, f") -> {returned}:")


def _arguments(experts: Experts) -> list[str]:
    return ["x", "gates", "chosen", *(w.name for w in experts.weights)]


def _per_expert(experts: Experts) -> list[str]:
    return [w.name for w in experts.weights if w.per_expert]


def _loop(out: Writer, experts: Experts, buffers: dict[str, int]) -> None:
    """What forward and backward begin with, up to the tokens of one chunk."""
    for name in _per_expert(experts):
        out.call(f"{name} = _stacked(", [name])
    out.line(f"chunk = max(1, min({experts.chunk}, chosen.numel()))")
    for name, width in buffers.items():
        out.line(f"{name} = x.new_empty(chunk * {width})")


def _gather(out: Writer, target: str, source: str, width: int) -> None:
    space = f"_space(space_{target}, n, {width})"
    out.call(f"{target} = torch.index_select(", [source, "0", "tokens", f"out={space}"])


def _forward(out: Writer, experts: Experts) -> None:
    _signature(out, f"_forward_{experts.name}", _arguments(experts), "torch.Tensor")
    with out.indented():
        out.line(
            '"""For each token the sum of its experts\' results times its gates."""'
        )
        buffers = {"space_rows": max(experts.width_in, experts.width_out)}
        buffers |= _buffers(experts.forward)
        _loop(out, experts, buffers)
        out.line(f"total = x.new_zeros(x.shape[0], {experts.width_out})")
        groups = f"_by_expert(chosen, gates, {experts.count}, chunk)"
        with out.block(f"for r, _, tokens, gate in {groups}:"):
            out.line("n = len(tokens)")
            _gather(out, "rows", "x", experts.width_in)
            for one in experts.forward:
                assign(out, one)
            assign(out, Assign("rows", experts.result))
            out.line("total.index_add_(0, tokens, rows)")
        out.line("return total")


def _backward(out: Writer, experts: Experts) -> None:
    """The gradients, one output each."""
    weights = [w.name for w in experts.weights]
    returned = "list[torch.Tensor]"
    name = f"_backward_{experts.name}"
    _signature(out, name, [*_arguments(experts), "grad"], returned)
    with out.indented():
        out.line('"""The gradients of x, the gates and the weights."""')
        buffers = {
            "space_rows": experts.width_in,
            "space_scaled": experts.width_in,
            "space_grad_rows": experts.width_out,
        }
        buffers |= _buffers([*experts.again, *experts.backward])
        _loop(out, experts, buffers)
        out.line("grad_x = x.new_zeros(x.shape)")
        out.line("grad_gates = gates.new_empty(gates.numel())")
        for name in weights:
            out.call(f"grad_{name} = {name}.new_zeros(", [f"{name}.shape"])
        groups = f"_by_expert(chosen, gates, {experts.count}, chunk)"
        with out.block(f"for r, places, tokens, gate in {groups}:"):
            out.line("n = len(places)")
            _gather(out, "rows", "x", experts.width_in)
            _gather(out, "grad_rows", "grad", experts.width_out)
            scaled = f"out=_space(space_scaled, n, {experts.width_in})"
            out.call("scaled = torch.mul(", ["rows", "gate", scaled])
            for one in (*experts.again, *experts.backward):
                statement(out, one)
            assign(out, Assign("grad_gate", experts.gate_gradient))
            out.line("grad_gates[places] = grad_gate.to(gates.dtype)")
            assign(out, Assign("rows", experts.gradient))
            out.line("grad_x.index_add_(0, tokens, rows)")
        gradients = ["grad_x", "grad_gates.view(gates.shape)"]
        gradients += [f"grad_{name}" for name in weights]
        out.literal("return [", gradients, "]")


def _buffers(statements: Iterable[Assign | Accumulate]) -> dict[str, int]:
    """The buffers that products write to, and their elements a row of tokens."""
    found: dict[str, int] = {}
    for one in statements:
        value = one.value
        while isinstance(value, View):
            value = value.value
        if isinstance(value, Product) and value.out is not None:
            space = value.out
            found[space.buffer] = space.rows * -math.prod(space.shape)
    return found


def _register(out: Writer, experts: Experts) -> None:
    """The two functions as operators: their shapes, gradients and FLOPs."""
    name = experts.name
    digest = hashlib.sha256(repr(experts).encode()).hexdigest()[:12]
    out.line(f"def _shape_{name}(x, *others):")
    with out.indented():
        out.line(f"return x.new_empty(x.shape[0], {experts.width_out})")
    _blank(out)
    with out.block(f"def _gradients_{name}(ctx, grad):"):
        backward = f"_operator_backward_{name}(*ctx.saved_tensors, grad)"
        out.line(f"x, gates, *weights = {backward}")
        out.line("return x, gates, None, *weights")
    _blank(out)
    for pass_, shape, gradient, macs in (
        ("forward", f"_shape_{name}", f"_gradients_{name}", experts.macs),
        ("backward", "_shapes", "_second_derivative", experts.macs_backward),
    ):
        operator = f'"experts_{name}_{digest}_{pass_}"'
        arguments = [operator, f"_{pass_}_{name}", shape, gradient, str(macs)]
        out.call(f"_operator_{pass_}_{name} = _operator(", arguments)


def _grouped(out: Writer, experts: Experts, body: Sequence[Assign]) -> None:
    _signature(out, f"_grouped_{experts.name}", _arguments(experts), "torch.Tensor")
    with out.indented():
        out.line('"""The same for all experts at once, by grouped products."""')
        out.line("k = chosen.shape[1]")
        out.line("expert, order = chosen.flatten().sort(stable=True)")
        arange = f"torch.arange({experts.count}, device=x.device)"
        out.call("ends = torch.searchsorted(", ["expert", arange, "right=True"])
        out.line("rows = x.index_select(0, order // k)")
        for one in body:
            assign(out, one)
        assign(out, Assign("rows", experts.grouped_result))
        out.line("rows = rows.index_select(0, order.argsort())")
        out.line(f"rows = rows.reshape(-1, k, {experts.width_out}) * gates[:, :, None]")
        out.line("return rows.sum(1).to(x.dtype)")


def _choice(out: Writer, experts: Experts) -> None:
    name = experts.name
    _signature(out, f"_experts_{name}", _arguments(experts), "torch.Tensor")
    with out.indented():
        shapes = f"(n, {experts.width_in}) to (n, {experts.width_out})"
        out.line(f'"""{shapes}: what its experts make of each token, gated.')
        out.line()
        for weight in experts.weights:
            prefix = "expert, " * weight.per_expert
            out.line(f"{weight.name}: ({prefix}{weight.layout}).")
        out.line('"""')
        weights = [w.name for w in experts.weights]
        out.call("x, *weights = _cast(", ["x", *weights])
        arguments = ["x", "gates", "chosen", "*weights"]
        if experts.grouped is not None:
            with out.block("if _is_grouped(x):"):
                out.call(f"return _grouped_{name}(", arguments)
        out.call(f"return _operator_forward_{name}(", arguments)


def attributes(out: Writer, router: Router) -> None:
    """How many experts there are, and how many each token takes."""
    out.line(f"experts = {router.experts}")
    out.line(f"top = {router.top}")


FORWARD = """\
batch = x.shape[:-1]
x = x.reshape(-1, self.in_features)
y = self.contract(x, *self.route(x))
"""

GATES = """\
    best, chosen = logits.topk(self.top)
    gates = best.softmax(-1)
"""

GATES_OF_ONE = """\
    chosen = logits.topk(1).indices
    gates = logits.softmax(-1).gather(-1, chosen)  # so that the router learns
"""

ROUTE = '''\
def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gates, in float32 or wider, and the experts of each token: (n, top)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        logits = x.to(wide) @ self.router.to(wide).T
'''

METHODS = '''\
    if self.training:
        self._record(logits, chosen)
    return gates, chosen

def _record(self, logits: torch.Tensor, chosen: torch.Tensor) -> None:
    """Keeps the loss and the load of a batch, until the next."""
    n = max(logits.shape[0], 1)
    share = logits.softmax(-1).sum(0) / n
    chosen = chosen.flatten()
    ones = torch.ones_like(chosen, dtype=share.dtype)
    load = torch.zeros_like(share).index_add(0, chosen, ones) / (n * self.top)
    log_partition = logits.logsumexp(-1).square().sum() / n
    loss = self.experts * (share * load).sum() + 0.1 * log_partition
    if not _is_recomputing():
        self._loss, self._load = loss, load

def auxiliary_loss(self) -> torch.Tensor:
    """The balance and router loss of the latest forward in training mode.

    experts * sum(share of probability * share of tokens) + 0.1 * the mean squared
    log-partition. RuntimeError where it was read already, and in eval mode.
    """
    if self._loss is None:
        raise RuntimeError("no forward in training mode since the last reading")
    loss, self._loss = self._loss, None
    return loss

def routing_statistics(self) -> dict[str, object]:
    """Of the latest forward in training mode; RuntimeError without one.

    "load": each expert's share of the assignments; "entropy": the load's, in nats,
    log(experts) where it is even; "experts_in_use": those that had a token.
    """
    if self._load is None:
        raise RuntimeError("no forward in training mode yet")
    entropy = torch.special.entr(self._load).sum().item()
    in_use = int((self._load > 0).sum())
    return {"load": self._load, "entropy": entropy, "experts_in_use": in_use}

def train(self, mode: bool = True) -> nn.Module:
    """Changes the mode: the loss and the load of the batch before are gone."""
    self._loss = self._load = None
    return super().train(mode)

def __getstate__(self) -> dict[str, object]:
    """What is copied and pickled: not a loss, which has a graph."""
    return {**super().__getstate__(), "_loss": None, "_load": None}
'''

TO_DENSE = """\
gates = gates.to(eye.device).expand(self.in_features, -1)
chosen = torch.arange(self.experts, device=eye.device).expand_as(gates)
return self.contract(eye, gates, chosen).T
"""


def methods(out: Writer, router: Router) -> None:
    """Router, auxiliary loss, statistics, and what keeps them out of copies."""
    gates = GATES_OF_ONE if router.top == 1 else GATES
    out.lines_of(ROUTE + gates + METHODS)
