"""The names of one definition: what each stands for, and the faults found so far.

Parameters, indices and factors are one namespace: a name means one thing. The steps
of `resolve` share a `Scope` and add their faults to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cached_property

from einc import errors, syntax
from einc.errors import Diagnostics
from einc.expressions import (
    FEATURES,
    Growth,
    NoValue,
    feature_growths,
    growth,
    names_in,
)
from einc.source import Source, Span
from einc.structure import Parameter

SIZES_ARE = "sizes are made of numbers, parameters,"

_LONGEST_GUESS = 100


class Scope:
    """What is known of a definition while it is resolved."""

    def __init__(
        self,
        definition: syntax.Definition,
        source: Source,
        arguments: Mapping[str, Fraction],
    ) -> None:
        self.definition = definition
        self.source = source
        self.arguments = arguments
        self.faults = Diagnostics(source)
        self.kinds: dict[str, tuple[str, Span]] = {}
        self.clashes: set[tuple[str, str]] = set()
        self.equations = [
            s for s in definition.statements if isinstance(s, syntax.Equation)
        ]
        self.parameters = self._parameters()

    @property
    def values(self) -> dict[str, Growth]:
        """How what a size may name grows: the features and the parameters."""
        parameters = {p.name: p.growth for p in self.parameters.values()}
        return feature_growths() | parameters

    @property
    def size_names(self) -> list[str]:
        """What a size may name."""
        return [*(p.name.text for p in self.definition.params), *FEATURES]

    def reserved(self, name: syntax.Name, use: str) -> None:
        self.faults.add(
            errors.RESERVED_WORD,
            name.span,
            name=name.text,
            use=use,
            suggestion=syntax.instead_of(name.text),
        )

    def declare(self, name: syntax.Name, kind: str) -> None:
        if name.text in syntax.RESERVED:
            self.reserved(name, kind)
            return
        first = self.kinds.setdefault(name.text, (kind, name.span))
        if first[0] != kind and (name.text, kind) not in self.clashes:
            self.clashes.add((name.text, kind))
            self.faults.add(
                errors.NAME_CLASH,
                name.span,
                name=name.text,
                first=first[0],
                second=kind,
                note=(f"`{name.text}` is {first[0]} here", first[1]),
            )

    def _parameters(self) -> dict[str, Parameter]:
        parameters: dict[str, Parameter] = {}
        for param in self.definition.params:
            name = param.name
            if name.text in self.kinds:
                note = ("the first one is here", self.kinds[name.text][1])
                fault = errors.SAME_PARAM
                self.faults.add(fault, name.span, name=name.text, note=note)
                continue
            self.declare(name, "a parameter")
            if not self.knows(param.default, FEATURES, "defaults are made of numbers,"):
                continue
            value = param.default
            if name.text in self.arguments:
                value = _literal(self.arguments[name.text])
            try:
                grown = growth(value, feature_growths())
                parameters[name.text] = Parameter(name.text, value, grown)
            except NoValue as fault:
                span = param.default.span
                if value is param.default:
                    span = fault.expr.span
                self.faults.add(fault.fault, span, **fault.values)
        return parameters

    def knows(self, expr: syntax.Expr, known: Iterable[str], made_of: str) -> bool:
        """Whether `expr` uses known names alone; a fault for each other one."""
        known = list(known)
        good = True
        for variable in names_in(expr):
            if variable.name in known:
                continue
            good = False
            kind = self.kinds.get(variable.name, ("",))[0]
            self.faults.add(
                errors.UNKNOWN_NAME,
                variable.span,
                name=variable.name,
                because=f": it is {kind}" if kind else "",
                advice=f"{made_of} `d_in`, `d_out` and `d`"
                + did_you_mean(variable.name, known),
            )
        return good

    @cached_property
    def refs(self) -> list[syntax.Ref]:
        """All places of tensors."""
        return [r for e in self.equations for r in (e.left, *e.right)]

    @cached_property
    def all_indices(self) -> list[str]:
        return list(dict.fromkeys(i.text for r in self.refs for i in r.indices))

    @cached_property
    def all_names(self) -> set[str]:
        """Those of tensors, indices and parameters."""
        tensors = {r.tensor.text for r in self.refs}
        return tensors.union(self.all_indices, self.parameters)

    def index_known(self, name: syntax.Name) -> bool:
        # Without an equation that is the fault, not every name that is used.
        if name.text in self.all_indices or not self.equations:
            return bool(self.equations)
        if name.text in syntax.RESERVED:
            self.reserved(name, "an index")
            return False
        advice = self.what_it_is(name.text, self.all_indices)
        self.faults.add(errors.UNKNOWN_INDEX, name.span, name=name.text, advice=advice)
        return False

    def what_it_is(self, name: str, known: list[str]) -> str:
        if name in self.kinds:
            return f"`{name}` is {self.kinds[name][0]}"
        return did_you_mean(name, known).removeprefix("; ")


def inputs_of(equation: syntax.Equation) -> list[syntax.Ref]:
    """The places of x in an equation."""
    return [r for r in equation.right if r.tensor.text == "x"]


def first_place(equation: syntax.Equation, index: str) -> Span:
    """Where an index stands first on the right."""
    places = [i.span for r in equation.right for i in r.indices if i.text == index]
    return places[0]


def _literal(value: Fraction) -> syntax.Expr:
    """A number as an expression of the language."""
    top: syntax.Expr = syntax.Number(str(abs(value.numerator)))
    if value.denominator != 1:
        top = syntax.Binary("/", top, syntax.Number(str(value.denominator)))
    return top if value >= 0 else syntax.Binary("-", syntax.Number("0"), top)


def listed(names: list[str]) -> str:
    """Names in backquotes, as an English list."""
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message that offers the nearest known name, or nothing."""
    if len(name) > _LONGEST_GUESS:
        return ""
    near = [k for k in known if abs(len(k) - len(name)) < len(name)]
    close = difflib.get_close_matches(name, near, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""
