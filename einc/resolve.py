"""Syntax to meaning: one definition and its arguments to a `Structure`.

All faults of a definition are found in one go and raised together as a `SpecError`.
What needs the numbers of features (sizes that do not fit) is found later, in
`sizes`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cached_property

from einc import attributes, errors, syntax
from einc.errors import Diagnostic, Diagnostics, UsageError
from einc.expressions import (
    FEATURES,
    Growth,
    NoValue,
    feature_growths,
    growth,
    names_in,
    shown,
    whole,
)
from einc.source import Source, Span
from einc.structure import (
    Axis,
    Factor,
    Operand,
    Parameter,
    Role,
    Route,
    Size,
    Structure,
    Term,
    role_of,
    verify,
)

MAX_FACTORS = 12
MAX_INDICES = 26
MAX_TERMS = 8
MAX_DIGITS = 30

NEAREST = "`~` instead of `=` takes the nearest integer"

_LONGEST_GUESS = 100
_SIZES_ARE = "sizes are made of numbers, parameters,"


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
    return _Resolver(definition, source, arguments).run()


def _unknown_parameter(structure: str, name: str, known: list[str]) -> str:
    if not known:
        return f"structure `{structure}` has no parameters, so no `{name}`"
    return (
        f"structure `{structure}` has no parameter `{name}`; it has {_listed(known)}"
        + _did_you_mean(name, known)
    )


class _Resolver:
    """The state of one resolution: faults, and what each name was taken for."""

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
        self.sizes = [s for s in definition.statements if isinstance(s, syntax.Sizes)]

    def run(self) -> Structure:
        if self.definition.name.text in syntax.RESERVED:
            self._reserved(self.definition.name, "the name of a structure")
        parameters = self._parameters()
        self._equations()
        statements = self._size_statements()
        route = self._route(parameters)
        normalized = self._normalized()
        growths = self._growths(statements, parameters)
        for equation in self.equations:
            for ref in (equation.left, *_inputs(equation)):
                self._exponent_sum(ref, statements, growths)
        self._constants(statements, growths, route)
        self.faults.stop_on_errors()
        terms = tuple(self._term(e, statements, growths) for e in self.equations)
        self._one_growth(terms)
        self.faults.stop_on_errors()
        structure = Structure(
            self.definition.name.text,
            tuple(parameters.values()),
            terms,
            route,
            normalized,
            self.definition,
            self.source,
        )
        self._lint(structure)
        structure = Structure(
            structure.name,
            structure.parameters,
            terms,
            route,
            normalized,
            self.definition,
            self.source,
            self.faults.warnings,
        )
        verify(structure)
        return structure

    # Names

    def _reserved(self, name: syntax.Name, use: str) -> None:
        self.faults.add(
            errors.RESERVED_WORD,
            name.span,
            name=name.text,
            use=use,
            suggestion=syntax.instead_of(name.text),
        )

    def _declare(self, name: syntax.Name, kind: str) -> None:
        if name.text in syntax.RESERVED:
            self._reserved(name, kind)
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
            self._declare(name, "a parameter")
            if not self._known(
                param.default, FEATURES, "defaults are made of numbers,"
            ):
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

    def _known(self, expr: syntax.Expr, known: Iterable[str], made_of: str) -> bool:
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
                + _did_you_mean(variable.name, known),
            )
        return good

    # Equations

    def _equations(self) -> None:
        name = self.definition.name
        if not self.equations:
            self.faults.add(errors.NO_EQUATION, name.span, name=name.text)
        if len(self.equations) > MAX_TERMS:
            span = self.equations[MAX_TERMS].span
            self._limit(span, "too many terms", f"{MAX_TERMS} in a structure")
        uses: dict[str, syntax.Ref] = {}
        for number, equation in enumerate(self.equations):
            self._equation(equation, first=number == 0)
            for ref in equation.right:
                if ref.tensor.text in syntax.RESERVED:
                    continue
                before = uses.setdefault(ref.tensor.text, ref)
                if len(before.indices) != len(ref.indices):
                    self.faults.add(
                        errors.USES_DISAGREE,
                        ref.span,
                        name=ref.tensor.text,
                        here=_indices_of(ref),
                        there=_indices_of(before),
                        note=("the first use is here", before.span),
                    )

    def _limit(self, span: Span, what: str, limit: str, advice: str = "") -> None:
        self.faults.add(errors.LIMIT, span, what=what, limit=limit, advice=advice)

    def _equation(self, equation: syntax.Equation, first: bool) -> None:
        left = equation.left
        if left.tensor.text != "y":
            span = left.tensor.span
            self.faults.add(errors.LEFT_NOT_Y, span, name=left.tensor.text)
        if first and equation.operator == "+=":
            self.faults.add(errors.ADD_BEFORE_SET, equation.span)
        if not first and equation.operator == "=":
            note = ("the first term is here", self.equations[0].span)
            self.faults.add(errors.SECOND_SET, equation.span, note=note)
        inputs = _inputs(equation)
        if not inputs:
            self.faults.add(errors.NO_X, equation.span)
        for ref in inputs[1:]:
            note = ("the first one is here", inputs[0].span)
            self.faults.add(errors.TWO_X, ref.span, note=note)
        factors = [r for r in equation.right if r.tensor.text not in ("x", "y")]
        if len(factors) > MAX_FACTORS:
            span = factors[MAX_FACTORS].span
            self._limit(span, "too many factors", f"{MAX_FACTORS} in a term")
        for ref in equation.right:
            if ref.tensor.text == "y":
                self.faults.add(errors.Y_ON_RIGHT, ref.span)
            elif ref.tensor.text != "x":
                self._factor_name(ref.tensor)
        for ref in (left, *equation.right):
            self._indices(ref)
        indices: dict[str, syntax.Name] = {}
        for index in (i for r in (left, *equation.right) for i in r.indices):
            indices.setdefault(index.text, index)
        if len(indices) > MAX_INDICES:
            span = list(indices.values())[MAX_INDICES].span
            self._limit(span, "too many indices", f"{MAX_INDICES} in a term")
        on_right = {i.text for r in equation.right for i in r.indices}
        for index in left.indices:
            if index.text not in on_right:
                fault = errors.OUTPUT_FROM_NOWHERE
                self.faults.add(fault, index.span, name=index.text)

    def _factor_name(self, name: syntax.Name) -> None:
        reason = attributes.why_refused(name.text)
        if reason is not None:
            suggestion = name.text.capitalize()
            if suggestion == name.text or attributes.why_refused(suggestion):
                suggestion = f"{name.text}_"
            self.faults.add(
                errors.REFUSED_NAME,
                name.span,
                name=name.text,
                reason=reason,
                suggestion=suggestion,
            )
        self._declare(name, "a factor")

    def _indices(self, ref: syntax.Ref) -> None:
        seen: set[str] = set()
        for index in ref.indices:
            self._declare(index, "an index")
            if index.text in seen:
                self.faults.add(
                    errors.INDEX_TWICE,
                    index.span,
                    name=index.text,
                    tensor=syntax.unparse(ref),
                )
            seen.add(index.text)

    # Statements about indices

    @cached_property
    def _all_indices(self) -> list[str]:
        refs = [r for e in self.equations for r in (e.left, *e.right)]
        return list(dict.fromkeys(i.text for r in refs for i in r.indices))

    def _index_known(self, name: syntax.Name) -> bool:
        # Without an equation that is the fault, not every name that is used.
        if name.text in self._all_indices or not self.equations:
            return bool(self.equations)
        if name.text in syntax.RESERVED:
            self._reserved(name, "an index")
            return False
        advice = self._what_it_is(name.text, self._all_indices)
        self.faults.add(errors.UNKNOWN_INDEX, name.span, name=name.text, advice=advice)
        return False

    def _what_it_is(self, name: str, known: list[str]) -> str:
        if name in self.kinds:
            return f"`{name}` is {self.kinds[name][0]}"
        return _did_you_mean(name, known).removeprefix("; ")

    def _size_statements(self) -> dict[str, syntax.Sizes]:
        statements: dict[str, syntax.Sizes] = {}
        places: dict[str, Span] = {}
        parameters = [p.name.text for p in self.definition.params]
        for statement in self.sizes:
            self._known(statement.expr, [*parameters, *FEATURES], _SIZES_ARE)
            for name in statement.indices:
                if not self._index_known(name):
                    continue
                if name.text in statements:
                    note = ("the first statement is here", places[name.text])
                    fault = errors.SIZE_TWICE
                    self.faults.add(fault, name.span, name=name.text, note=note)
                    continue
                statements[name.text], places[name.text] = statement, name.span
        for equation in self.equations:
            self._sizes_missing(equation, statements)
        return statements

    def _sizes_missing(
        self, equation: syntax.Equation, statements: Mapping[str, object]
    ) -> None:
        inputs = _inputs(equation)
        sides = [equation.left, *inputs]
        on_sides = {i.text for ref in sides for i in ref.indices}
        for ref in sides:
            if ref.tensor.text in ("x", "y"):
                self._two_without_size(ref, statements)
        if not inputs:
            # Which indices are inner is not known.
            return
        told = set(on_sides)
        for ref in equation.right:
            for index in ref.indices:
                if index.text not in statements and index.text not in told:
                    told.add(index.text)
                    fault = errors.NO_SIZE
                    self.faults.add(fault, index.span, name=index.text)

    def _two_without_size(
        self, ref: syntax.Ref, statements: Mapping[str, object]
    ) -> None:
        without = {i.text: i for i in ref.indices if i.text not in statements}
        if len(without) < 2:
            return
        names = list(without)
        # One of them can take what is left where others have a size already.
        asked = names if len(names) == len(ref.indices) else names[1:]
        feature = "d_in" if ref.tensor.text == "x" else "d_out"
        self.faults.add(
            errors.TWO_WITHOUT_SIZE,
            without[names[1]].span,
            names=_listed(names),
            tensor=syntax.unparse(ref),
            example=f"{', '.join(asked)} ~ {feature}^(1/{len(ref.indices)})",
        )

    def _route(self, parameters: Mapping[str, Parameter]) -> Route | None:
        routes = [s for s in self.definition.statements if isinstance(s, syntax.Route)]
        names = [p.name.text for p in self.definition.params]
        for extra in routes[1:]:
            note = ("the first one is here", routes[0].span)
            self.faults.add(errors.TWO_ROUTES, extra.span, note=note)
        if not routes:
            return None
        route, name = routes[0], routes[0].index
        known = self._known(route.top, [*names, *FEATURES], _SIZES_ARE)
        if not self._index_known(name):
            return None
        refs = [r for e in self.equations for r in (*e.right, e.left)]
        on_sides = [r for r in refs if r.tensor.text in ("x", "y")]
        for ref in on_sides:
            if name.text in [i.text for i in ref.indices]:
                outside = {i.text for r in on_sides for i in r.indices}
                candidates = [n for n in self._all_indices if n not in outside]
                self.faults.add(
                    errors.ROUTE_NOT_SUMMED,
                    name.span,
                    name=name.text,
                    tensor=syntax.unparse(ref),
                    candidates=_listed(candidates) or "a new inner one",
                )
                return None
        if not known or set(names) - set(parameters):
            return None
        values = feature_growths() | {p.name: p.growth for p in parameters.values()}
        try:
            return Route(name.text, route.top, growth(route.top, values), route.span)
        except NoValue as fault:
            self.faults.add(fault.fault, fault.expr.span, **fault.values)
            return None

    def _normalized(self) -> tuple[str, ...]:
        """The factors that `normalize` names, in the order written."""
        names = [
            ref.tensor.text
            for equation in self.equations
            for ref in equation.right
            if ref.tensor.text not in syntax.RESERVED
        ]
        factors = list(dict.fromkeys(names))
        wanted: set[str] = set()
        for statement in self.definition.statements:
            if not isinstance(statement, syntax.Normalize):
                continue
            if statement.factors is None:
                wanted.update(factors)
            for factor in statement.factors or ():
                if factor.text in factors:
                    wanted.add(factor.text)
                elif factor.text in syntax.RESERVED:
                    self._reserved(factor, "a factor")
                else:
                    advice = self._what_it_is(factor.text, factors)
                    fault = errors.UNKNOWN_FACTOR
                    self.faults.add(fault, factor.span, name=factor.text, advice=advice)
        for name in factors:
            if name in wanted and f"{name}_scale" in self.kinds:
                kind, span = self.kinds[f"{name}_scale"]
                self.faults.add(
                    errors.NAME_CLASH,
                    span,
                    name=f"{name}_scale",
                    first=kind,
                    second=f"the scalar of the normalized factor `{name}`",
                )
        return tuple(name for name in factors if name in wanted)

    # Sizes

    def _growths(
        self,
        statements: Mapping[str, syntax.Sizes],
        parameters: Mapping[str, Parameter],
    ) -> dict[str, Growth]:
        """How each stated size grows; faults where `~` is given what does not."""
        values = feature_growths() | {p.name: p.growth for p in parameters.values()}
        growths: dict[str, Growth] = {}
        for name, statement in statements.items():
            expr = statement.expr
            if any(v.name not in values for v in names_in(expr)):
                continue
            try:
                grown = growth(expr, values)
            except NoValue as none:
                self.faults.add_once(none.fault, none.expr.span, **none.values)
                continue
            text = syntax.unparse(expr)
            if statement.operator == "=":
                growths[name] = grown
            elif grown.powers is None:
                self.faults.add_once(errors.NOT_A_MONOMIAL, expr.span, expr=text)
            elif grown.coefficient <= 0 or grown.exponent < 0:
                value, fault = _why_not_positive(expr, grown), errors.NOT_POSITIVE
                self.faults.add_once(fault, expr.span, expr=text, value=value, where="")
            else:
                growths[name] = grown
        return growths

    def _term(
        self,
        equation: syntax.Equation,
        statements: Mapping[str, syntax.Sizes],
        growths: Mapping[str, Growth],
    ) -> Term:
        (input_ref,) = _inputs(equation)
        in_names = [i.text for i in input_ref.indices]
        out_names = [i.text for i in equation.left.indices]
        axes: dict[str, Axis] = {}
        for ref in (equation.left, *equation.right):
            for index in ref.indices:
                name = index.text
                role = role_of(name in in_names, name in out_names)
                size = self._size(name, statements, growths, (in_names, out_names))
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
        self,
        name: str,
        statements: Mapping[str, syntax.Sizes],
        growths: Mapping[str, Growth],
        sides: tuple[list[str], list[str]],
    ) -> Size:
        statement = statements.get(name)
        if statement is not None:
            kind = "exact" if statement.operator == "=" else "grows"
            grown = growths[name]
            if kind == "grows" and grown.is_one:
                kind = "exact"
            if kind == "exact":
                return Size("exact", statement.expr, grown, statement.expr.span)
            return Size("grows", statement.expr, grown, statement.expr.span)
        side = next(s for s in sides if name in s)
        exponent = 1 - sum(
            (growths[n].exponent for n in side if n != name), Fraction(0)
        )
        # The constant of what is left is not asked for by anybody.
        return Size("rest", None, Growth(1, exponent, None), Span(0, 0))

    def _exponent_sum(
        self,
        ref: syntax.Ref,
        statements: Mapping[str, syntax.Sizes],
        growths: Mapping[str, Growth],
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
        self.faults.add(
            errors.EXPONENT_SUM,
            ref.span,
            tensor=syntax.unparse(ref),
            sum=total,
            parts=", ".join(f"{n}: {t}" for n, t in exponents.items()),
        )

    def _one_growth(self, terms: tuple[Term, ...]) -> None:
        """An index without a statement takes as much in every term."""
        first: dict[str, Axis] = {}
        for term in terms:
            for axis in term.axes:
                before = first.setdefault(axis.name, axis)
                if before.theta != axis.theta:
                    self.faults.add(
                        errors.CONTRADICTION,
                        _first_place(term.equation, axis.name),
                        name=axis.name,
                        here=axis.theta,
                        there=before.theta,
                    )

    def _constants(
        self,
        statements: Mapping[str, syntax.Sizes],
        growths: Mapping[str, Growth],
        route: Route | None,
    ) -> None:
        """Exact sizes that do not depend on the features are judged at once."""
        sizes: dict[str, int | None] = {}
        for name, grown in growths.items():
            if _is_fixed(statements[name], grown):
                expr, what = statements[name].expr, f"the size of `{name}`"
                sizes[name] = self._whole(expr, grown, what, NEAREST)
        if route is None or not route.growth.is_constant:
            return
        top = self._whole(route.top, route.growth, "`top`", "")
        size = sizes.get(route.index)
        if top is not None and size is not None and top > size:
            self.faults.add(
                errors.TOP_RANGE,
                route.top.span,
                top=top,
                name=route.index,
                values=errors.counted(size, "value"),
                size=size,
            )

    def _whole(
        self, expr: syntax.Expr, constant: Growth, what: str, advice: str
    ) -> int | None:
        number = whole(constant.coefficient)
        if number is None:
            self.faults.add_once(
                errors.NOT_AN_INTEGER,
                expr.span,
                what=what,
                expr=syntax.unparse(expr),
                value=shown(expr, constant.coefficient),
                where="",
                advice=advice,
            )
        return number

    def _lint(self, structure: Structure) -> None:
        used = {
            v.name
            for s in self.definition.statements
            if isinstance(s, syntax.Sizes | syntax.Route)
            for v in names_in(s.expr if isinstance(s, syntax.Sizes) else s.top)
        }
        for param in self.definition.params:
            if param.name.text not in used:
                name = param.name
                self.faults.add(errors.UNUSED_PARAM, name.span, name=name.text)
        routed = structure.route.index if structure.route is not None else None
        for term in structure.terms:
            for axis in term.axes:
                holders = [o for o in term.operands if axis in o.axes]
                if axis.role is Role.INPUT and not holders:
                    span = _first_place(term.equation, axis.name)
                    self.faults.add(errors.DROPPED_INPUT, span, name=axis.name)
                inner = axis.role is Role.INNER and axis.name != routed
                if inner and len(holders) == 1:
                    self.faults.add(
                        errors.LONELY_INDEX,
                        _first_place(term.equation, axis.name),
                        name=axis.name,
                        tensor=holders[0].name,
                    )


def _first_place(equation: syntax.Equation, index: str) -> Span:
    places = [i.span for r in equation.right for i in r.indices if i.text == index]
    return places[0]


def _inputs(equation: syntax.Equation) -> list[syntax.Ref]:
    return [r for r in equation.right if r.tensor.text == "x"]


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


def _indices_of(ref: syntax.Ref) -> str:
    count = len(ref.indices)
    return f"{count} index" if count == 1 else f"{count} indices"


def _literal(value: Fraction) -> syntax.Expr:
    """A number as an expression of the language."""
    top: syntax.Expr = syntax.Number(str(abs(value.numerator)))
    if value.denominator != 1:
        top = syntax.Binary("/", top, syntax.Number(str(value.denominator)))
    return top if value >= 0 else syntax.Binary("-", syntax.Number("0"), top)


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    if len(name) > _LONGEST_GUESS:
        return ""
    near = [k for k in known if abs(len(k) - len(name)) < len(name)]
    close = difflib.get_close_matches(name, near, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""
