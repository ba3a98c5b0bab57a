"""Statements and values of generated code as lines of Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from einc.codegen.nodes import (
    Accumulate,
    Assign,
    Attribute,
    ChunksCall,
    Contiguous,
    Cut,
    ExpertsCall,
    ExpertWeight,
    GroupedProduct,
    Local,
    Normalized,
    Pad,
    Permute,
    Product,
    Reshape,
    Space,
    Sum,
    Value,
    View,
)
from einc.codegen.writer import Writer


def assign(out: Writer, statement: Assign) -> None:
    """`target = value`: a chain of calls too long for a line becomes one line each."""
    for comment in statement.comment.splitlines():
        out.comment(comment)
    target, value = statement.target, statement.value
    line = f"{target} = {expression(value)}"
    layout = f"  # {statement.layout}" * bool(statement.layout)
    if out.fits(line + layout):
        out.line(line + layout)
        return
    if layout:
        out.comment(f"{target}: {statement.layout}")
    if out.fits(line):
        out.line(line)
    elif isinstance(value, Product) and _is_operator(value):
        _long_operator(out, target, value)
    elif not isinstance(value, View) or isinstance(value.value, Local):
        if isinstance(value, Product | GroupedProduct):
            value = replace(
                value,
                left=_short(out, "left", value.left),
                right=_short(out, "right", value.right),
            )
        head, arguments, tail = _parts(value)
        out.call(f"{target} = {head}", arguments, tail)
    else:
        assign(out, Assign(target, value.value))
        assign(out, Assign(target, replace(value, value=Local(target))))


def statement(out: Writer, value: Assign | Accumulate) -> None:
    """One line, or more where it is too long for one."""
    if isinstance(value, Assign):
        assign(out, value)
        return
    gradient, added = expression(value.gradient), value.value
    if isinstance(added, Product) and added.out is None:
        left, right = expression(added.left), expression(added.right)
        if not out.fits(f"_add_product({gradient}, {left}, {right})"):
            left = expression(_short(out, "left", added.left))
            right = expression(_short(out, "right", added.right))
        out.call("_add_product(", [gradient, left, right])
    else:
        out.call(f"{gradient}.add_(", [expression(added)])


def _short(out: Writer, name: str, value: Value) -> Value:
    """An operand, under a name of its own where it is too long for a line."""
    if out.fits(f"    {expression(value)},"):
        return value
    assign(out, Assign(name, value))
    return Local(name)


def _long_operator(out: Writer, target: str, value: Product) -> None:
    left, right = expression(value.left), expression(value.right)
    operator = _OPERATORS[value.kind]
    with out.block(f"{target} = ("):
        if out.fits(f"{left} {operator} {right}"):
            out.line(f"{left} {operator} {right}")
        else:
            out.line(left)
            out.line(f"{operator} {right}")
    out.line(")")


_OPERATORS = {"matmul": "@", "multiply": "*", "add": "+"}
_FUNCTIONS = {"matmul": "torch.mm", "bmm": "torch.bmm", "multiply": "torch.mul"}


def _is_operator(value: Product) -> bool:
    return value.kind in _OPERATORS and value.out is None and value.bias is None


def expression(value: Value) -> str:
    """A value as Python."""
    if isinstance(value, Product) and _is_operator(value):
        operator = _OPERATORS[value.kind]
        return f"{expression(value.left)} {operator} {expression(value.right)}"
    head, arguments, tail = _parts(value)
    return f"{head}{', '.join(arguments)}{tail}"


def _parts(value: Value) -> tuple[str, list[str], str]:
    """What stands before, between and after the parentheses of a call; or a name."""
    match value:
        case Local():
            return value.name, [], ""
        case Attribute():
            return f"self.{value.name}", [], ""
        case ExpertWeight():
            index = "expert" if value.of_each_token else "r"
            return f"{value.name}[{index}]", [], ""
        case Normalized():
            factor = f"self.{value.name}"
            return (
                "self.normalized(",
                [factor, f"{factor}_scale", f"{value.std!r}"],
                ")",
            )
        case Product(kind="matmul", bias=tuple()):
            arguments = [expression(value.left), f"{expression(value.right)}.T", "bias"]
            return "nn.functional.linear(", arguments, ")"
        case Product(bias=tuple() as shape):
            arguments = ["bias", f"({', '.join(map(str, shape))})"]
            _, factors, _ = _parts(replace(value, bias=None))
            return "_biased(", [*arguments, *factors], ")"
        case Product(kind="expanded"):
            left, right = expression(value.left), expression(value.right)
            return (
                "torch.bmm(",
                [f"{left}.expand({right}.shape[0], -1, -1)", right],
                ")",
            )
        case Product():
            arguments = [expression(value.left), expression(value.right)]
            if value.out is not None:
                arguments.append(f"out={_space(value.out)}")
            return f"{_FUNCTIONS[value.kind]}(", arguments, ")"
        case GroupedProduct():
            ends = "ends" if value.rows == 1 else f"{value.rows} * ends"
            arguments = [expression(value.left), expression(value.right), ends]
            return "_grouped_product(", arguments, ")"
        case ExpertsCall():
            weights = [expression(weight) for weight in value.weights]
            arguments = [value.source.name, "gates", "chosen", *weights]
            return f"_experts_{value.experts}(", arguments, ")"
        case ChunksCall():
            bias = "bias" if value.biased else "None"
            arguments = ["type(self)", bias, value.source.name]
            arguments += [expression(weight) for weight in value.weights]
            return "_in_chunks(", arguments, ")"
        case Reshape():
            return f"{expression(value.value)}.reshape(", _ints(value.shape), ")"
        case Permute():
            return f"{expression(value.value)}.permute(", _ints(value.order), ")"
        case Contiguous():
            return f"{expression(value.value)}.contiguous(", [], ")"
        case Sum():
            return f"{expression(value.value)}.sum(", [_tuple(value.dims)], ")"
        case Pad():
            amount = f"(0, {value.amount})"
            return "nn.functional.pad(", [expression(value.value), amount], ")"
        case Cut():
            return f"{expression(value.value)}[", [":", f":{value.size}"], "]"
        case _:
            assert_never(value)


def _space(space: Space) -> str:
    """A buffer's head, in a shape: n rows of tokens, or some for each."""
    tokens = "n" if space.rows == 1 else f"{space.rows} * n"
    shape = ", ".join(tokens if size == -1 else str(size) for size in space.shape)
    return f"_space({space.buffer}, {shape})"


def _ints(values: Sequence[int]) -> list[str]:
    """The arguments of reshape or permute; none are an empty tuple."""
    return [str(value) for value in values] or ["()"]


def _tuple(values: Sequence[int]) -> str:
    """The dimensions of a sum: one alone needs no tuple."""
    return str(values[0]) if len(values) == 1 else f"({', '.join(map(str, values))})"
