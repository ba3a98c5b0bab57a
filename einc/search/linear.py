"""Linear programs in exact rationals, by the simplex method.

In: integers or fractions. Out: the least value and a point that has it, both exact. For
programs of some tens of variables. (sympy's `linprog` is exact too, but sympy 1.14
returns points that break constraints, on programs as small as those of two factors.)
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

Number = int | Fraction


class Row(NamedTuple):
    """The constraint coefficients * x <= bound."""

    coefficients: tuple[Number, ...]
    bound: Number


class Unbounded(ValueError):
    """There is no least value."""


def minimize(
    cost: Sequence[Number], rows: Sequence[Row]
) -> tuple[Fraction, tuple[Fraction, ...]] | None:
    """The least cost * x over x >= 0 under one or more `rows`, and a vertex with it.

    None where no x meets all rows. Raises `Unbounded`.

    >>> value, x = minimize([-1, -1], [Row((2, 1), 3), Row((1, 3), 4)])
    >>> str(value), [str(v) for v in x]
    ('-2', ['1', '1'])
    """
    tableau = _Tableau(rows, len(cost))
    if not tableau.find_feasible():
        return None
    value = tableau.descend([*cost, *[0] * len(rows), 0])
    return value, tableau.point()


class _Tableau:
    """Rows in terms of the variables that are not in the basis; a slack for each row.

    Columns: the variables, the slacks, one artificial variable, the right-hand side.
    """

    def __init__(self, rows: Sequence[Row], variables: int) -> None:
        self.variables = variables
        self.artificial = variables + len(rows)
        self.rows = [
            [
                *map(Fraction, row.coefficients),
                *(Fraction(i == j) for j in range(len(rows))),
                Fraction(-1),
                Fraction(row.bound),
            ]
            for i, row in enumerate(rows)
        ]
        self.basis = list(range(variables, self.artificial))

    def find_feasible(self) -> bool:
        """Moves to a vertex, by making an artificial violation of all rows least."""
        worst = min(range(len(self.rows)), key=lambda i: self.rows[i][-1])
        if self.rows[worst][-1] < 0:
            self._pivot(worst, self.artificial)
            if self.descend([0] * self.artificial + [1]) > 0:
                return False
            if self.artificial in self.basis:
                place = self.basis.index(self.artificial)
                row = self.rows[place]
                self._pivot(place, next(j for j in range(self.artificial) if row[j]))
        for row in self.rows:
            row[self.artificial] = Fraction(0)  # never to enter from here on
        return True

    def descend(self, cost: Sequence[Number]) -> Fraction:
        """Moves to the vertex of the least cost, which it returns.

        By Bland's rule: the first column that lowers the cost enters, and of the rows
        that limit it the one of the first variable leaves. So no vertex comes twice.
        """
        reduced = [*map(Fraction, cost), Fraction(0)]
        for row, variable in zip(self.rows, self.basis, strict=True):
            _subtract(reduced, row, reduced[variable])
        while True:
            entering = next((j for j, c in enumerate(reduced[:-1]) if c < 0), None)
            if entering is None:
                return -reduced[-1]
            limits = [
                (row[-1] / row[entering], self.basis[i], i)
                for i, row in enumerate(self.rows)
                if row[entering] > 0
            ]
            if not limits:
                raise Unbounded("the cost has no least value")
            leaving = min(limits)[2]
            self._pivot(leaving, entering)
            _subtract(reduced, self.rows[leaving], reduced[entering])

    def point(self) -> tuple[Fraction, ...]:
        """The variables at this vertex."""
        values = dict(zip(self.basis, (row[-1] for row in self.rows), strict=True))
        return tuple(values.get(j, Fraction(0)) for j in range(self.variables))

    def _pivot(self, place: int, entering: int) -> None:
        divisor = self.rows[place][entering]
        row = self.rows[place] = [value / divisor for value in self.rows[place]]
        for other in self.rows:
            if other is not row:
                _subtract(other, row, other[entering])
        self.basis[place] = entering


def _subtract(target: list[Fraction], row: list[Fraction], times: Fraction) -> None:
    if times:
        for j, value in enumerate(row):
            if value:
                target[j] -= times * value
