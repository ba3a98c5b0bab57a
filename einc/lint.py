"""What is legal and odd: warnings about a structure, and about its sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from einc import errors, syntax
from einc.errors import Diagnostics
from einc.expressions import names_in
from einc.scope import first_place
from einc.structure import Role, Structure, Term


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


def lint_sizes(
    term: Term, routed: str | None, sizes: Mapping[str, int], faults: Diagnostics
) -> None:
    """Inner indices past what the two factors that share them can use."""
    for axis in term.axes:
        holders = [o for o in term.operands if axis in o.axes]
        if axis.role is not Role.INNER or axis.name == routed:
            continue
        if len(holders) != 2 or axis.size.expr is None:
            continue
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
