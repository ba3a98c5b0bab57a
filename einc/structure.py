"""What a spec means: terms, factors by identity, axes with roles and sizes.

`resolve` makes a `Structure` from a definition and its arguments; everything later
(sizes, plan, analysis, code) reads it and nothing else. It still knows the text it
came from, so that what is found later (sizes that do not fit) points there too.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from einc import syntax
from einc.errors import Diagnostic, Diagnostics, InternalError
from einc.expressions import Growth, Value, evaluate
from einc.source import Source, Span


class Role(enum.Enum):
    """Where an axis stands in its term."""

    INPUT = "input"
    OUTPUT = "output"
    BOTH = "both"
    INNER = "inner"


@dataclass(frozen=True)
class Size:
    """How the size of an axis is laid down.

    "exact": the value of `expr`; "grows": near the value of `expr`; "rest": what
    the other sizes of its side leave (`expr` is None). `growth` is along
    d_in = d_out = d.
    """

    kind: Literal["exact", "grows", "rest"]
    expr: syntax.Expr | None
    growth: Growth
    span: Span


@dataclass(frozen=True)
class Axis:
    """An index of a term. Within a structure it is known by its name and has one
    size; its role is that in its term."""

    name: str
    role: Role = field(compare=False)
    size: Size = field(compare=False, repr=False)

    @property
    def theta(self) -> Fraction:
        """The exponent with which its size grows along d_in = d_out = d."""
        return self.size.growth.exponent


@dataclass(frozen=True)
class Factor:
    """A learned tensor, however often it stands in the equations."""

    name: str


@dataclass(frozen=True)
class Operand:
    """One use of a factor in a term, with the axes it has there."""

    factor: Factor
    axes: tuple[Axis, ...]

    @property
    def name(self) -> str:
        return self.factor.name


@dataclass(frozen=True)
class Term:
    """One equation: how x and y split, and the factors between them."""

    input: tuple[Axis, ...]
    output: tuple[Axis, ...]
    operands: tuple[Operand, ...]
    equation: syntax.Equation = field(compare=False, repr=False)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All axes, in the order of their first place on the right."""
        tensors = (self.input, *(o.axes for o in self.operands))
        return tuple(dict.fromkeys(axis for axes in tensors for axis in axes))

    @property
    def sides(self) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        return self.input, self.output


@dataclass(frozen=True)
class Route:
    """The summed index that is an expert index, and how many of it a token takes."""

    index: str
    top: syntax.Expr
    growth: Growth
    span: Span


@dataclass(frozen=True)
class Parameter:
    """A parameter and what it stands for: its argument, or its default."""

    name: str
    value: syntax.Expr
    growth: Growth

    @property
    def text(self) -> str:
        """As written; a negative constant as a number, for which the language has a
        difference.
        """
        if self.growth.is_constant and self.growth.coefficient < 0:
            return str(self.growth.coefficient)
        return syntax.unparse(self.value)


@dataclass(frozen=True)
class Structure:
    """A structured linear map, its sizes still as written."""

    name: str
    parameters: tuple[Parameter, ...]
    terms: tuple[Term, ...]
    route: Route | None
    normalized: tuple[str, ...]
    definition: syntax.Definition = field(repr=False)
    source: Source = field(repr=False)
    warnings: tuple[Diagnostic, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        return syntax.unparse(self.definition)

    @property
    def factors(self) -> tuple[Operand, ...]:
        """The distinct factors, each by its first use, in the order written."""
        first: dict[Factor, Operand] = {}
        for term in self.terms:
            for operand in term.operands:
                first.setdefault(operand.factor, operand)
        return tuple(first.values())

    @property
    def tied(self) -> tuple[str, ...]:
        """The names of the factors that stand more than once."""
        uses = [operand.name for term in self.terms for operand in term.operands]
        return tuple(f.name for f in self.factors if uses.count(f.name) > 1)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The distinct axes by name, in the order written."""
        first: dict[str, Axis] = {}
        for term in self.terms:
            for axis in term.axes:
                first.setdefault(axis.name, axis)
        return tuple(first.values())

    @property
    def equations(self) -> tuple[str, ...]:
        return tuple(syntax.unparse(term.equation) for term in self.terms)

    @property
    def arguments(self) -> dict[str, str]:
        """What each parameter stands for, as text."""
        return {p.name: p.text for p in self.parameters}

    def fixed_features(self, side: Literal[0, 1]) -> int | None:
        """The features of a side (0 the input, 1 the output) that sizes alone fix.

        None where the side grows with d in every term; of several fixed terms the
        smallest, since a term pads but never drops.
        """
        fixed = [
            math.prod(int(axis.size.growth.coefficient) for axis in term.sides[side])
            for term in self.terms
            if all(is_constant(axis) for axis in term.sides[side])
        ]
        return min(fixed, default=None)

    @property
    def grows(self) -> bool:
        """Whether both sides grow with d, so that the structure has exponents."""
        return self.fixed_features(0) is None and self.fixed_features(1) is None

    @property
    def routed(self) -> str | None:
        """The name of the routed index, if there is one."""
        return None if self.route is None else self.route.index

    def active_theta(self, axis: Axis) -> Fraction:
        """The exponent of an axis for one token: that of `top` where it is routed."""
        if self.route is not None and axis.name == self.route.index:
            return self.route.growth.exponent
        return axis.theta

    def scope(self, d_in: Fraction, d_out: Fraction) -> dict[str, Value]:
        """The values of all names that a size may use, at `d_in` x `d_out`."""
        features: dict[str, Value] = {"d_in": d_in, "d_out": d_out}
        features["d"] = min(d_in, d_out)
        values = dict(features)
        for parameter in self.parameters:
            values[parameter.name] = evaluate(parameter.value, features)
        return values

    def diagnostics(self) -> Diagnostics:
        """An empty collection of faults in this structure's text."""
        return Diagnostics(self.source)


def is_constant(axis: Axis) -> bool:
    """Whether the size is exact and does not grow with d."""
    return axis.size.kind == "exact" and axis.size.growth.is_constant


def verify(structure: Structure) -> None:
    """Raises `InternalError` where a structure breaks what later stages rely on."""
    if not structure.terms:
        raise InternalError("a structure without a term")
    for term in structure.terms:
        on_right = {a for o in term.operands for a in o.axes} | set(term.input)
        for axis in term.output:
            if axis not in on_right:
                raise InternalError(f"output axis {axis.name} comes from nowhere")
        roles = {axis: axis.role for axis in on_right}
        for axis, role in roles.items():
            expected = _ROLES[axis in term.input, axis in term.output]
            if role is not expected:
                raise InternalError(f"axis {axis.name} is {role}, not {expected}")
    names = [axis.name for axis in structure.axes]
    if structure.route is not None and structure.route.index not in names:
        raise InternalError(f"no axis {structure.route.index} to route")


_ROLES: Mapping[tuple[bool, bool], Role] = {
    (True, False): Role.INPUT,
    (False, True): Role.OUTPUT,
    (True, True): Role.BOTH,
    (False, False): Role.INNER,
}


def role_of(in_input: bool, in_output: bool) -> Role:
    """The role of an axis by whether x and y have it."""
    return _ROLES[in_input, in_output]
