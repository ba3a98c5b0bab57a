"""The routed part of a generated file: router, grouping, the experts' functions.

In: `Module`s and their `Experts`. Out: text. Experts are two operators, forward and
backward, since torch.compile cannot trace what depends on how many tokens an expert
has. They are defined once in a process and stay: torch frees what is defined anew.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

from einc import __version__
from einc.codegen import runtime
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


def helpers(out: Writer, modules: Sequence[Module]) -> None:
    """What all routed classes of a file share, and the functions of their experts."""
    experts = [one for module in modules for one in module.experts]
    is_grouped = any(one.grouped is not None for one in experts)
    counter = "flop_registry, " * is_grouped + "register_flop_formula"
    out.lines_of(runtime.IMPORTS.format(counter=counter))
    blocks = [runtime.HELPERS] + [runtime.GROUPED_HELPERS] * is_grouped
    for block in blocks:
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
        f"The experts of {module.name}. They have first derivatives by backward alone: "
        "no second, no forward-mode ones, and none by torch.func."
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
            out.call(f"grad_{name} = _total(", [name])
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
        gradients += [f"grad_{name}.to({name}.dtype)" for name in weights]
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
    # Another version of einc may write other code for the same experts.
    digest = hashlib.sha256(repr((__version__, experts)).encode()).hexdigest()[:12]
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
        out.line("_refuse_tangents(x, gates, *weights)")
        out.call(f"return _operator_forward_{name}(", arguments)


def attributes(out: Writer, router: Router) -> None:
    """How many experts there are, and how many each token takes."""
    out.line(f"experts = {router.experts}")
    out.line(f"top = {router.top}")


def methods(out: Writer, router: Router) -> None:
    """Router, auxiliary loss and statistics."""
    gates = runtime.GATES_OF_ONE if router.top == 1 else runtime.GATES
    out.lines_of(runtime.ROUTE + gates + runtime.METHODS)
