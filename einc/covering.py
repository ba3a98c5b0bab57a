"""Sizes for indices of several sides, where choosing term by term leaves one too small.

In: a `Structure`, its features, the sizes that are laid down and what is asked of the
others. Out: sizes for all indices that stand in more than one side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set

from einc.structure import Axis, Structure


def covering(
    structure: Structure,
    features: tuple[int, int],
    sizes: Mapping[str, int],
    targets: Mapping[str, float],
    ties: Sequence[Set[str]],
) -> dict[str, int]:
    """As asked, rounded up; where a side is too small, those of it grow alike.

    `targets` are logarithms. Each of `ties` takes one size. A side whose sizes are all
    exact stays as it is.
    """
    sides = [
        (count, side)
        for term in structure.terms
        for count, side in zip(features, term.sides, strict=True)
    ]
    places = Counter(name for _, side in sides for name in {a.name for a in side})
    chosen: dict[str, int] = {}

    def known(axis: Axis) -> float:
        """The logarithm of a size, as far as it is known."""
        if axis.name in sizes:
            return math.log(sizes[axis.name])
        return targets.get(axis.name, 0.0)

    def choose(name: str, size: int) -> None:
        for other in next((tie for tie in ties if name in tie), {name}):
            if other not in sizes:
                chosen[other] = max(size, chosen.get(other, 1))

    for count, side in sides:
        for axis in side:
            if axis.name in sizes or places[axis.name] == 1:
                continue
            target = targets.get(axis.name)
            if target is None:
                target = math.log(count) - sum(map(known, side))
            choose(axis.name, math.ceil(math.exp(target) - 1e-9))
    for count, side in sides:
        own = [a.name for a in side if a.name in chosen]
        while own and all(a.name in chosen or a.name in sizes for a in side):
            product = math.prod(chosen.get(a.name) or sizes[a.name] for a in side)
            if product >= count:
                break
            growth = (count / product) ** (1 / len(own))
            for name in own:
                choose(name, max(chosen[name] + 1, math.ceil(chosen[name] * growth)))
    return chosen
