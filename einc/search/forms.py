"""What hypergraphs cost and can express, as linear forms in the exponents.

With sizes d^theta each product of sizes is d to a sum of thetas. So the work of every
step of every order, the size of every factor and every cut are sums over sets of
indices: a 0/1 matrix, made once for all hypergraphs of a `Space`, times the thetas. The
exponents are least and largest of these (docs/analysis.md). Thetas are multiples of
1/parts, given by their numerators, and the exponents of rows are exact integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import permutations
from math import lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from einc.network import bits
from einc.search.hypergraphs import Space

Rows = NDArray[np.signedinteger[Any]]
"""Numerators of thetas: a row a structure, a column an index of the space; an index
that a structure does not have is 0."""

MACS_A_VALUE = 32
"""Multiply-adds in the time in which a value goes to or comes from memory: what two
cores of a server do in float32. It only says which structures are worth measuring."""


class Step(NamedTuple):
    """Joining `factor` to x, with which the factors of the mask `joined` are already.

    `touched` is the mask of the indices over which it costs multiply-adds.
    """

    joined: int
    factor: int
    touched: int


class Exponents(NamedTuple):
    """omega, psi and nu of rows, as numerators over `parts`."""

    omega: NDArray[np.int16]
    psi: NDArray[np.int16]
    nu: NDArray[np.int16]


class Estimates(NamedTuple):
    """Figures of rows with sizes that are real numbers: per token, forward.

    `macs` is of the order with the fewest; `time`, in multiply-adds, adds what moving
    its intermediates costs.
    """

    macs: NDArray[np.float64]
    params: NDArray[np.float64]
    rank: NDArray[np.float64]
    intermediate: NDArray[np.float64]
    time: NDArray[np.float64]


@dataclass(frozen=True)
class Forms:
    """The linear forms of all hypergraphs of a space."""

    space: Space

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Every way to join one more factor to x, fewer joined first."""
        n, held = self.space.factors, self.space.held
        return tuple(
            Step(joined, factor, self.kept[joined] | held[factor])
            for joined in sorted(range((1 << n) - 1), key=int.bit_count)
            for factor in range(n)
            if not joined >> factor & 1
        )

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """For each set of factors, the indices of its product with x.

        They are those that are cut where the set stands on the side of x.
        """
        return tuple(
            self.space.select(
                (index.x or bool(index.factors & joined))
                and (index.y or bool(index.factors & ~joined))
                for index in self.space.indices
            )
            for joined in range(1 << self.space.factors)
        )

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """0 and 1: the steps, then the factors, then the cuts; a column an index."""
        masks = (*(s.touched for s in self.steps), *self.space.held, *self.kept)
        columns = range(len(self.space.indices))
        return np.array([[m >> i & 1 for i in columns] for m in masks], np.float32)

    def exponents(self, rows: Rows, parts: int) -> Exponents:
        """The exponents of structures, under the order with the fewest multiply-adds."""
        # Sums of a few small integers are exact in float32, and BLAS is fast.
        values = (self.matrix @ rows.T.astype(np.float32)).astype(np.int16)
        steps, factors, cuts = self._parted(values)
        least = {0: np.zeros(len(rows), np.int16)}
        for step, work in zip(self.steps, steps, strict=True):
            joined = step.joined | 1 << step.factor
            cost = np.maximum(least[step.joined], work)
            least[joined] = np.minimum(least.get(joined, cost), cost)
        work = least[(1 << self.space.factors) - 1]
        return Exponents(work - factors.max(0), cuts.min(0), work - np.int16(parts))

    def estimates(self, rows: Rows, parts: int, d_in: int, d_out: int) -> Estimates:
        """Figures at d_in x d_out features."""
        of_side = {(True, False): d_in, (False, True): d_out}
        sides = ((index.x, index.y) for index in self.space.indices)
        bases = [of_side.get(side, min(d_in, d_out)) for side in sides]
        logs = self.matrix @ (rows * (np.log(bases) / parts)).T
        steps, factors, cuts = self._parted(np.exp(logs))
        zero = np.zeros((3, len(rows)))
        least = {0: zero}
        for step, work in zip(self.steps, steps, strict=True):
            joined = step.joined | 1 << step.factor
            total, moved, largest = least[step.joined]
            result = cuts[joined]
            moved = moved + cuts[step.joined] + result
            found = np.stack([total + work, moved, np.maximum(largest, result)])
            known = least.get(joined, found)
            least[joined] = np.where(found[0] < known[0], found, known)
        macs, moved, largest = least[(1 << self.space.factors) - 1]
        time = macs + MACS_A_VALUE * moved
        return Estimates(macs, factors.sum(0), cuts.min(0), largest, time)

    def order(self, thetas: Sequence[Fraction]) -> tuple[int, ...]:
        """The order of factors with the fewest multiply-adds; of equals the first.

        The largest step counts first, then the second largest, and so on.
        """
        scale = lcm(*(theta.denominator for theta in thetas))
        whole = [int(theta * scale) for theta in thetas]

        def costs(order: tuple[int, ...]) -> list[int]:
            return sorted(
                (sum(whole[i] for i in bits(step)) for step in self.touched(order)),
                reverse=True,
            )

        return min(permutations(range(self.space.factors)), key=costs)

    def touched(self, order: Sequence[int]) -> Iterator[int]:
        """The indices that each step of an order touches, as masks."""
        joined = 0
        for factor in order:
            yield self.kept[joined] | self.space.held[factor]
            joined |= 1 << factor

    def _parted(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The rows of `matrix` that are steps, factors and cuts."""
        first = len(self.steps)
        return np.split(values, [first, first + self.space.factors])
