"""Integers as products of a given number of others, near given targets.

In: an integer and the logarithms of the factors that are wanted. Out: the nearest
ways to write it so. Nothing here knows of structures; `sizes` chooses among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

CANDIDATES = 64
"""How many ways are returned, at most."""

_BEAM = 8 * CANDIDATES
_FEW = 4
"""Up to so many factors the widths are full; for more they shrink, as their number
grows, so that no integer takes long."""


@dataclass(frozen=True)
class Choice:
    """Factors, and the sum of |log factor - target|."""

    sizes: tuple[int, ...]
    distance: float


@dataclass(frozen=True)
class Choices:
    """The nearest ways, nearest first (at least one), and how many were looked at."""

    nearest: tuple[Choice, ...]
    work: int


@lru_cache(maxsize=1 << 10)
def factorisations(value: int, targets: tuple[float, ...]) -> Choices:
    """The ways to write `value` as a product near `targets` (logarithms).

    Factor by factor, the most promising beginnings are kept.

    >>> best = factorisations(1000, (math.log(30), math.log(33))).nearest[0]
    >>> best.sizes
    (25, 40)
    """
    many = max(1, len(targets) // _FEW)
    near = _Near(value, max(_FEW, CANDIDATES // many))
    beam: list[tuple[float, float, int, tuple[int, ...]]] = [(0.0, 0.0, value, ())]
    work = 0
    for i, target in enumerate(targets):
        rest = sum(targets[i + 1 :])
        last = i == len(targets) - 1
        grown = []
        for _, distance, left, sizes in beam:
            options = [(left, near.logs[left])] if last else near.options(left, target)
            for size, log_size in options:
                total = distance + abs(log_size - target)
                after = left // size
                # What is left over must be that far from what it should be.
                bound = total + abs(near.logs[after] - rest)
                grown.append((bound, total, after, (*sizes, size)))
        grown.sort()
        work += len(grown)
        beam = grown[: max(CANDIDATES, _BEAM // many)]
    choices = (Choice(sizes, total) for _, total, _, sizes in beam[:CANDIDATES])
    return Choices(tuple(choices), work + near.work)


class _Near:
    """The divisors of what is left of `value`, the nearest to a target first."""

    def __init__(self, value: int, count: int) -> None:
        self.count = count
        self.divisors = divisors(value)
        self.logs = {d: math.log(d) for d in self.divisors}
        self.by_target: dict[float, list[int]] = {}
        self.found: dict[tuple[int, float], list[tuple[int, float]]] = {}
        self.work = 0

    def options(self, left: int, target: float) -> list[tuple[int, float]]:
        """The nearest `count` divisors of `left`, with their logarithms."""
        key = left, target
        if key not in self.found:
            chosen = []
            for d in self._sorted(target):
                self.work += 1
                if left % d == 0:
                    chosen.append((d, self.logs[d]))
                    if len(chosen) == self.count:
                        break
            self.found[key] = chosen
        return self.found[key]

    def _sorted(self, target: float) -> list[int]:
        if target not in self.by_target:
            key = {d: (abs(log - target), d) for d, log in self.logs.items()}
            self.by_target[target] = sorted(self.divisors, key=key.__getitem__)
            self.work += len(key)
        return self.by_target[target]


def divisors(value: int) -> list[int]:
    """All divisors of an integer of up to 31 bits or so, in order.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    found, left = [1], value
    for prime in _primes(math.isqrt(value)):
        if prime * prime > left:
            break
        power, base = 1, list(found)
        while left % prime == 0:
            left //= prime
            power *= prime
            found += [d * power for d in base]
    if left > 1:
        found += [d * left for d in found]
    return sorted(found)


def _primes(limit: int) -> tuple[int, ...]:
    """The primes up to at least `limit`."""
    return _sieve(1 << max(8, limit.bit_length()))


@cache
def _sieve(limit: int) -> tuple[int, ...]:
    sieve = bytearray([1]) * (limit + 1)
    for n in range(2, math.isqrt(limit) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit + 1, n)))
    return tuple(n for n in range(2, limit + 1) if sieve[n])
