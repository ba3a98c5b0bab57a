"""What is legal and odd: warnings about a structure, before its sizes are chosen."""

from __future__ import annotations

from einc import errors, syntax
from einc.errors import Diagnostics
from einc.expressions import names_in
from einc.scope import first_place
from einc.structure import Role, Structure


def lint(structure: Structure, faults: Diagnostics) -> None:
    """Adds the warnings of `structure` to `faults`."""
    used = {
        v.name
        for s in structure.definition.statements
        if isinstance(s, syntax.Sizes | syntax.Route)
        for v in names_in(s.expr if isinstance(s, syntax.Sizes) else s.top)
    }
    for param in structure.definition.params:
        if param.name.text not in used:
            name = param.name
            faults.add(errors.UNUSED_PARAM, name.span, name=name.text)
    routed = structure.routed
    for term in structure.terms:
        for axis in term.axes:
            holders = [o for o in term.operands if axis in o.axes]
            if axis.role is Role.INPUT and not holders:
                span = first_place(term.equation, axis.name)
                faults.add(errors.DROPPED_INPUT, span, name=axis.name)
            inner = axis.role is Role.INNER and axis.name != routed
            if inner and len(holders) == 1:
                faults.add(
                    errors.LONELY_INDEX,
                    first_place(term.equation, axis.name),
                    name=axis.name,
                    tensor=holders[0].name,
                )
