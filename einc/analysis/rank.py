"""The rank of W for generic factors: the cut bound, and where it is reached.

In: a `Structure`, or a `Binding`. Out: the bound as a formula and as a number, and
whether a theorem says that generic factors reach it. A cut puts each factor on the
side of x or of y; its value is the product of the sizes of all indices whose tensors
(x and y counted) stand on both sides. W factors through any cut, so its rank is at
most the smallest one. A routed structure has the rank of one token's active set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from einc.analysis.counts import monomial_of
from einc.network import Network, product
from einc.sizes import Binding
from einc.structure import Axis, Structure, Term

Status = Literal["proved", "probable", "bound only"]


@dataclass(frozen=True)
class Rank:
    """`generic` is the rank of W for generic factors where `status` vouches for it."""

    bound: int
    generic: int | None
    status: Status


def rank(binding: Binding) -> Rank:
    """The bound min(cut, d_in, d_out), and whether it is known to be reached.

    The cuts of a sum's terms add up. It reaches what its best term does, as long as
    no factor is tied (proved); more is not known in general.

    >>> from einc.library import structure
    >>> from einc.sizes import bind
    >>> rank(bind(structure("low_rank"), 1024, 1024))
    Rank(bound=32, generic=32, status='proved')
    """
    structure, whole = binding.structure, (binding.d_in, binding.d_out)
    most = least = 0
    for term, padded in zip(structure.terms, binding.padded, strict=True):
        network = Network(term)
        sizes = [binding.active_size(axis) for axis in network.axes]
        cut = min(product(mask, sizes) for mask in network.cuts)
        most += cut
        if padded == whole and _reaches_its_cut(term, network, sizes):
            least = max(least, cut)
    bound = min(most, *whole)
    # Terms without a factor are not generic: two of them may cancel.
    fixed = [term for term in structure.terms if not term.operands]
    if least == bound and not structure.tied and len(fixed) <= 1:
        return Rank(bound, bound, "proved")
    return Rank(bound, None, "bound only")


def rank_formula(structure: Structure) -> str:
    """The bound as a Min of products, those that another divides left out."""
    import sympy

    features = [sympy.Symbol(name, positive=True) for name in ("d_in", "d_out")]
    values = [_cut_values(structure, term, features) for term in structure.terms]
    if len(values) == 1 or features in values:
        return str(sympy.Min(*min(values, key=len), evaluate=False))
    terms = [sympy.Min(*found, evaluate=False) for found in values]
    total = sympy.Add(*terms, evaluate=False)
    return str(sympy.Min(*features, total, evaluate=False))


def _cut_values(structure: Structure, term: Term, features: list[Any]) -> list[Any]:
    """The features, and the values of a term's other smallest cuts.

    A cut that is a whole side is that side's features, padding taken off.
    """
    import sympy

    network = Network(term)
    sides = [network.mask(side) for side in term.sides]
    top = sympy.Symbol("top", positive=True)
    return features + [
        monomial_of(network.members(cut), structure.routed, top)
        for cut in network.cuts
        if cut not in sides
    ]


def _reaches_its_cut(term: Term, network: Network, sizes: list[int]) -> bool:
    """Whether a theorem says that generic factors reach the smallest cut.

    For one untied term without padding: all sizes powers of one integer; or, after
    exact reductions, at most one factor, or two of which one of the four private
    sizes (x-A, x-B, y-A, y-B) is 1.
    """
    x, y, factors = _reduce(term, network, sizes)
    left = {axis for members in (x, y, *factors) for axis in members}
    tensors = [x, y, *factors]
    merged: dict[tuple[bool, ...], int] = {}
    for axis, size in zip(network.axes, sizes, strict=True):
        if axis in left:
            members = tuple(axis in tensor for tensor in tensors)
            merged[members] = merged.get(members, 1) * size
    if _powers_of_one(list(merged.values())) or len(factors) <= 1:
        return True
    if len(factors) > 2:
        return False
    return not all(
        any(
            axis in side and axis in factor and _holders(axis, tensors) == 2
            for axis in left
        )
        for side in (x, y)
        for factor in factors
    )


def _holders(axis: Axis, tensors: list[set[Axis]]) -> int:
    return sum(axis in members for members in tensors)


def _reduce(
    term: Term, network: Network, sizes: list[int]
) -> tuple[set[Axis], set[Axis], list[set[Axis]]]:
    """x, y and the factors without what does not matter to the rank's tightness.

    Exact: indices of size 1 or in one tensor alone go; an index of both x and y
    multiplies the rank and goes; a factor whose indices are a subset of another's
    is absorbed. (Indices with the same members are merged by the caller.)
    """
    small = {a for a, s in zip(network.axes, sizes, strict=True) if s == 1}
    x, y = set(term.input) - small, set(term.output) - small
    factors = [set(operand.axes) - small for operand in term.operands]
    while True:
        before = (set(x), set(y), [set(f) for f in factors])
        tensors = [x, y, *factors]
        for axis in {a for members in tensors for a in members}:
            if _holders(axis, tensors) == 1 or (axis in x and axis in y):
                for members in tensors:
                    members.discard(axis)
        for i, factor in enumerate(factors):
            if any(factor <= other for j, other in enumerate(factors) if j != i):
                del factors[i]
                break
        if (x, y, factors) == before:
            return x, y, factors


def _powers_of_one(sizes: list[int]) -> bool:
    """Whether all sizes are powers of one integer.

    >>> _powers_of_one([4, 8, 2]), _powers_of_one([4, 6]), _powers_of_one([])
    (True, False, True)
    """
    return len({_least_root(size) for size in sizes if size > 1}) <= 1


def _least_root(value: int) -> int:
    """The least integer of which `value` is a power: 8 -> 2, 36 -> 6."""
    for degree in range(value.bit_length(), 1, -1):
        root = round(float(value) ** (1 / degree))
        for candidate in (root - 1, root, root + 1):
            if candidate > 1 and int(candidate**degree) == value:
                return int(candidate)
    return value
