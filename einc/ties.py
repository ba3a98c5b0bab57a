"""Factors that stand more than once: which indices must have one size for it.

In: a `Structure` and the sizes laid down so far. Out: sets of indices, and the sizes
that follow for them. Where two uses are given different sizes that is a fault.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from einc import errors
from einc.errors import Diagnostics
from einc.source import Span
from einc.structure import Operand, Structure


def tied_indices(
    structure: Structure, sizes: dict[str, int], faults: Diagnostics
) -> list[set[str]]:
    """Sets of indices that have one size, since a factor stands twice.

    A size that is laid down already holds for its whole set, and is added to `sizes`.
    """
    pairs = [
        {here.name, there.name}
        for name in structure.tied
        for other in _uses(structure, name)[1:]
        for here, there in zip(_uses(structure, name)[0].axes, other.axes, strict=True)
    ]
    ties = joined(pairs)
    for tie in ties:
        sized = [a.name for a in structure.axes if a.name in tie and a.name in sizes]
        for name in sized[1:]:
            if sizes[name] != sizes[sized[0]]:
                _disagree(structure, sizes, faults, sized[0], name)
        sizes.update((name, sizes[known]) for known in sized[:1] for name in tie)
    return [tie for tie in ties if len(tie) > 1]


def _uses(structure: Structure, name: str) -> list[Operand]:
    return [o for term in structure.terms for o in term.operands if o.name == name]


def _disagree(
    structure: Structure,
    sizes: dict[str, int],
    faults: Diagnostics,
    before: str,
    index: str,
) -> None:
    """A fault at the last use of a tied factor that has `index`."""
    refs = [
        ref
        for term in structure.terms
        for ref in term.equation.right
        if ref.tensor.text in structure.tied and index in [i.text for i in ref.indices]
    ]
    name = refs[-1].tensor.text
    faults.add(
        errors.TIED_SIZES,
        refs[-1].span,
        name=name,
        here=index,
        size=sizes[index],
        there=before,
        other=sizes[before],
        note=("the first use is here", first_use(structure, name)),
    )


def first_use(structure: Structure, name: str) -> Span:
    """Where a factor stands first."""
    refs = (r for term in structure.terms for r in term.equation.right)
    return next(ref.span for ref in refs if ref.tensor.text == name)


def joined(sets: Sequence[Set[str]]) -> list[set[str]]:
    """The sets, those that share a member made one."""
    found: list[set[str]] = []
    for one in sets:
        apart = [other for other in found if not other & one]
        found = [*apart, set(one).union(*(o for o in found if o & one))]
    return found
