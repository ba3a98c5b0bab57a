"""What a structure says of its sizes at given features.

In: a `Structure`, d_in and d_out. Out: a `Stated`: the sizes that statements lay down,
the logarithms of those that are asked for, and how many experts a token takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from einc import errors, syntax
from einc.errors import Diagnostics, counted
from einc.expressions import NoValue, Value, evaluate, shown, whole
from einc.structure import Axis, Role, Route, Structure

MAX_SIZE = (1 << 31) - 1
NEAREST = "`~` instead of `=` takes the nearest integer"
OTHERS = "choose features at which it is one"


@dataclass(frozen=True)
class Stated:
    """`sizes` of `=` and of inner indices, `targets` in logarithms of all other `~`."""

    sizes: Mapping[str, int]
    targets: Mapping[str, float]
    top: int | None


def stated(structure: Structure, d_in: int, d_out: int, faults: Diagnostics) -> Stated:
    """The statements' values. Raises `SpecError` where they are no sizes."""
    try:
        scope = structure.scope(Fraction(d_in), Fraction(d_out))
    except NoValue as fault:
        faults.add(fault.fault, fault.expr.span, **fault.values)
        faults.stop_on_errors()
        raise
    reader = _Reader(scope, f" at {d_in} x {d_out}", faults)
    for axis in structure.axes:
        reader.size(axis)
    faults.stop_on_errors()
    top = None if structure.route is None else reader.top(structure.route)
    return Stated(reader.sizes, reader.targets, top)


class _Reader:
    """Adds to the sizes and targets, or to the faults, which say `where`."""

    def __init__(
        self, scope: Mapping[str, Value], where: str, faults: Diagnostics
    ) -> None:
        self.scope, self.where, self.faults = scope, where, faults
        self.sizes: dict[str, int] = {}
        self.targets: dict[str, float] = {}

    def size(self, axis: Axis) -> None:
        size, name = axis.size, axis.name
        if size.expr is None:
            return
        value = self._value(size.expr)
        if value is None:
            return
        if size.kind == "exact":
            advice = NEAREST if value > 0 and size.growth.powers else OTHERS
            number = self._whole(size.expr, value, f"the size of `{name}`", advice)
            if number is not None:
                self.sizes[name] = number
        elif value <= 0:
            self._fault(errors.NOT_POSITIVE, size.expr, value=shown(size.expr, value))
        elif value > MAX_SIZE:
            self._fault(errors.TOO_LARGE, size.expr, limit="sizes go up to 2^31 - 1")
        elif axis.role is Role.INNER:
            self.sizes[name] = max(1, math.floor(value + Fraction(1, 2)))
        else:
            self.targets[name] = math.log(value)

    def top(self, route: Route) -> int:
        """How many of its index's values a token takes."""
        value = self._value(route.top)
        self.faults.stop_on_errors()
        assert value is not None
        top = self._whole(route.top, value, "`top`", "")
        self.faults.stop_on_errors()
        assert top is not None
        size = self.sizes[route.index]
        if top > size:
            self.faults.add(
                errors.TOP_RANGE,
                route.top.span,
                top=top,
                name=route.index,
                values=counted(size, "value"),
                size=size,
            )
            self.faults.stop_on_errors()
        return top

    def _value(self, expr: syntax.Expr) -> Value | None:
        try:
            return evaluate(expr, self.scope)
        except NoValue as fault:
            values = {k: v for k, v in fault.values.items() if k != "expr"}
            self._fault(fault.fault, fault.expr, **values)
            return None

    def _whole(
        self, expr: syntax.Expr, value: Value, what: str, advice: str
    ) -> int | None:
        number = whole(value)
        if number is None:
            told = shown(expr, value)
            fault = errors.NOT_AN_INTEGER
            self._fault(fault, expr, what=what, value=told, advice=advice)
        elif number > MAX_SIZE:
            self._fault(errors.TOO_LARGE, expr, limit="sizes go up to 2^31 - 1")
            return None
        return number

    def _fault(self, fault: errors.Fault, expr: syntax.Expr, **values: object) -> None:
        text = syntax.unparse(expr)
        self.faults.add_once(fault, expr.span, where=self.where, expr=text, **values)
