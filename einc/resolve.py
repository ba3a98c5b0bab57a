"""Syntax to meaning: one definition and its arguments to a `Structure`.

All faults of a definition are found in one go and raised together as a `SpecError`.
What needs the numbers of features (sizes that do not fit) is found later, in
`sizes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from einc import errors, statements, syntax
from einc.equations import check_equations
from einc.errors import Diagnostic, Diagnostics, UsageError
from einc.expressions import Growth
from einc.lint import lint
from einc.scope import Scope, did_you_mean, first_place, inputs_of, listed
from einc.source import Source, Span
from einc.structure import (
    Axis,
    Factor,
    Operand,
    Size,
    Structure,
    Term,
    role_of,
    verify,
)

MAX_DIGITS = 30


def check_names(spec: syntax.Spec, source: Source) -> list[Diagnostic]:
    """Faults between the definitions of a file: two of one name."""
    faults = Diagnostics(source)
    first: dict[str, Span] = {}
    for definition in spec.definitions:
        name = definition.name
        if name.text in first:
            note = ("the first one is here", first[name.text])
            faults.add(errors.SAME_STRUCTURE, name.span, name=name.text, note=note)
        first.setdefault(name.text, name.span)
    return faults.errors


def resolve(
    definition: syntax.Definition,
    source: Source,
    arguments: Mapping[str, Fraction] | None = None,
) -> Structure:
    """The meaning of `definition` with `arguments` in place of its defaults.

    Raises `UsageError` for an argument that is no parameter and `SpecError` for
    the faults of the definition.
    """
    arguments = dict(arguments or {})
    known = [p.name.text for p in definition.params]
    for name, value in arguments.items():
        if name not in known:
            raise UsageError(_unknown_parameter(definition.name.text, name, known))
        if max(abs(value.numerator), value.denominator) >= 10**MAX_DIGITS:
            raise UsageError(f"`{name}`: at most {MAX_DIGITS} digits")
    scope = Scope(definition, source, arguments)
    if definition.name.text in syntax.RESERVED:
        scope.reserved(definition.name, "the name of a structure")
    check_equations(scope)
    structure = _structure(scope)
    lint(structure, scope.faults)
    structure = replace(structure, warnings=scope.faults.warnings)
    verify(structure)
    return structure


def _structure(scope: Scope) -> Structure:
    """What the statements say, and the terms with their sizes."""
    sizes = statements.size_statements(scope)
    route = statements.route(scope)
    normalized = statements.normalized(scope)
    growths = statements.growths_of(scope, sizes)
    for equation in scope.equations:
        for ref in (equation.left, *inputs_of(equation)):
            statements.check_exponent_sum(scope, ref, sizes, growths)
    is_sound = not scope.faults.errors
    statements.check_constants(scope, sizes, growths, route)
    if not is_sound:
        scope.faults.stop_on_errors()
    terms = tuple(_term(equation, sizes, growths) for equation in scope.equations)
    _one_growth(scope, terms)
    _same_rest(scope, terms)
    _tied_growth(scope, terms)
    scope.faults.stop_on_errors()
    return Structure(
        scope.definition.name.text,
        tuple(scope.parameters.values()),
        terms,
        route,
        normalized,
        scope.definition,
        scope.source,
    )


def _unknown_parameter(structure: str, name: str, known: list[str]) -> str:
    if not known:
        return f"structure `{structure}` has no parameters, so no `{name}`"
    return (
        f"structure `{structure}` has no parameter `{name}`; it has {listed(known)}"
        + did_you_mean(name, known)
    )


def _term(
    equation: syntax.Equation,
    sizes: Mapping[str, syntax.Sizes],
    growths: Mapping[str, Growth],
) -> Term:
    (input_ref,) = inputs_of(equation)
    in_names = [i.text for i in input_ref.indices]
    out_names = [i.text for i in equation.left.indices]
    axes: dict[str, Axis] = {}
    for ref in (equation.left, *equation.right):
        for index in ref.indices:
            name = index.text
            role = role_of(name in in_names, name in out_names)
            size = _size(name, sizes, growths, (in_names, out_names))
            axes.setdefault(name, Axis(name, role, size))
    return Term(
        tuple(axes[n] for n in in_names),
        tuple(axes[n] for n in out_names),
        tuple(
            Operand(Factor(r.tensor.text), tuple(axes[i.text] for i in r.indices))
            for r in equation.right
            if r is not input_ref
        ),
        equation,
    )


def _size(
    name: str,
    sizes: Mapping[str, syntax.Sizes],
    growths: Mapping[str, Growth],
    sides: tuple[list[str], list[str]],
) -> Size:
    statement = sizes.get(name)
    if statement is not None:
        expr, grown = statement.expr, growths[name]
        exact = statement.operator == "=" or grown.is_one
        return Size("exact" if exact else "grows", expr, grown, expr.span)
    side = next(s for s in sides if name in s)
    exponent = 1 - sum((growths[n].exponent for n in side if n != name), Fraction(0))
    # The constant of what is left is not asked for by anybody.
    return Size("rest", None, Growth(1, exponent, None), Span(0, 0))


def _one_growth(scope: Scope, terms: tuple[Term, ...]) -> None:
    """An index without a statement takes as much in every term."""
    first: dict[str, Axis] = {}
    for term in terms:
        for axis in term.axes:
            before = first.setdefault(axis.name, axis)
            if before.theta != axis.theta:
                scope.faults.add(
                    errors.CONTRADICTION,
                    first_place(term.equation, axis.name),
                    name=axis.name,
                    here=axis.theta,
                    there=before.theta,
                )


def _same_rest(scope: Scope, terms: tuple[Term, ...]) -> None:
    """An index without a statement on both sides takes as much on either."""
    for term in terms:
        refs = (*inputs_of(term.equation), term.equation.left)
        for side, ref in zip(term.sides, refs, strict=True):
            total = sum((axis.theta for axis in side), Fraction(0))
            if total != 1 and any(axis.size.kind == "rest" for axis in side):
                statements.wrong_sum(scope, ref, {a.name: a.theta for a in side})


def _tied_growth(scope: Scope, terms: tuple[Term, ...]) -> None:
    """The indices of a factor grow alike, wherever it stands."""
    first: dict[Factor, Operand] = {}
    for term in terms:
        for operand in term.operands:
            before = first.setdefault(operand.factor, operand)
            for here, there in zip(operand.axes, before.axes, strict=True):
                if here.theta == there.theta:
                    continue
                refs = [r for r in term.equation.right if r.tensor.text == operand.name]
                scope.faults.add_once(
                    errors.TIED_GROWTH,
                    refs[-1].span,
                    name=operand.name,
                    here=here.name,
                    now=here.theta,
                    there=there.name,
                    before=there.theta,
                )
