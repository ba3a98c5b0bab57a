"""What can be wrong with the equations of a definition, as far as names go."""

from __future__ import annotations

from einc import attributes, errors, syntax
from einc.scope import Scope, inputs_of
from einc.source import Span

MAX_FACTORS = 12
MAX_INDICES = 26
MAX_TERMS = 8


def check_equations(scope: Scope) -> None:
    """Faults of the equations; declares their factors and indices."""
    name = scope.definition.name
    if not scope.equations:
        scope.faults.add(errors.NO_EQUATION, name.span, name=name.text)
    if len(scope.equations) > MAX_TERMS:
        span = scope.equations[MAX_TERMS].span
        _limit(scope, span, "too many terms", f"{MAX_TERMS} in a structure")
    uses: dict[str, syntax.Ref] = {}
    for number, equation in enumerate(scope.equations):
        _equation(scope, equation, first=number == 0)
        for ref in equation.right:
            if ref.tensor.text in syntax.RESERVED:
                continue
            before = uses.setdefault(ref.tensor.text, ref)
            if len(before.indices) != len(ref.indices):
                scope.faults.add(
                    errors.USES_DISAGREE,
                    ref.span,
                    name=ref.tensor.text,
                    here=_indices_of(ref),
                    there=_indices_of(before),
                    note=("the first use is here", before.span),
                )


def _limit(scope: Scope, span: Span, what: str, limit: str, advice: str = "") -> None:
    scope.faults.add(errors.LIMIT, span, what=what, limit=limit, advice=advice)


def _equation(scope: Scope, equation: syntax.Equation, first: bool) -> None:
    left = equation.left
    if left.tensor.text != "y":
        span = left.tensor.span
        scope.faults.add(errors.LEFT_NOT_Y, span, name=left.tensor.text)
    if first and equation.operator == "+=":
        scope.faults.add(errors.ADD_BEFORE_SET, equation.span)
    if not first and equation.operator == "=":
        note = ("the first term is here", scope.equations[0].span)
        scope.faults.add(errors.SECOND_SET, equation.span, note=note)
    inputs = inputs_of(equation)
    if not inputs:
        scope.faults.add(errors.NO_X, equation.span)
    for ref in inputs[1:]:
        note = ("the first one is here", inputs[0].span)
        scope.faults.add(errors.TWO_X, ref.span, note=note)
    factors = [r for r in equation.right if r.tensor.text not in ("x", "y")]
    if len(factors) > MAX_FACTORS:
        span = factors[MAX_FACTORS].span
        _limit(scope, span, "too many factors", f"{MAX_FACTORS} in a term")
    for ref in equation.right:
        if ref.tensor.text == "y":
            scope.faults.add(errors.Y_ON_RIGHT, ref.span)
        elif ref.tensor.text != "x":
            _factor_name(scope, ref.tensor)
    for ref in (left, *equation.right):
        _indices(scope, ref)
    indices: dict[str, syntax.Name] = {}
    for index in (i for r in (left, *equation.right) for i in r.indices):
        indices.setdefault(index.text, index)
    if len(indices) > MAX_INDICES:
        span = list(indices.values())[MAX_INDICES].span
        _limit(scope, span, "too many indices", f"{MAX_INDICES} in a term")
    on_right = {i.text for r in equation.right for i in r.indices}
    for index in left.indices:
        if index.text not in on_right:
            fault = errors.OUTPUT_FROM_NOWHERE
            scope.faults.add(fault, index.span, name=index.text)


def _factor_name(scope: Scope, name: syntax.Name) -> None:
    reason = attributes.why_refused(name.text)
    if reason is not None:
        suggestion, taken = name.text.capitalize(), scope.all_names
        while suggestion in taken or attributes.why_refused(suggestion):
            suggestion = f"{suggestion}_"
        scope.faults.add(
            errors.REFUSED_NAME,
            name.span,
            name=name.text,
            reason=reason,
            suggestion=suggestion,
        )
    scope.declare(name, "a factor")


def _indices(scope: Scope, ref: syntax.Ref) -> None:
    seen: set[str] = set()
    for index in ref.indices:
        scope.declare(index, "an index")
        if index.text in seen:
            scope.faults.add(
                errors.INDEX_TWICE,
                index.span,
                name=index.text,
                tensor=syntax.unparse(ref),
            )
        seen.add(index.text)


def _indices_of(ref: syntax.Ref) -> str:
    count = len(ref.indices)
    return f"{count} index" if count == 1 else f"{count} indices"
