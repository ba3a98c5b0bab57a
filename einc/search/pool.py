"""The rows of a search that are worth a closer look, of all that have come by.

In: blocks of rows with their scores (less is better). Out: the rows kept, best first.
What is kept does not depend on the order in which the blocks come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from einc.search.forms import Rows

Scores = NDArray[np.float64]
"""A row a structure, a column an objective."""
Places = NDArray[np.intp]

ALIKE = 8
"""Of structures with the same scores so many are kept in a front."""
SPARE = 8
"""Rows of a hypergraph, of different scores: with its integer sizes the best may be past
a limit."""
_DIGITS = 9
"""What is equal but for the rounding of floats is equal."""


@dataclass
class Pool:
    """Rows of one space with their scores.

    Without `slack` those with the least first score, of equals those with the least
    second, and so on: of at most `size` hypergraphs, up to `SPARE` of each, none worse
    than the best of the last. With `slack` those that no other row betters by more than
    that in all objectives, of which the `size` nearest to the front are the best.
    """

    rows: Rows
    scores: Scores
    size: int
    slack: NDArray[np.float64] | None = None

    def add(self, rows: Rows, scores: Scores) -> None:
        """Takes in what is good enough of some more rows."""
        scores = np.round(scores, _DIGITS)
        if self.slack is None and len({*_graphs(self.rows)}) == self.size:
            hopeful = scores[:, 0] <= self.scores[-1, 0]
            rows, scores = rows[hopeful], scores[hopeful]
        rows = np.concatenate([self.rows, rows])
        scores = np.concatenate([self.scores, scores])
        if self.slack is not None:
            near = near_front(scores, self.slack)
            rows, scores = rows[near], scores[near]
        order = _sorted(rows, scores)
        rows, scores = rows[order], scores[order]
        if self.slack is None:
            graphs = _graphs(rows)
            first = _ordinal(graphs) < 1
            alike = _hashed(np.stack([graphs, _hashed(scores.view(np.int64))], 1))
            kept = (np.cumsum(first) - first < self.size) & (_ordinal(alike) < 1)
            kept[kept] = _ordinal(graphs[kept]) < SPARE
        else:
            kept = _ordinal(_hashed(rows)) < 1  # what was walked twice counts once
            kept[kept] = _ordinal(_hashed(scores[kept].view(np.int64))) < ALIKE
        self.rows, self.scores = rows[kept], scores[kept]

    def best(self) -> list[Rows]:
        """At most `size` rows, the best first, each before others of its hypergraph."""
        if self.slack is not None:
            return list(self.rows[nearest(self.scores, self.size), None])
        graphs = _graphs(self.rows)
        return [self.rows[graphs == graph] for graph in dict.fromkeys(graphs)]


def front(scores: Scores) -> Places:
    """The places of one row for each best trade: none is better in all objectives.

    >>> front(np.array([[2.0, 1.0], [1.0, 2.0], [2.0, 2.0], [1.0, 2.0]])).tolist()
    [0, 1]
    """
    found = []
    # A row that is no worse in anything has no larger sum.
    waiting = np.argsort(scores.sum(1), kind="stable")
    while len(waiting):
        first = waiting[0]
        found.append(first)
        waiting = waiting[(scores[waiting] < scores[first]).any(1)]
    return np.sort(np.array(found, np.intp))


def near_front(scores: Scores, slack: NDArray[np.float64]) -> Places:
    """The places of the rows that none betters by more than `slack` in all objectives,
    and that none betters by nothing in some and by something in others."""
    near = np.arange(len(scores))
    for best in scores[front(scores)]:
        rows = scores[near]
        worse = (best <= rows - slack).all(1) & (best < rows).any(1)
        near = near[~worse]
    return near


def nearest(scores: Scores, size: int) -> Places:
    """The places of `size` rows nearest to the front; of equally near ones such as are
    far from each other, so that no stretch of the front is left out."""
    behind = _behind(scores)
    if len(scores) <= size:
        return np.argsort(behind, kind="stable")
    limit = np.sort(behind, kind="stable")[size - 1]
    nearer = np.flatnonzero(behind < limit)
    equal = np.flatnonzero(behind == limit)
    order = np.argsort(behind[nearer], kind="stable")
    far = _far_apart(scores[equal], size - len(nearer))
    return np.concatenate([nearer[order], equal[far]])


def _far_apart(scores: Scores, size: int) -> Places:
    """Rows each of which is as far as can be from those before it."""
    chosen = [int(np.argmin(scores[:, 0]))]
    distance = np.full(len(scores), np.inf)
    while len(chosen) < size:
        new = np.abs(scores - scores[chosen[-1]]).max(1)
        distance = np.minimum(distance, new)
        distance[chosen[-1]] = -1.0
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen, np.intp)


def _behind(scores: Scores) -> NDArray[np.float64]:
    """By how much the front betters each row in the objective where it does so least."""
    result = np.zeros(len(scores))
    for best in scores[front(scores)]:
        result = np.maximum(result, (scores - best).min(1))
    return result


def _sorted(rows: Rows, scores: Scores) -> Places:
    """The order by scores; of equals the fewest indices first."""
    ties = (_hashed(rows), _graphs(rows), np.count_nonzero(rows, 1))
    return np.lexsort((*ties, *scores.T[::-1]))


def _ordinal(keys: NDArray[np.int64]) -> Places:
    """How many equal keys stand before each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.r_[True, ordered[1:] != ordered[:-1]][: len(keys)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(keys)), 0))
    result = np.empty(len(keys), np.intp)
    result[order] = np.arange(len(keys)) - first
    return result


def _graphs(rows: Rows) -> NDArray[np.int64]:
    """The hypergraph of each row, which is the set of indices that are there."""
    return _hashed(rows > 0)


def _hashed(rows: NDArray[np.int64] | NDArray[np.bool_] | Rows) -> NDArray[np.int64]:
    """An integer a row, the same for equal rows."""
    result = np.zeros(len(rows), np.int64)
    for column in rows.T:
        result = result * 1_000_003 + column  # wraps around
    return result
