"""What is best over all hypergraphs of so many factors, exactly.

In: limits on the exponents, and what is wanted least. Out: the least value and
thetas that have it. The exponents are least and largest of linear forms (`forms`), so
each is a linear program with some alternatives: "the largest factor is u" says that all
factors are at most u, and that one is at least u. A program without the alternatives is
solved first; where its best point breaks some, each way to mend that is tried
(branch and bound). No theta is sampled and none is rounded, and the hypergraph with all
indices has every other one inside it, with thetas of 0.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import count, permutations
from typing import NamedTuple

from einc.search.forms import Forms
from einc.search.linear import Number, Row, minimize
from einc.search.wishes import EXPONENTS, Exponent, Limit

MOST_PROGRAMS = 400
"""Programs solved for one answer: with four factors about half a minute."""


class Unsettled(Exception):
    """More programs would have to be solved than are for one answer."""


class Extreme(NamedTuple):
    """The least value of a sum of exponents, and the thetas of a structure that has it,
    one an index of the space."""

    value: Fraction
    thetas: tuple[Fraction, ...]


Clause = tuple[Row, ...]
"""Of these at least one holds."""


@dataclass(frozen=True)
class Programs:
    """The linear programs of a space.

    Variables: a theta for each index, then the exponents of the multiply-adds, of the
    parameters (those of the largest factor) and of the rank. That factors are joined in
    the order in which they are numbered is no loss: some numbering is the best order.
    """

    forms: Forms

    def least(
        self, weights: Mapping[Exponent, Number], limits: Sequence[Limit]
    ) -> Extreme | None:
        """The least sum of weights times exponents; None where the limits leave none.

        Indices of neither x nor y have thetas up to 1: none needs more than d values.
        Raises `Unsettled`; what asks for the least nu under limits never came near it.
        """
        cost, constant = self._exponent_sum(weights)
        always = [
            *self._always,
            *(row for limit in limits for row in self._limit(limit)),
        ]
        tie = count()
        waiting: list[tuple[Fraction, int, tuple[Fraction, ...], tuple[Row, ...]]] = []

        def solve(chosen: tuple[Row, ...]) -> None:
            found = minimize(cost, [*always, *chosen])
            if found is not None:
                heapq.heappush(waiting, (found[0], next(tie), found[1], chosen))

        solve(())
        while waiting:
            value, solved, point, chosen = heapq.heappop(waiting)
            broken = next((c for c in self._clauses if not _any_holds(c, point)), None)
            if broken is None:
                return Extreme(value + constant, point[: self._thetas])
            if solved > MOST_PROGRAMS:
                raise Unsettled
            for row in broken:
                solve((*chosen, row))
        return None

    @property
    def _thetas(self) -> int:
        return len(self.forms.space.indices)

    def _exponent_sum(
        self, weights: Mapping[Exponent, Number]
    ) -> tuple[tuple[Number, ...], Fraction]:
        """A sum of exponents in the variables, and what is to be added to it."""
        omega, psi, nu = (weights.get(exponent, 0) for exponent in EXPONENTS)
        return (*[0] * self._thetas, omega + nu, -omega, psi), Fraction(-nu)

    def _limit(self, limit: Limit) -> Iterator[Row]:
        """A limit on an exponent; others hold of no exponent."""
        if limit.figure not in EXPONENTS:
            return
        row, constant = self._exponent_sum({limit.figure: 1})
        bound = limit.value - constant
        if limit.relation != ">=":
            yield Row(row, bound)
        if limit.relation != "<=":
            yield Row(tuple(-value for value in row), -bound)

    @cached_property
    def _always(self) -> tuple[Row, ...]:
        """What holds of every structure of the space."""
        space = self.forms.space
        order = range(space.factors)
        return (
            *self._is_one(space.x),
            *self._is_one(space.y),
            *(
                Row(self._row(1 << i), 1)
                for i in range(self._thetas)
                if not (space.x | space.y) >> i & 1
            ),
            # These two follow from the clauses, but bound a program without them.
            Row(self._row((1 << self._thetas) - 1, -1, work=1), 0),
            Row(self._row(0, work=-1, largest=1), 0),
            *(Row(self._row(mask, work=-1), 0) for mask in self.forms.touched(order)),
            *(Row(self._row(held, largest=-1), 0) for held in space.held),
            *(Row(self._row(cut, -1, rank=1), 0) for cut in self.forms.kept),
        )

    @cached_property
    def _clauses(self) -> tuple[Clause, ...]:
        """What besides makes the last three variables what they are called."""
        space = self.forms.space
        return (
            tuple(Row(self._row(held, -1, largest=1), 0) for held in space.held),
            tuple(Row(self._row(cut, rank=-1), 0) for cut in self.forms.kept),
            *(
                tuple(
                    Row(self._row(mask, -1, work=1), 0)
                    for mask in self.forms.touched(order)
                )
                for order in permutations(range(space.factors))
            ),
        )

    def _is_one(self, mask: int) -> tuple[Row, Row]:
        return Row(self._row(mask), 1), Row(self._row(mask, -1), -1)

    def _row(
        self, mask: int, sign: int = 1, work: int = 0, largest: int = 0, rank: int = 0
    ) -> tuple[int, ...]:
        thetas = (sign * (mask >> i & 1) for i in range(self._thetas))
        return (*thetas, work, largest, rank)


def _any_holds(clause: Clause, point: Sequence[Fraction]) -> bool:
    return any(
        sum(c * v for c, v in zip(row.coefficients, point, strict=True)) <= row.bound
        for row in clause
    )
