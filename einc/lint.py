"""What is legal and odd: warnings about a structure, and about its sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from einc import errors, syntax
from einc.errors import Diagnostics
from einc.expressions import names_in
from einc.scope import first_place
from einc.structure import Axis, Role, Structure, Term


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
            if inner and len(holders) == 1 and holders[0].name not in structure.tied:
                faults.add(
                    errors.LONELY_INDEX,
                    first_place(term.equation, axis.name),
                    name=axis.name,
                    tensor=holders[0].name,
                )


def lint_sizes(
    structure: Structure, sizes: Mapping[str, int], faults: Diagnostics
) -> None:
    """Inner indices past what the two factors that share them can use.

    Where a third use of the index or of one of the two gains from it, none is wasted.
    """
    for axis in structure.axes:
        terms = [term for term in structure.terms if axis in term.axes]
        if len(terms) == 1 and axis.name != structure.routed:
            _lint_size(terms[0], axis, structure, sizes, faults)


def _lint_size(
    term: Term,
    axis: Axis,
    structure: Structure,
    sizes: Mapping[str, int],
    faults: Diagnostics,
) -> None:
    holders = [o for o in term.operands if axis in o.axes]
    shared = any(operand.name in structure.tied for operand in holders)
    if axis.role is Role.INNER and len(holders) == 2 and not shared:
        left, right = holders
        enough = min(
            math.prod(sizes[a.name] for a in one.axes if a not in other.axes)
            for one, other in ((left, right), (right, left))
        )
        if sizes[axis.name] > enough:
            faults.add(
                errors.WASTED_RANK,
                axis.size.span,
                name=axis.name,
                size=sizes[axis.name],
                enough=enough,
                left=left.name,
                right=right.name,
            )
