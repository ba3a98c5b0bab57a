"""The syntax tree: what was written, one class for each rule of grammar/ein.lark.

`Spec` is what the parser returns; `unparse` prints it (or any node of it) back in
one canonical layout, without comments, so that parsing what it prints gives an
equal tree. Spans do not take part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, assert_never

from einc.source import Span

_SPAN = field(compare=False, repr=False, default=Span(0, 0))

RESERVED = frozenset(
    ["structure", "route", "top", "normalize", "all", "min", "max", "sqrt"]
    + ["x", "y", "d_in", "d_out", "d"]
)


def instead_of(reserved: str) -> str:
    """A name to suggest instead of a reserved word."""
    return "rank" if reserved == "d" else f"{reserved}_"


@dataclass(frozen=True)
class Name:
    """An identifier where it stands."""

    text: str
    span: Span = _SPAN


@dataclass(frozen=True)
class Number:
    """A number as it was written; `value` is exact."""

    text: str
    span: Span = _SPAN

    @property
    def value(self) -> Fraction:
        return Fraction(self.text)


@dataclass(frozen=True)
class Variable:
    """A parameter, or one of `d_in`, `d_out` and `d`."""

    name: str
    span: Span = _SPAN


@dataclass(frozen=True)
class Binary:
    operator: Literal["+", "-", "*", "/", "^"]
    left: Expr
    right: Expr
    span: Span = _SPAN


@dataclass(frozen=True)
class Call:
    function: Literal["min", "max", "sqrt"]
    arguments: tuple[Expr, ...]
    span: Span = _SPAN


Expr = Number | Variable | Binary | Call


@dataclass(frozen=True)
class Ref:
    """A tensor with its indices: `A[g, a]`."""

    tensor: Name
    indices: tuple[Name, ...]
    span: Span = _SPAN


@dataclass(frozen=True)
class Equation:
    left: Ref
    operator: Literal["=", "+="]
    right: tuple[Ref, ...]
    span: Span = _SPAN


@dataclass(frozen=True)
class Sizes:
    indices: tuple[Name, ...]
    operator: Literal["=", "~"]
    expr: Expr
    span: Span = _SPAN


@dataclass(frozen=True)
class Route:
    index: Name
    top: Expr
    span: Span = _SPAN


@dataclass(frozen=True)
class Normalize:
    """The factors named, or all of them (`factors` is None)."""

    factors: tuple[Name, ...] | None
    span: Span = _SPAN


Statement = Equation | Sizes | Route | Normalize


@dataclass(frozen=True)
class Param:
    name: Name
    default: Expr
    span: Span = _SPAN


@dataclass(frozen=True)
class Definition:
    """One `structure NAME(...) { ... }`."""

    name: Name
    params: tuple[Param, ...]
    doc: str | None
    statements: tuple[Statement, ...]
    span: Span = _SPAN


@dataclass(frozen=True)
class Spec:
    """A whole file."""

    definitions: tuple[Definition, ...]
    span: Span = _SPAN


Node = Spec | Definition | Param | Statement | Ref | Expr | Name


def unparse(node: Node) -> str:
    """Prints a node back as .ein text (a statement or smaller: on one line).

    >>> unparse(Ref(Name("A"), (Name("g"), Name("a"))))
    'A[g, a]'
    """
    match node:
        case Spec():
            return "\n".join(unparse(d) for d in node.definitions)
        case Definition():
            return _definition(node)
        case Param():
            return f"{node.name.text} = {unparse(node.default)}"
        case Equation():
            right = " * ".join(unparse(r) for r in node.right)
            return f"{unparse(node.left)} {node.operator} {right}"
        case Sizes():
            return f"{_names(node.indices)} {node.operator} {unparse(node.expr)}"
        case Route():
            return f"route {node.index.text} top {unparse(node.top)}"
        case Normalize():
            named = "all" if node.factors is None else _names(node.factors)
            return f"normalize {named}"
        case Ref():
            return f"{node.tensor.text}[{_names(node.indices)}]"
        case Name():
            return node.text
        case Number() | Variable() | Binary() | Call():
            return _expr(node)[0]
        case _:
            assert_never(node)


def _names(names: tuple[Name, ...]) -> str:
    return ", ".join(n.text for n in names)


def _definition(node: Definition) -> str:
    params = ", ".join(unparse(p) for p in node.params)
    head = f"structure {node.name.text}" + (f"({params})" if params else "")
    lines = [] if node.doc is None else [f'  "{node.doc}"', ""]
    previous: type | None = None
    for statement in node.statements:
        if previous is not None and type(statement) is not previous:
            lines.append("")
        previous = type(statement)
        lines.append(f"  {unparse(statement)}")
    return head + " {\n" + "".join(f"{line}\n" for line in lines) + "}\n"


_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 3}
_ATOM = 4


def _expr(node: Expr) -> tuple[str, int, bool]:
    """Text, precedence, and whether the text ends in `^` and a bare exponent.

    The last says where `a^1` must be bracketed before `/`, since `a^1/2` is
    refused as a likely mistake.
    """
    match node:
        case Number():
            return node.text, _ATOM, False
        case Variable():
            return node.name, _ATOM, False
        case Call():
            arguments = ", ".join(_expr(a)[0] for a in node.arguments)
            return f"{node.function}({arguments})", _ATOM, False
        case Binary(operator="^"):
            base, base_precedence, _ = _expr(node.left)
            exponent, exponent_precedence, _ = _expr(node.right)
            bare = isinstance(node.right, Number | Variable)
            if base_precedence < _ATOM:
                base = f"({base})"
            if exponent_precedence < _ATOM or not bare:
                exponent = f"({exponent})"
            return f"{base}^{exponent}", _PRECEDENCE["^"], bare
        case Binary():
            own = _PRECEDENCE[node.operator]
            left, left_precedence, left_bare = _expr(node.left)
            right, right_precedence, right_bare = _expr(node.right)
            if left_precedence < own or (node.operator == "/" and left_bare):
                left = f"({left})"
            if right_precedence <= own:
                right, right_bare = f"({right})", False
            space = "" if own == _PRECEDENCE["/"] and node.operator == "/" else " "
            return f"{left}{space}{node.operator}{space}{right}", own, right_bare
        case _:
            assert_never(node)
