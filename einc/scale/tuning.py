"""Which learning rates to try for a contestant, and which is the best.

In: validation losses by the exponent of the rate. Out: exponents still to try, or the
best one. All contestants begin with the same grid; where the best is at an end of what was
tried, the next one there is tried too, within bounds.
"""

from __future__ import annotations

from collections.abc import Mapping

GRID = (-8, -7, -6)
LOWEST, HIGHEST = -14, -2
USUAL = 4
"""How many rates are tried for a contestant as a rule."""


def rate(exponent: int) -> float:
    """The learning rate of dense layers at the base width."""
    return 2.0**exponent


def wanted(losses: Mapping[int, float]) -> list[int]:
    """The exponents to try next; none where the best is inside of what was tried.

    A loss is infinite where training failed.

    >>> wanted({})
    [-8, -7, -6]
    >>> wanted({-8: 2.0, -7: 1.5, -6: 1.0}), wanted({-8: 2.0, -7: 1.0, -6: 1.5})
    ([-5], [])
    """
    if missing := [exponent for exponent in GRID if exponent not in losses]:
        return missing
    found = best(losses)
    if found == min(losses):
        return [found - 1] if found > LOWEST else []
    if found == max(losses):
        return [found + 1] if found < HIGHEST else []
    return []


def best(losses: Mapping[int, float]) -> int:
    """The exponent with the lowest loss; of equals the lowest rate."""
    return min(losses, key=lambda exponent: (losses[exponent], exponent))
