"""The statements beside the equations: sizes, `route` and `normalize`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from einc import errors, syntax
from einc.expressions import Growth, NoValue, growth, names_in, shown, whole
from einc.scope import SIZES_ARE, Scope, inputs_of, listed
from einc.source import Span
from einc.structure import Route

Statements = Mapping[str, syntax.Sizes]
Growths = Mapping[str, Growth]


def size_statements(scope: Scope) -> dict[str, syntax.Sizes]:
    """The statement of each index that has one; faults where one is missing."""
    statements: dict[str, syntax.Sizes] = {}
    places: dict[str, Span] = {}
    stated = scope.definition.statements
    for statement in [s for s in stated if isinstance(s, syntax.Sizes)]:
        scope.knows(statement.expr, scope.size_names, SIZES_ARE)
        for name in statement.indices:
            if not scope.index_known(name):
                continue
            if name.text in statements:
                note = ("the first statement is here", places[name.text])
                fault = errors.SIZE_TWICE
                scope.faults.add(fault, name.span, name=name.text, note=note)
                continue
            statements[name.text], places[name.text] = statement, name.span
    for equation in scope.equations:
        _sizes_missing(scope, equation, statements)
    return statements


def _sizes_missing(
    scope: Scope, equation: syntax.Equation, statements: Mapping[str, object]
) -> None:
    inputs = inputs_of(equation)
    sides = [equation.left, *inputs]
    on_sides = {i.text for ref in sides for i in ref.indices}
    for ref in sides:
        if ref.tensor.text in ("x", "y"):
            _two_without_size(scope, ref, statements)
    if not inputs:
        # Which indices are inner is not known.
        return
    told = set(on_sides)
    for ref in equation.right:
        for index in ref.indices:
            if index.text not in statements and index.text not in told:
                told.add(index.text)
                if index.text in syntax.RESERVED:
                    continue  # and no statement can give it one
                fault = errors.NO_SIZE
                scope.faults.add(fault, index.span, name=index.text)


def _two_without_size(
    scope: Scope, ref: syntax.Ref, statements: Mapping[str, object]
) -> None:
    without = {i.text: i for i in ref.indices if i.text not in statements}
    if len(without) < 2:
        return
    names = list(without)
    # One of them can take what is left where others have a size already.
    asked = names if len(names) == len(ref.indices) else names[1:]
    feature = "d_in" if ref.tensor.text == "x" else "d_out"
    scope.faults.add(
        errors.TWO_WITHOUT_SIZE,
        without[names[1]].span,
        names=listed(names),
        tensor=syntax.unparse(ref),
        example=f"{', '.join(asked)} ~ {feature}^(1/{len(ref.indices)})",
    )


def route(scope: Scope) -> Route | None:
    """The route of a definition, if it has a sound one."""
    routes = [s for s in scope.definition.statements if isinstance(s, syntax.Route)]
    for extra in routes[1:]:
        note = ("the first one is here", routes[0].span)
        scope.faults.add(errors.TWO_ROUTES, extra.span, note=note)
    if not routes:
        return None
    first, name = routes[0], routes[0].index
    known = scope.knows(first.top, scope.size_names, SIZES_ARE)
    if not scope.index_known(name):
        return None
    refs = [r for e in scope.equations for r in (*e.right, e.left)]
    on_sides = [r for r in refs if r.tensor.text in ("x", "y")]
    for ref in on_sides:
        if name.text in [i.text for i in ref.indices]:
            outside = {i.text for r in on_sides for i in r.indices}
            candidates = [n for n in scope.all_indices if n not in outside]
            scope.faults.add(
                errors.ROUTE_NOT_SUMMED,
                name.span,
                name=name.text,
                tensor=syntax.unparse(ref),
                candidates=listed(candidates) or "a new inner one",
            )
            return None
    if not known or len(scope.parameters) < len(scope.definition.params):
        return None
    try:
        grown = growth(first.top, scope.values)
        return Route(name.text, first.top, grown, first.span)
    except NoValue as fault:
        scope.faults.add(fault.fault, fault.expr.span, **fault.values)
        return None


def normalized(scope: Scope) -> tuple[str, ...]:
    """The factors that `normalize` names, in the order written."""
    names = [
        ref.tensor.text
        for equation in scope.equations
        for ref in equation.right
        if ref.tensor.text not in syntax.RESERVED
    ]
    factors = list(dict.fromkeys(names))
    wanted: set[str] = set()
    for statement in scope.definition.statements:
        if not isinstance(statement, syntax.Normalize):
            continue
        if statement.factors is None:
            wanted.update(factors)
        for factor in statement.factors or ():
            if factor.text in factors:
                wanted.add(factor.text)
            elif factor.text in syntax.RESERVED:
                scope.reserved(factor, "a factor")
            else:
                advice = scope.what_it_is(factor.text, factors)
                fault = errors.UNKNOWN_FACTOR
                scope.faults.add(fault, factor.span, name=factor.text, advice=advice)
    for name in factors:
        if name in wanted and f"{name}_scale" in scope.kinds:
            kind, span = scope.kinds[f"{name}_scale"]
            scope.faults.add(
                errors.NAME_CLASH,
                span,
                name=f"{name}_scale",
                first=kind,
                second=f"the scalar of the normalized factor `{name}`",
            )
    return tuple(name for name in factors if name in wanted)


def growths_of(scope: Scope, statements: Statements) -> dict[str, Growth]:
    """How each stated size grows; faults where `~` is given what does not."""
    values = scope.values
    growths: dict[str, Growth] = {}
    for name, statement in statements.items():
        expr = statement.expr
        if any(v.name not in values for v in names_in(expr)):
            continue
        try:
            grown = growth(expr, values)
        except NoValue as none:
            scope.faults.add_once(none.fault, none.expr.span, **none.values)
            continue
        text = syntax.unparse(expr)
        if statement.operator == "=":
            growths[name] = grown
        elif grown.powers is None:
            scope.faults.add_once(errors.NOT_A_MONOMIAL, expr.span, expr=text)
        elif grown.coefficient <= 0 or grown.exponent < 0:
            value, fault = _why_not_positive(expr, grown), errors.NOT_POSITIVE
            scope.faults.add_once(fault, expr.span, expr=text, value=value, where="")
        else:
            growths[name] = grown
    return growths


def check_exponent_sum(
    scope: Scope,
    ref: syntax.Ref,
    statements: Statements,
    growths: Growths,
) -> None:
    """Whether a side that grows does so as d; one index may take the rest."""
    names = [i.text for i in ref.indices]
    stated = [n for n in names if n in statements]
    if ref.tensor.text not in ("x", "y") or len(set(names)) < len(names):
        return
    if len(names) - len(stated) > 1 or any(n not in growths for n in stated):
        return
    if names == [n for n in stated if _is_fixed(statements[n], growths[n])]:
        return
    exponents = {n: growths[n].exponent for n in stated}
    total = sum(exponents.values(), Fraction(0))
    least = min([*exponents.values(), Fraction(0)])
    if least == 0 and (total == 1 or (len(stated) < len(names) and total < 1)):
        return
    wrong_sum(scope, ref, exponents)


def wrong_sum(scope: Scope, ref: syntax.Ref, exponents: Mapping[str, Fraction]) -> None:
    """The fault of a side whose indices do not grow as d together."""
    scope.faults.add(
        errors.EXPONENT_SUM,
        ref.span,
        tensor=syntax.unparse(ref),
        sum=sum(exponents.values(), Fraction(0)),
        parts=", ".join(f"{n}: {t}" for n, t in exponents.items()),
    )


def check_constants(
    scope: Scope,
    statements: Statements,
    growths: Growths,
    route: Route | None,
) -> None:
    """Exact sizes that do not depend on the features are judged at once."""
    sizes: dict[str, int | None] = {}
    for name, grown in growths.items():
        if _is_fixed(statements[name], grown):
            expr, what = statements[name].expr, f"the size of `{name}`"
            sizes[name] = _whole(scope, expr, grown, what, _nearest(grown))
    if route is None or not route.growth.is_constant:
        return
    top = _whole(scope, route.top, route.growth, "`top`", "")
    size = sizes.get(route.index)
    if top is not None and size is not None and top > size:
        scope.faults.add(
            errors.TOP_RANGE,
            route.top.span,
            top=top,
            name=route.index,
            values=errors.counted(size, "value"),
            size=size,
        )


def _nearest(grown: Growth) -> str:
    """The advice beside a constant that is no size."""
    if grown.coefficient <= 0:
        return ""
    nearest = max(1, math.floor(grown.coefficient + Fraction(1, 2)))
    return f"the nearest one is {nearest}"


def _whole(
    scope: Scope, expr: syntax.Expr, constant: Growth, what: str, advice: str
) -> int | None:
    number = whole(constant.coefficient)
    if number is None:
        scope.faults.add_once(
            errors.NOT_AN_INTEGER,
            expr.span,
            what=what,
            expr=syntax.unparse(expr),
            value=shown(expr, constant.coefficient),
            where="",
            advice=advice,
        )
    return number


def _is_fixed(statement: syntax.Sizes, grown: Growth) -> bool:
    """Whether a size is exact (1 is, even after `~`) and does not grow."""
    exact = statement.operator == "=" or grown.is_one
    return exact and grown.is_constant


def _why_not_positive(expr: syntax.Expr, grown: Growth) -> str:
    if grown.coefficient > 0:
        return "ever smaller as d grows"
    if grown.coefficient == 0 or grown.is_constant:
        return shown(expr, grown.coefficient)
    return "negative"
