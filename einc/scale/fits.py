"""Scaling laws: L(C) = E + A (C / unit)^-b, fitted to points of frontiers.

In: costs and losses. Out: `Fit`s. E is the loss that no compute removes, A what is above
it at `unit`, b the exponent. Least squares of relative errors, which for small ones are
those of the logarithm. The fit describes the points; nothing is claimed beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Points = tuple[Array, Array]
"""Costs and losses."""

EXPONENTS = (1e-3, 4.0)
"""What is tried for b."""
PARAMETERS = 3
_TRIED = 17
_ROUNDS = 7
"""Each leaves an eighth of the range: after seven less than 1e-6 of it."""


@dataclass(frozen=True)
class Fit:
    """L(C) = E + A (C / unit)^-b; `error` is the root mean square of relative errors."""

    E: float
    A: float
    b: float
    unit: float
    error: float

    def __call__(self, costs: ArrayLike) -> Array:
        """Losses at costs."""
        scaled = np.asarray(costs, np.float64) / self.unit
        return self.E + self.A * np.asarray(scaled**-self.b, np.float64)

    @property
    def determined(self) -> bool:
        """Whether b is not at an end of what is tried."""
        low, high = EXPONENTS
        return 1.01 * low < self.b < 0.99 * high


def fit(costs: Array, losses: Array, unit: float) -> Fit | None:
    """The law of one frontier. None of no more points than it has parameters."""
    found = fit_shared([(costs, losses)], unit)
    return found[0]


def fit_shared(frontiers: Sequence[Points], unit: float) -> list[Fit | None]:
    """Laws with one E for all frontiers, each with its own A and b.

    >>> costs = np.geomspace(1, 1e4, 9)
    >>> [found] = fit_shared([(costs, 2 + 3 * costs**-0.25)], unit=1)
    >>> [round(float(v), 4) for v in (found.E, found.A, found.b)]
    [2.0, 3.0, 0.25]
    """
    enough = [len(costs) > PARAMETERS for costs, _ in frontiers]
    used = [
        points for points, is_used in zip(frontiers, enough, strict=True) if is_used
    ]
    if not used:
        return [None] * len(frontiers)
    low, high = 0.0, min(float(losses.min()) for _, losses in used)
    top = high
    for _ in range(_ROUNDS):
        tried = np.linspace(low, high, _TRIED)
        errors = sum(_best(points, tried, unit)[2] for points in used)
        low, high = _around(tried, int(np.argmin(errors)), 0.0, top)
    E = np.array([(low + high) / 2])
    fits = iter([_fit(points, E, unit) for points in used])
    return [next(fits) if is_used else None for is_used in enough]


def _fit(points: Points, E: Array, unit: float) -> Fit:
    b, A, error = (float(value[0]) for value in _best(points, E, unit))
    return Fit(float(E[0]), A, b, unit, float(np.sqrt(error / len(points[0]))))


def _best(points: Points, E: Array, unit: float) -> tuple[Array, Array, Array]:
    """The best b and A for each E, and the sum of squares that they leave."""
    costs, losses = points
    x = np.log(costs / unit)
    wanted = 1 - E[:, None, None] / losses  # E, b, point
    low, high = (np.full(len(E), np.log(end)) for end in EXPONENTS)
    for _ in range(_ROUNDS):
        tried = np.linspace(low, high, _TRIED, axis=1)
        A, errors = _linear(np.exp(tried), wanted, x, losses)
        at = np.argmin(errors, axis=1)
        step = (high - low) / (_TRIED - 1)
        middle = low + at * step
        low = np.maximum(middle - step, np.log(EXPONENTS[0]))
        high = np.minimum(middle + step, np.log(EXPONENTS[1]))
    b = np.exp((low + high) / 2)
    A, errors = _linear(b[:, None], wanted, x, losses)
    return b, A[:, 0], errors[:, 0]


def _linear(b: Array, wanted: Array, x: Array, losses: Array) -> tuple[Array, Array]:
    """The best A for each E and b, which is linear, and its sum of squares."""
    powers = np.exp(-b[:, :, None] * x) / losses
    A = (powers * wanted).sum(-1) / (powers**2).sum(-1)
    return A, ((A[:, :, None] * powers - wanted) ** 2).sum(-1)


def _around(tried: Array, i: int, low: float, high: float) -> tuple[float, float]:
    step = float(tried[1] - tried[0])
    return max(float(tried[i]) - step, low), min(float(tried[i]) + step, high)
