"""What the y of a module's `body` is, beside its values.

In: statements. Out: whether it is a view, and of which dtype. nn.Linear's is a tensor of
its own, contiguous, and under autocast of autocast's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from einc.codegen.nodes import (
    Assign,
    Attribute,
    ChunksCall,
    Cut,
    ExpertsCall,
    Local,
    Pad,
    Product,
    Sum,
    Value,
    View,
)


def is_view(body: Sequence[Assign]) -> bool:
    """Whether y is x, in another shape at most."""
    return not any(_computes(statement.value) for statement in body)


def is_cut(body: Sequence[Assign]) -> bool:
    """Whether y is cut from what was computed."""
    value = body[-1].value
    while isinstance(value, View) and not isinstance(value, Cut):
        value = value.value
    return isinstance(value, Cut)


def has_autocast_dtype(body: Sequence[Assign]) -> bool:
    """Whether y has it under autocast, as the result of a matrix product has."""
    known: dict[str, bool] = {}
    for statement in body:
        known[statement.target] = _is_autocast(statement.value, known)
    return known["y"]


def _computes(value: Value) -> bool:
    """Whether a value is more than a view."""
    if isinstance(value, View):
        return isinstance(value, Sum | Pad) or _computes(value.value)
    return not isinstance(value, Local | Attribute)


def _is_autocast(value: Value, known: Mapping[str, bool]) -> bool:
    match value:
        case Product("multiply" | "add", left, right):
            return _is_autocast(left, known) and _is_autocast(right, known)
        case Product() | ExpertsCall() | ChunksCall():
            return True
        case Local(name):
            return known.get(name, False)
        case _:
            if isinstance(value, View) and not isinstance(value, Sum):
                return _is_autocast(value.value, known)
            return False
