"""A walk over a space: the rows of all its structures that are worth a closer look.

In: `Settings` and a `Space`. Out: a `Walk`, which takes a `Beginning` at a time and has
the best rows so far, and `Candidate`s for them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einc import compiler
from einc.search import grid
from einc.search.candidates import Candidate
from einc.search.forms import Forms, Rows
from einc.search.hypergraphs import BOTH_FACTORS, Beginning, Space
from einc.search.pool import Pool, Scores
from einc.search.refine import refined
from einc.search.wishes import EXPONENTS, Figure, Limit, Objective

PARTS = {1: 12, 2: 12, 3: 6, 4: 4}
"""Into how many parts an exponent of 1 is divided, for each number of factors: as fine
as takes seconds, not minutes."""
CLOSER = 120
"""Rows that are worth a closer look, for each number of factors."""
ROUNDING = 1.001
"""How far an estimate may break a limit: powers of two are estimated exactly, but for
the rounding of floats, and other sizes fall to both sides."""
SLACK = 1.02
TIME_SLACK = 1.5
"""How far behind the front a structure may be and still get a closer look: estimates
leave out that sizes are integers, and of times they are no more than a guess."""


@dataclass(frozen=True)
class Settings:
    """What is searched, for what. Features may be left open: then by exponents alone."""

    d_in: int | None = None
    d_out: int | None = None
    factors: int = 3
    both: bool = False
    parts: int | None = None
    limits: tuple[Limit, ...] = ()
    objectives: tuple[Objective, ...] = (Objective("nu", False),)
    pareto: bool = False
    tokens: int = compiler.DEFAULT_TOKENS
    seed: int = 0

    @property
    def features(self) -> tuple[int, int] | None:
        if self.d_in is None or self.d_out is None:
            return None
        return self.d_in, self.d_out

    def spaces(self) -> Iterator[Space]:
        """Of one factor, two, and so on."""
        for factors in range(1, self.factors + 1):
            yield Space(factors, self.both and factors <= BOTH_FACTORS)

    def grid(self, factors: int) -> int:
        """The parts of an exponent of 1: such that powers of two stay powers of two.

        The most up to `PARTS` of which log2 of both features is a multiple, if that is
        more than half of them; else `PARTS`.
        """
        most = self.parts or PARTS[factors]
        if self.parts or self.features is None:
            return most
        logs = [d.bit_length() - 1 for d in self.features if d & (d - 1) == 0]
        for parts in range(most, most // 2, -1):
            if len(logs) == 2 and not any(log % parts for log in logs):
                return parts
        return most


@dataclass
class Walk:
    """One space: which beginnings are done, by their indices of x, how much that was,
    and the rows that are worth a closer look."""

    settings: Settings
    space: Space
    pool: Pool
    done: set[int] = field(default_factory=set)
    classes: int = 0
    structures: int = 0

    @staticmethod
    def of(settings: Settings, space: Space) -> Walk:
        """With nothing walked yet."""
        rows = np.zeros((0, len(space.indices)), np.int8)
        scores = np.zeros((0, len(settings.objectives)))
        slack = np.array([_slack(o.figure) for o in settings.objectives])
        pool = Pool(rows, scores, CLOSER, slack if settings.pareto else None)
        return Walk(settings, space, pool)

    @cached_property
    def forms(self) -> Forms:
        return Forms(self.space)

    @property
    def parts(self) -> int:
        return self.settings.grid(self.space.factors)

    def step(self, beginning: Beginning) -> None:
        """Walks all classes of a beginning."""
        structures = 0
        for rows in grid.rows(self.space, beginning, self.parts, self._largest):
            structures += len(rows)
            self.pool.add(*self.scored(rows, self.parts))
        self.structures += structures
        self.classes += len(beginning.masks)
        self.done.add(beginning.of_x)

    @property
    def _largest(self) -> int | None:
        """The exponent of the largest factor that limits on nu leave."""
        upper = [
            limit.value
            for limit in self.settings.limits
            if limit.figure == "nu" and limit.relation != ">="
        ]
        return int(self.parts * (1 + min(upper))) if upper else None

    def scored(
        self, rows: Rows, parts: int, margin: float = 1.0
    ) -> tuple[Rows, Scores]:
        """The rows that keep the limits, with their scores.

        Figures at features are estimates, so of limits on these they may miss a little;
        with a `margin` below 1 these are as much tighter.
        """
        limits, features = self.settings.limits, self.settings.features
        found = self.forms.exponents(rows, parts)
        values: dict[Figure, NDArray[Any]]
        values = {"omega": found.omega, "psi": found.psi, "nu": found.nu}
        kept = np.ones(len(rows), bool)
        for limit in limits:
            if limit.figure in values:
                kept &= _compared(values[limit.figure], limit, parts)
        rows = rows[kept]
        values = {name: value[kept] / parts for name, value in values.items()}
        if features is not None:
            counted = self.forms.estimates(rows, parts, *features)
            counts: dict[Figure, NDArray[Any]] = {
                "flops": 2 * counted.macs,
                "params": counted.params,
                "params-per-flop": counted.params / (2 * counted.macs),
                "rank": counted.rank,
                "intermediate": counted.intermediate,
                "time": counted.time,
            }
            kept = np.ones(len(rows), bool)
            for limit in limits:
                if limit.figure in counts:
                    kept &= _nearly(counts[limit.figure], limit, margin * ROUNDING)
            rows = rows[kept]
            values |= {name: np.log(value) for name, value in counts.items()}
            values = {name: value[kept] for name, value in values.items()}
        wanted = self.settings.objectives
        scores = [o.score(1) * values[o.figure] for o in wanted]
        return rows, np.stack(scores, 1).astype(np.float64)

    def candidate(self, row: Rows) -> Candidate:
        """What a row stands for."""
        return self._candidate(row, self.parts)

    def refined(self, row: Rows, margin: float) -> Candidate:
        """The best near a row by finer exponents, limits being as much tighter."""
        scored = partial(self.scored, margin=margin)
        return self._candidate(*refined(scored, row, self.parts, self.space))

    def _candidate(self, row: Rows, parts: int) -> Candidate:
        return Candidate.of(self.forms, [Fraction(int(n), parts) for n in row])


def _compared(values: NDArray[Any], limit: Limit, parts: int) -> NDArray[np.bool_]:
    """Where numerators over `parts` keep a limit, without rounding."""
    scaled = values.astype(np.int64) * limit.value.denominator
    compare = {"<=": operator.le, "=": operator.eq, ">=": operator.ge}[limit.relation]
    return np.asarray(compare(scaled, limit.value.numerator * parts))


def _nearly(values: NDArray[Any], limit: Limit, loose: float) -> NDArray[np.bool_]:
    """Where estimates keep a limit, one that is a factor looser."""
    if limit.relation == "<=":
        return np.asarray(values <= float(limit.value) * loose)
    return np.asarray(values >= float(limit.value) / loose)


def _slack(figure: Figure) -> float:
    """How far behind the front a figure may be: exponents not at all, counts by a
    factor, whose logarithm is scored."""
    if figure in EXPONENTS:
        return 0.0
    return float(np.log(TIME_SLACK if figure == "time" else SLACK))
