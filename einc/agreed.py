"""Sizes to try for indices that must agree, where no near candidates of a term do.

In: the two `Side`s of a term, and which indices have one size: those of ties, or those
that both sides have. Out: sizes for them, so many that the best can be taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence, Set

from einc.choose import FACTORISATION, NEAR, WORK, Side
from einc.factorise import CANDIDATES, Choice, factorisations
from einc.structure import Axis

_PRODUCTS = 10_000


def tied_sizes(
    sides: tuple[Side, Side], ties: Sequence[Set[str]]
) -> list[dict[Axis, int]]:
    """Sizes to try for indices that must agree, where no candidates do.

    Each set of `ties` takes one size; where a side has no other free index, sizes
    that cover its features.
    """
    members = [
        [(a, t) for side in sides for a, t in side.asked() if a.name in tie]
        for tie in ties
    ]
    members = [found for found in members if found]
    wanted = [math.exp(sum(t for _, t in m) / len(m)) for m in members]
    each = max(2, int(CANDIDATES ** (1 / max(1, len(members)))))
    near = [_near_integers(size)[:each] for size in wanted]
    options = []
    for chosen in itertools.product(*near):
        sizes = {
            axis: size
            for found, size in zip(members, chosen, strict=True)
            for axis, _ in found
        }
        if all(side.covered_by(sizes) for side in sides):
            options.append(sizes)
    return options or [_covering(sides, members)]


def _near_integers(target: float) -> list[int]:
    """The positive integers within `NEAR` of a real size, the nearest first."""
    spread = math.exp(NEAR)
    low, high = max(1, math.ceil(target / spread)), math.floor(target * spread)
    middle = max(1, round(target))
    low, high = max(low, middle - CANDIDATES), min(high, middle + CANDIDATES)
    return sorted(range(low, max(low, high) + 1), key=lambda s: (abs(s - target), s))


def _covering(
    sides: tuple[Side, Side], members: Sequence[Sequence[tuple[Axis, float]]]
) -> dict[Axis, int]:
    """The same size for all of them, just large enough for both sides."""
    size = 1
    for side in sides:
        if all(any(a == axis for m in members for axis, _ in m) for a in side.free):
            need = -(-side.features // side.fixed)
            count = max(1, len(side.free))
            while size**count < need and side.free:
                size = max(size + 1, math.floor(need ** (1 / count)))
    return {axis: size for found in members for axis, _ in found}


def common_sizes(sides: tuple[Side, Side]) -> list[dict[Axis, int]]:
    """Sizes to try for the indices of both sides, where no candidates agree.

    Each side is then padded to a multiple of their product; so what is tried first
    are the products that pad the least, and their factorisations near the targets.
    """
    both = [a for a in sides[0].free if a in sides[1].free]
    asked = dict(zip(sides[0].free, sides[0].targets, strict=True))
    total = sum(asked[a] for a in both)
    products, wanted = _common_products(sides, len(both), math.exp(total))
    # What cannot be had together is shared.
    excess = (math.log(wanted) - total) / len(both)
    targets = tuple(max(0.0, asked[a] + excess) for a in both)
    choices: list[Choice] = []
    near: list[Choice] = []
    work = WORK // 4
    for product in products:
        found = factorisations(product, targets)
        choices.append(found.nearest[0])
        if choices[-1].distance <= NEAR * len(both):
            near.append(choices[-1])
        work -= FACTORISATION * found.work
        if len(near) == CANDIDATES or work < 0:
            break
    near = near or [min(choices, key=lambda c: c.distance)]
    return [dict(zip(both, c.sizes, strict=True)) for c in near]


def _common_products(
    sides: tuple[Side, Side], count: int, asked: float
) -> tuple[list[int], float]:
    """Products of the `count` common sizes, the least padding first, and what is
    possible of what was asked of them."""
    needs = [side.least // side.fixed for side in sides]
    # A side with no other index must be covered by them alone.
    alone = [need for need, s in zip(needs, sides, strict=True) if len(s.free) == count]
    least, most = (max(alone), max(needs)) if alone else (1, min(needs))
    wanted = min(max(asked, least), most)
    spread = math.exp(NEAR * count)
    low = max(least, math.ceil(wanted / spread), round(wanted) - _PRODUCTS)
    most += max(8, most // 200) if alone else 0
    high = min(most, math.floor(wanted * spread), round(wanted) + _PRODUCTS)

    def padding(product: int) -> float:
        return sum(-(-need // product) * product / need for need in needs)

    products = range(low, max(low, high) + 1)
    order = sorted(products, key=lambda p: (padding(p), abs(p - wanted)))
    return order[:_PRODUCTS], wanted
