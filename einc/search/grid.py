"""Exponents on a grid: every way to give the indices of hypergraphs positive thetas.

In: the classes of a `Beginning`, and into how many `parts` an exponent of 1 is divided.
Out: rows of numerators. A theta of 0 would be a hypergraph without that index, so all
are positive: each structure of the grid comes once, up to what a hypergraph's own
symmetries make equal. A hypergraph with more indices of x or y than parts has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from einc.search.forms import Rows
from einc.search.hypergraphs import Beginning, Space

BLOCK = 1 << 17
"""Rows that are handed on at once."""
CANDIDATES = 1 << 20
"""Rows that are looked at at once."""


def rows(
    space: Space, beginning: Beginning, parts: int, largest: int | None = None
) -> Iterator[Rows]:
    """All structures of some classes, a block at a time.

    Left out is what is another structure in disguise: where a factor has no index that
    another one has not as well, so that it is a part of that one; and where indices of
    two factors alone are no fewer than what one of them does not share with the other,
    so that their product would be smaller. Factors of more than d^(largest/parts)
    parameters are left out too: no order costs less than the largest factor.
    """
    waiting: list[Rows] = []
    for shape, masks in _by_shape(space, beginning.masks[_parted(space, beginning)]):
        values = _thetas(parts, *shape)
        step = max(1, CANDIDATES // max(1, len(values)))
        for start in range(0, len(masks) if len(values) else 0, step):
            found = _spread(space, masks[start : start + step], values, largest)
            waiting.append(found[~_wasteful(space, found)])
            if sum(map(len, waiting)) >= BLOCK:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _parted(space: Space, beginning: Beginning) -> NDArray[np.bool_]:
    """Where every factor has an index that another one has not."""
    good = np.ones(len(beginning.masks), bool)
    own = [beginning.masks & held for held in space.held]
    for i, part in enumerate(own):
        for whole in own[:i] + own[i + 1 :]:
            good &= (part & ~whole) != 0
    return good


Shape = tuple[int, int, int, int]
"""How many indices of x alone, of y alone, of neither and of both."""


def _by_shape(
    space: Space, masks: NDArray[np.int64]
) -> Iterator[tuple[Shape, NDArray[np.int64]]]:
    both = space.x & space.y
    inner = ~(space.x | space.y)
    groups = (space.x & ~both, space.y & ~both, inner, both)
    counts = np.stack([np.bitwise_count(masks & group) for group in groups], 1)
    for shape in np.unique(counts, axis=0):
        yield tuple(shape.tolist()), masks[(counts == shape).all(1)]


def _spread(
    space: Space,
    masks: NDArray[np.int64],
    values: NDArray[np.int8],
    largest: int | None,
) -> Rows:
    """Each mask with each of the `values`, as rows over all indices of the space."""
    held = (masks[:, None] >> np.arange(len(space.indices))) & 1
    places = np.nonzero(held)[1].reshape(len(masks), values.shape[1])
    good = np.ones((len(masks), len(values)), bool)
    if largest is not None:
        for factor in space.held:
            member = (factor >> places & 1).astype(np.float32)
            good &= member @ values.T.astype(np.float32) <= largest
    which, how = np.nonzero(good)
    result = np.zeros((len(which), len(space.indices)), np.int8)
    np.put_along_axis(result, places[which], values[how], 1)
    return result


def _wasteful(space: Space, rows: Rows) -> NDArray[np.bool_]:
    """Where the bond of two factors is larger than it can use."""
    sums = _pairs(space) @ rows.T.astype(np.float32)
    bonds, *rests = np.split(sums, 3)
    return np.asarray(((bonds > 0) & (bonds >= np.minimum(*rests))).any(0))


@cache
def _pairs(space: Space) -> NDArray[np.float32]:
    """0 and 1, a column an index: for each pair of factors the indices of these two
    alone, then for each those of one and not the other, then of the other."""
    held = space.held
    pairs = list(combinations(range(space.factors), 2))
    masks = [
        space.select(
            index == (False, False, 1 << i | 1 << j) for index in space.indices
        )
        for i, j in pairs
    ]
    masks += [held[i] & ~held[j] for i, j in pairs]
    masks += [held[j] & ~held[i] for i, j in pairs]
    columns = range(len(space.indices))
    table = [[mask >> i & 1 for i in columns] for mask in masks]
    return np.array(table, np.float32).reshape(-1, len(space.indices))


@cache
def _thetas(parts: int, x: int, y: int, inner: int, both: int) -> NDArray[np.int8]:
    """Positive numerators for so many indices: each side's add to `parts`."""
    found = [
        (*of_x, *of_y, *of_inner, *of_both)
        for of_both in product(range(1, parts + 1), repeat=both)
        for of_x in _compositions(parts - sum(of_both), x)
        for of_y in _compositions(parts - sum(of_both), y)
        for of_inner in product(range(1, parts + 1), repeat=inner)
    ]
    return np.array(found, np.int8).reshape(-1, x + y + inner + both)


def _compositions(total: int, count: int) -> list[tuple[int, ...]]:
    """All ordered ways to add `count` positive integers to `total`."""
    if count == 0:
        return [()] if total == 0 else []
    return [
        (first, *rest)
        for first in range(1, total - count + 2)
        for rest in _compositions(total - first, count - 1)
    ]
