"""The rank of W for generic factors: the cut bound, and what is known beyond it.

In: a `Structure`, or a `Binding`. Out: the bound as a formula and as a number, the
cut that it comes from, and whether a theorem says that generic factors reach it. A
cut puts each factor on the side of x or of y; its value is the product of the sizes
of all indices whose tensors (x and y counted) stand on both sides. W factors through
any cut, so its rank is at most the smallest one. A routed structure has the rank of
one token's active set. What no theorem says, `certificate` finds by elimination.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from einc.analysis.counts import monomial_of
from einc.analysis.reduction import Core, reduced
from einc.network import Network, bits, product
from einc.sizes import Binding
from einc.structure import Structure, Term

Status = Literal["proved", "probable", "bound only"]


@dataclass(frozen=True)
class Cut:
    """A smallest cut of a term: the indices cut, and the product of their sizes.

    `x_side` and `y_side` name the factors that stand there.
    """

    indices: tuple[str, ...]
    size: int
    x_side: tuple[str, ...]
    y_side: tuple[str, ...]


@dataclass(frozen=True)
class Rank:
    """`generic` is the rank of W for generic factors where `status` vouches for it.

    "proved": it is; "probable": two random draws had it; "bound only": not known,
    and None. It is from `least` (proved) to `bound`. `method` says how it was found,
    or why not. `cuts` has a smallest cut of each term.
    """

    bound: int
    generic: int | None
    status: Status
    least: int
    method: str
    cuts: tuple[Cut, ...]


def rank(binding: Binding) -> Rank:
    """The bound min(cut, d_in, d_out), and whether a theorem says it is reached.

    The cuts of a sum's terms add up. It reaches what its best term does, as long as
    no factor is tied; so much is proved, and more is not known in general.

    >>> from einc.library import structure
    >>> from einc.sizes import bind
    >>> found = rank(bind(structure("low_rank"), 1024, 1024))
    >>> found.bound, found.generic, found.status, found.cuts[0].indices
    (32, 32, 'proved', ('r',))
    """
    structure, whole = binding.structure, (binding.d_in, binding.d_out)
    cuts = tuple(_smallest_cut(binding, term) for term in structure.terms)
    bound = min(sum(cut.size for cut in cuts), *whole)
    # Terms without a factor are not generic: two of them may cancel.
    fixed = sum(not term.operands for term in structure.terms)
    least, method = 0, "a factor is tied"
    if not structure.tied:
        reached = [
            _reached(binding, term, cut, padded)
            for term, cut, padded in zip(
                structure.terms, cuts, binding.padded, strict=True
            )
            if term.operands or fixed == 1
        ]
        least, method = max(reached, default=(0, "several terms have no factor"))
    if least == bound:
        return Rank(bound, bound, "proved", least, method, cuts)
    return Rank(bound, None, "bound only", least, "no theorem says more", cuts)


def _reached(
    binding: Binding, term: Term, cut: Cut, padded: tuple[int, int]
) -> tuple[int, str]:
    """A rank that a term has at the least, and why.

    Without a theorem, that with all sizes rounded down to powers of two. Each row
    and column of padding takes one at the most.
    """
    core = core_of(binding, term)
    least, why = cut.size, core.why_full
    if not why:
        least = core.multiplier * core.smallest_cut(lambda s: 1 << s.bit_length() - 1)
    lost = sum(padded) - binding.d_in - binding.d_out
    if lost:
        least, why = least - lost, why and f"{why}, less the padding"
    if len(binding.structure.terms) > 1:
        why = why and f"a term reaches it: {why}"
    return max(least, 0), why or "sizes rounded down to powers of two"


def core_of(binding: Binding, term: Term) -> Core:
    """A term's exact reduction, for one token: at `top` values of a routed index."""
    network = Network(term)
    sizes = {i: binding.active_size(axis) for i, axis in enumerate(network.axes)}
    x, *factors = (bits(mask) for mask in network.tensors)
    return reduced(x, bits(network.output), [list(f) for f in factors], sizes)


def _smallest_cut(binding: Binding, term: Term) -> Cut:
    """Of several smallest cuts one that is a whole side, then one of fewest indices."""
    network = Network(term)
    sizes = [binding.active_size(axis) for axis in network.axes]
    sides = [network.mask(side) for side in term.sides]

    def key(mask: int) -> tuple[int, bool, int, int]:
        return product(mask, sizes), mask not in sides, mask.bit_count(), mask

    mask = min(network.cuts, key=key)
    near = network.near_x(mask)
    return Cut(
        tuple(axis.name for axis in network.members(mask)),
        product(mask, sizes),
        tuple(o.name for i, o in enumerate(term.operands, 1) if near >> i & 1),
        tuple(o.name for i, o in enumerate(term.operands, 1) if not near >> i & 1),
    )


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
