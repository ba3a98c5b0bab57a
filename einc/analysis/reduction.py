"""Exact reductions of one untied term: a smaller map with the rank of the large one.

In: the index sets of x, y and the factors, and the sizes of the indices. Out: a
`Core` with rank(W) = multiplier * rank(core) for generic factors. Each reduction
keeps the smallest cut, too: where the core reaches its own, the term does.

Here a *tensor* is x, y or a factor, and an index is *private* to two tensors if no
third has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Indices = frozenset[int]


@dataclass(frozen=True)
class Core:
    """What the reductions leave: the indices of x, y and the factors, by number.

    `sizes` has those that are left; `used` names the reductions that did something.
    """

    multiplier: int
    sizes: dict[int, int]
    x: Indices
    y: Indices
    factors: tuple[Indices, ...]
    used: tuple[str, ...]

    def size(self, indices: Iterable[int]) -> int:
        return math.prod(self.sizes[i] for i in indices)

    @property
    def why_full(self) -> str:
        """The theorem by which generic factors reach the smallest cut, or "".

        At most one factor; all sizes powers of one integer; or two factors, and one
        of x-A, x-B, y-A, y-B has no private index.
        """
        if not self.factors:
            return "exact reductions leave no factor"
        if len(self.factors) == 1:
            return "exact reductions leave one factor"
        roots = {least_root(size) for size in self.sizes.values()}
        if len(roots) == 1:
            return f"all sizes are powers of {roots.pop()}"
        if len(self.factors) == 2:
            a, b = self.factors
            private = (
                side & one - other
                for side in (self.x, self.y)
                for one, other in ((a, b), (b, a))
            )
            if not all(private):
                return "of two factors one shares no private index with x or with y"
        return ""

    def smallest_cut(self, size: Callable[[int], int] = lambda size: size) -> int:
        """The smallest product of indices cut, over all ways to part the factors.

        `size` is applied to each size first.
        """
        best = None
        for chosen in range(1 << len(self.factors)):
            near_x, near_y = set(self.x), set(self.y)
            for i, factor in enumerate(self.factors):
                (near_x if chosen >> i & 1 else near_y).update(factor)
            value = math.prod(size(self.sizes[i]) for i in near_x & near_y)
            best = value if best is None else min(best, value)
        assert best is not None
        return best


def reduced(
    x: Iterable[int],
    y: Iterable[int],
    factors: Sequence[Iterable[int]],
    sizes: dict[int, int],
) -> Core:
    """Applies the reductions until none does anything.

    y[p, e] = x[a, b] A[a, p] B[b, e] with sizes 2, 3, 5, 7 for a, b, p, e: x hands
    to each factor what it takes, and nothing is left.

    >>> core = reduced([0, 1], [2, 3], [[0, 2], [1, 3]], {0: 2, 1: 3, 2: 5, 3: 7})
    >>> core.multiplier, core.factors
    (6, ())
    """
    work = _Reducer(set(x), set(y), [set(f) for f in factors], dict(sizes))
    used: list[str] = []
    while True:
        for name, apply in work.reductions.items():
            if apply():
                used += [name] if name not in used else []
                break
        else:
            break
    left = work.x.union(work.y, *work.factors)
    return Core(
        work.multiplier,
        {i: s for i, s in work.sizes.items() if i in left},
        frozenset(work.x),
        frozenset(work.y),
        tuple(frozenset(f) for f in work.factors),
        tuple(used),
    )


class _Reducer:
    """A term that shrinks; each reduction says whether it did something."""

    def __init__(
        self, x: set[int], y: set[int], factors: list[set[int]], sizes: dict[int, int]
    ) -> None:
        self.multiplier = 1
        self.x, self.y, self.factors, self.sizes = x, y, factors, sizes
        self.reductions = {
            "drop": self.drop,
            "split": self.split,
            "merge": self.merge,
            "absorb": self.absorb,
            "hand over": self.hand_over,
            "join": self.join,
        }

    @property
    def tensors(self) -> list[set[int]]:
        return [self.x, self.y, *self.factors]

    def holders(self, index: int) -> tuple[int, ...]:
        """The tensors that have an index: 0 is x, 1 is y."""
        return tuple(n for n, held in enumerate(self.tensors) if index in held)

    def remove(self, index: int) -> None:
        for held in self.tensors:
            held.discard(index)

    def drop(self) -> bool:
        """Indices of size 1, or in one tensor alone: sums, or copies of rows."""
        gone = [
            i
            for i in set().union(*self.tensors)
            if self.sizes[i] == 1 or len(self.holders(i)) == 1
        ]
        for index in gone:
            self.remove(index)
        return bool(gone)

    def split(self) -> bool:
        """An index of x and y: so many diagonal blocks, all of the same rank."""
        both = self.x & self.y
        for index in both:
            self.multiplier *= self.sizes[index]
            self.remove(index)
        return bool(both)

    def merge(self) -> bool:
        """Indices of the same tensors are one."""
        first: dict[tuple[int, ...], int] = {}
        merged = False
        for index in sorted(set().union(*self.tensors)):
            known = first.setdefault(self.holders(index), index)
            if known != index:
                self.sizes[known] *= self.sizes[index]
                self.remove(index)
                merged = True
        return merged

    def absorb(self) -> bool:
        """A factor with no index that another tensor lacks: it only scales entries.

        In another factor it changes nothing; at x or y it is a diagonal matrix.
        """
        for i, factor in enumerate(self.factors):
            others = [self.x, self.y, *self.factors[:i], *self.factors[i + 1 :]]
            if any(factor <= other for other in others):
                del self.factors[i]
                return True
        return False

    def hand_over(self) -> bool:
        """A side's private index with a factor k that is at least k's rest.

        k is then a surjection from it for each value of what else it shares with the
        side, which may as well have k's other indices itself.
        """
        for side in (self.x, self.y):
            for i, factor in enumerate(self.factors):
                rest = factor - side
                private = [n for n in side & factor if len(self.holders(n)) == 2]
                # Merged, there is at most one.
                if any(self.sizes[n] >= self.size(rest) for n in private):
                    del self.factors[i]
                    side.difference_update(private)
                    side.update(rest)
                    return True
        return False

    def join(self) -> bool:
        """Two factors with a private bond that is at least either's unshared rest.

        Their product is then any tensor over their other indices.
        """
        for i, a in enumerate(self.factors):
            for j, b in enumerate(self.factors[:i]):
                bond = {n for n in a & b if len(self.holders(n)) == 2}
                least = min(self.size(a - b), self.size(b - a))
                if bond and self.size(bond) >= least:
                    self.factors[j] = (a | b) - bond
                    del self.factors[i]
                    return True
        return False

    def size(self, indices: Iterable[int]) -> int:
        return math.prod(self.sizes[i] for i in indices)


def least_root(value: int) -> int:
    """The least integer of which `value` is a power: 8 -> 2, 36 -> 6."""
    for degree in range(value.bit_length(), 1, -1):
        root = round(float(value) ** (1 / degree))
        for candidate in (root - 1, root, root + 1):
            if candidate > 1 and int(candidate**degree) == value:
                return int(candidate)
    return value
