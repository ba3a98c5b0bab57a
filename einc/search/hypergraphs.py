"""Index hypergraphs of x, y and n factors: all of them, each once up to isomorphism.

In: a `Space` (how many factors, how many indices). Out: its classes. An index is the set
of tensors that it joins, so a hypergraph is a set of such sets (indices of the same
tensors are one). Two are isomorphic where a renaming of the factors makes one of the
other; x stays x and y stays y, so a structure and its transpose are two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, permutations
from math import comb, factorial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_FACTORS = 4
"""Of four factors there are 41 indices that x and y do not share, and 2^41 sets."""
MAX_INDICES = {4: 8}
"""For so many factors no more indices than that: 5,139,162 classes."""
BOTH_FACTORS = 2
"""Indices of both x and y are listed up to so many factors."""


class Index(NamedTuple):
    """The tensors that an index joins: x, y, and a mask of the factors."""

    x: bool
    y: bool
    factors: int


@dataclass(frozen=True)
class Beginning:
    """All classes whose indices of x are `of_x` (a mask), as masks of `Space.indices`.

    The unit in which a space is walked: `masks` are the classes in increasing order.
    """

    of_x: int
    masks: NDArray[np.int64]


@dataclass(frozen=True)
class Space:
    """The hypergraphs of exactly `factors` factors, each of which has an index.

    `both`: with indices of both x and y. x and y have an index each. No index joins
    fewer than two tensors: one of a factor alone, or of x alone, is summed at once.
    """

    factors: int
    both: bool = False
    max_indices: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.factors <= MAX_FACTORS:
            raise ValueError(f"at most {MAX_FACTORS} factors, not {self.factors}")
        if self.both and self.factors > BOTH_FACTORS:
            raise ValueError("indices of both x and y: at most two factors")

    @property
    def limit(self) -> int:
        """The most indices a hypergraph may have."""
        most = MAX_INDICES.get(self.factors, len(self.indices))
        return most if self.max_indices is None else min(most, self.max_indices)

    @cached_property
    def indices(self) -> tuple[Index, ...]:
        """Every possible index: those of x, of y, of factors alone, of both."""
        masks = range(1, 1 << self.factors)
        return (
            *(Index(True, False, mask) for mask in masks),
            *(Index(False, True, mask) for mask in masks),
            *(Index(False, False, mask) for mask in masks if mask.bit_count() > 1),
            *(
                Index(True, True, mask)
                for mask in range(1 << self.factors)
                if self.both
            ),
        )

    def select(self, wanted: Iterator[bool]) -> int:
        """A mask of the indices that are wanted."""
        return sum(1 << i for i, yes in enumerate(wanted) if yes)

    @cached_property
    def x(self) -> int:
        """A mask of the indices of x."""
        return self.select(index.x for index in self.indices)

    @cached_property
    def y(self) -> int:
        """A mask of the indices of y."""
        return self.select(index.y for index in self.indices)

    @cached_property
    def held(self) -> tuple[int, ...]:
        """For each factor, a mask of the indices it may have."""
        return tuple(
            self.select(bool(index.factors >> f & 1) for index in self.indices)
            for f in range(self.factors)
        )

    @cached_property
    def renamings(self) -> tuple[tuple[int, ...], ...]:
        """What each renaming of the factors does to the positions of indices."""
        place = {index: i for i, index in enumerate(self.indices)}
        found = []
        for order in permutations(range(self.factors)):
            moved = (
                Index(
                    x, y, sum(1 << order[f] for f in range(self.factors) if m >> f & 1)
                )
                for x, y, m in self.indices
            )
            found.append(tuple(place[index] for index in moved))
        return tuple(found)

    def beginnings(self) -> Iterator[Beginning]:
        """All classes, by their indices of x alone.

        Of a class the least mask under all renamings is taken: first the least
        indices of x, then, under the renamings that keep those, the least rest.
        """
        own = self.x & ~self.y
        width = own.bit_count()
        for of_x in range(1 << width):
            size = of_x.bit_count()
            if size >= self.limit or not (of_x or self.both):
                continue
            images = [_renamed(of_x, moved) for moved in self.renamings]
            if min(images) < of_x:
                continue
            keeping = [
                moved
                for moved, image in zip(self.renamings, images, strict=True)
                if image == of_x
            ]
            masks = _subsets(width, len(self.indices), self.limit - size)
            masks = masks[self._has_all(masks | of_x)]
            least = np.ones(len(masks), bool)
            for moved in keeping:
                least &= masks <= self._renamed_rests(masks, moved)
            yield Beginning(of_x, masks[least] | of_x)

    def _has_all(self, masks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where x, y and every factor have an index."""
        good = np.ones(len(masks), bool)
        for needed in (self.x, self.y, *self.held):
            good &= (masks & needed) != 0
        return good

    def _renamed_rests(
        self, masks: NDArray[np.int64], moved: tuple[int, ...]
    ) -> NDArray[np.int64]:
        first = (self.x & ~self.y).bit_count()
        result = np.zeros_like(masks)
        for i in range(first, len(self.indices)):
            result |= (masks >> i & 1) << moved[i]
        return result


@cache
def _subsets(first: int, end: int, most: int) -> NDArray[np.int64]:
    """All sets of at most `most` of the positions from `first` to `end`, increasing."""
    found = [np.zeros(1, np.int64)]
    for size in range(1, min(most, end - first) + 1):
        sets = combinations(range(first, end), size)
        count = size * comb(end - first, size)
        chosen = np.fromiter((i for some in sets for i in some), np.int64, count)
        found.append((np.int64(1) << chosen.reshape(-1, size)).sum(1))
    return np.sort(np.concatenate(found))


def _renamed(mask: int, moved: tuple[int, ...]) -> int:
    return sum(1 << moved[i] for i in range(mask.bit_length()) if mask >> i & 1)


def count(space: Space) -> int:
    """How many classes a space has, by Burnside's lemma: none is listed.

    The orbits of sets of indices under the n! renamings of the factors are the mean
    number of sets that a renaming keeps: the sets that are unions of its cycles. Those
    of which some factor has no index are the orbits of one factor fewer.

    >>> [count(Space(n)) for n in (1, 2, 3)]
    [1, 57, 46862]
    """
    found = _orbits(space, space.limit)
    if space.factors:
        found -= _orbits(Space(space.factors - 1, space.both), space.limit)
    return found


def _orbits(space: Space, limit: int) -> int:
    """Orbits of sets of at most `limit` indices, x and y with one; factors may lack."""
    kept = 0
    for moved in space.renamings:
        # All sets, less those without x, less those without y, more those of neither.
        for sign, left_out in (
            (1, 0),
            (-1, space.x),
            (-1, space.y),
            (1, space.x | space.y),
        ):
            of_size = [1] + [0] * limit
            for length in _cycles(moved, left_out):
                for size in range(limit, length - 1, -1):
                    of_size[size] += of_size[size - length]
            kept += sign * sum(of_size)
    return kept // factorial(space.factors)


def _cycles(moved: tuple[int, ...], left_out: int) -> Iterator[int]:
    """The lengths of a renaming's cycles that have no position of `left_out`."""
    seen = left_out
    for start in range(len(moved)):
        length, i = 0, start
        while not seen >> i & 1:
            seen |= 1 << i
            length, i = length + 1, moved[i]
        if length:
            yield length
