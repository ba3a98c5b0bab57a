"""From the grid to finer exponents: a climb in steps of half a part, then a quarter.

In: a row, and what scores rows. Out: a row that no one or two moves better, on a grid
that is four times as fine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from einc.search.forms import Rows
from einc.search.hypergraphs import Space
from einc.search.pool import Scores

HALVINGS = 2
MOST_MOVES = 40
"""Moves at one step size."""

Scored = Callable[[Rows, int], tuple[Rows, Scores]]
"""Of rows over so many parts those that keep the limits, and their scores."""


def refined(scored: Scored, row: Rows, parts: int, space: Space) -> tuple[Rows, int]:
    """The best row near `row`, and its parts. It has the same indices."""
    best = row[None].astype(np.int16)  # a theta may grow past what int8 holds
    for _ in range(HALVINGS):
        best, parts = best * 2, parts * 2
        for _ in range(MOST_MOVES):
            near, scores = scored(_near(best, space), parts)
            if not len(near):
                break
            # Of equals the first, which is the row itself.
            least = near[np.lexsort(scores.T[::-1])[:1]]
            if (least == best).all():
                break
            best = least
    return best[0], parts


def _near(row: Rows, space: Space) -> Rows:
    """The row, and those that one or two moves make of it."""
    moves = np.array(list(_moves(row[0], space)), np.int8).reshape(-1, row.shape[1])
    # One move may pay only with another, such as one on the other side.
    twice = (moves[:, None] + moves[None]).reshape(-1, row.shape[1])
    near = row + np.concatenate([np.zeros_like(row), moves, twice])
    there = (near > 0).sum(1) == (row > 0).sum()
    return np.asarray(near[there])


def _moves(row: Rows, space: Space) -> Iterator[Rows]:
    """Changes: an index gives a part to another of its side; one of neither side gets
    or gives one."""
    there = np.flatnonzero(row)
    sides = [(bool(space.x >> i & 1), bool(space.y >> i & 1)) for i in there]
    one = np.eye(len(row), dtype=np.int8)
    for giver, of in zip(there, sides, strict=True):
        for taker, to in zip(there, sides, strict=True):
            if giver != taker and of == to and any(of):
                yield one[taker] - one[giver]
        if not any(of):
            yield one[giver]
            yield -one[giver]
