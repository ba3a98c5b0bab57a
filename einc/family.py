"""The family of a structure: which one of the library it is, whatever names it uses.

In: a `Structure`. Out: the name of the first structure of the library whose index
hypergraph is isomorphic: tensors match one to one (x with x, y with y), and so do the
sets of tensors that indices join. Indices of the same tensors are one, indices of size
1 are none. Sizes and exponents do not count: a family has many members.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import permutations
from typing import Any

from einc import library
from einc.structure import Axis, Structure, Term

MAX_FACTORS = 6
"""More than any structure of the library has."""

Key = tuple[Any, ...]


def family(structure: Structure) -> str | None:
    """The library's name for its hypergraph, or None where it has none ("novel").

    >>> family(library.structure("btt")), family(library.structure("cp"))
    ('monarch', 'cp')
    """
    if structure.tied or len(structure.factors) > MAX_FACTORS:
        return None
    found = _key(structure, drop_ones=True)
    return next((name for name in library.NAMES if found in _keys(name)), None)


@cache
def _keys(name: str) -> tuple[Key, ...]:
    """Of a library's structure with indices of size 1, which an argument sets, and
    without."""
    structure = library.structure(name)
    return tuple(_key(structure, drop_ones) for drop_ones in (True, False))


def _key(structure: Structure, drop_ones: bool) -> Key:
    """The same for isomorphic hypergraphs: the least over all numberings of factors."""
    names = [factor.name for factor in structure.factors]
    return min(
        tuple(
            sorted(
                _term_key(
                    structure, term, dict(zip(names, numbers, strict=True)), drop_ones
                )
                for term in structure.terms
            )
        )
        for numbers in permutations(range(len(names)))
    )


def _term_key(
    structure: Structure, term: Term, numbers: dict[str, int], drop_ones: bool
) -> Key:
    tensors = [(-2, term.input), (-1, term.output)]
    tensors += [(numbers[o.name], o.axes) for o in term.operands]
    joined = {
        (
            axis.name == structure.routed,
            tuple(sorted(number for number, axes in tensors if axis in axes)),
        )
        for axis in _counted(term.axes, drop_ones)
    }
    return tuple(sorted(number for number, _ in tensors)), tuple(sorted(joined))


def _counted(axes: Iterable[Axis], drop_ones: bool) -> Iterable[Axis]:
    for axis in axes:
        growth = axis.size.growth
        if not (drop_ones and growth.is_constant and growth.coefficient == 1):
            yield axis
