"""Block sizes of the fused kernel, by a model of what its programs move.

In: the sizes of two contractions and the tokens planned for. Out: how many tokens, and
how much of g, a and f, a program takes at a time. A multiprocessor runs one program, and
what limits it is the cache that x and the weights come from: so those blocks are taken
whose programs move the least, among those that fit registers and shared memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

MULTIPROCESSORS = 132
"""Of an H100 or H200."""
ACCUMULATORS = 1 << 15
"""Of y, of the 65,536 registers of a multiprocessor."""
SHARED_BYTES = 96 << 10
"""Within what a block has on all GPUs from compute capability 8 on: 99 KiB."""
LEAST = 16
"""The smallest side of a matrix product on matrix units."""
TOKENS = (16, 32, 64, 128)
SUMMED = (16, 32)
"""Values of a at a time."""


class Blocks(NamedTuple):
    """Powers of two."""

    n: int
    g: int
    a: int
    f: int


@dataclass(frozen=True)
class Sizes:
    """Of z[g, f, r] = x[g, a] * A[g, a, f, r] and y[f, e] = z[g, f, r] * B[f, g, r, e]."""

    g: int
    a: int
    f: int
    r: int
    e: int

    @property
    def transposed(self) -> Sizes:
        """Of the map from the gradient of y to that of x."""
        return Sizes(self.f, self.e, self.g, self.r, self.a)

    @property
    def ranks(self) -> int:
        """r as it stands in blocks."""
        return power_of_two(self.r)

    def blocks(self, tokens: int, itemsize: int) -> Blocks | None:
        """The best for values of `itemsize` bytes; None where none fit."""
        fit = [b for b in self._candidates() if self._fit(b, itemsize)]
        return min(fit, key=lambda b: (self._moved(b, tokens), -b.a), default=None)

    def _candidates(self) -> Iterator[Blocks]:
        least = max(1, LEAST // self.ranks)
        most = max(least, power_of_two(self.f))
        fs = [f for f in (1, 2, 4, 8, 16, 32, 64, 128) if least <= f <= most]
        summed = [a for a in SUMMED if a <= max(LEAST, power_of_two(self.a))]
        for n, a, f in product(TOKENS, summed, fs):
            yield Blocks(n, least, a, f)

    def _fit(self, b: Blocks, itemsize: int) -> bool:
        columns, rows, e = b.f * self.ranks, b.g * self.ranks, self._side
        accumulators = b.f * b.n * e
        z = b.g * b.n * columns
        first = b.g * b.n * b.a + b.g * b.a * columns
        second = z + b.f * rows * e
        # With one step over a, the loads of both products are in flight together.
        together = first + second if self.a <= b.a else max(first, second)
        return (
            accumulators <= ACCUMULATORS
            and 2 * (accumulators + z) <= 3 * ACCUMULATORS
            and together * itemsize <= SHARED_BYTES
        )

    @property
    def _side(self) -> int:
        return max(LEAST, power_of_two(self.e))

    def _moved(self, b: Blocks, tokens: int) -> int:
        """Values that a multiprocessor moves in a call."""
        programs = -(-tokens // b.n) * -(-self.f // b.f)
        weights = b.f * self.g * self.r * (self.a + self.e)
        each = b.n * self.g * self.a + weights + b.n * b.f * self.e
        return -(-programs // MULTIPROCESSORS) * each


def power_of_two(size: int) -> int:
    """The smallest one from `size` up.

    >>> [power_of_two(n) for n in (1, 3, 4, 48)]
    [1, 4, 4, 64]
    """
    return 1 << (size - 1).bit_length()
