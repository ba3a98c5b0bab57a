"""The choice of sizes where `~` leaves it open: for both sides of a term at once.

In: a `Network`, its two `Side`s (what is fixed, and near what the rest should be)
and the sizes laid down already. Out: the `Best` sizes.

Candidates of a side are exact factorisations of its features, or of a few more,
near what `~` asks for. Of all pairs of candidates taken is the least padding at
which the cut bound on the rank comes within 5% of that of the ideal real sizes;
then the nearest to what was asked, in sizes and in FLOPs; then the fewest sizes
that are not multiples of 8; then the smallest sizes. Rounding each size by itself
loses features; factorising each side alone, rank.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from operator import add
from typing import NamedTuple

from einc.factorise import CANDIDATES, Choice, factorisations
from einc.network import Network, X, bits
from einc.structure import Axis

NEAR = 0.35
"""How far |log size - log target| may be, on average over the free indices."""
NEAR_UNPADDED = 0.6
"""The same where nothing is padded: features that factor well are left alone, and
powers of two are wherever two sizes on a side may be rounded either way."""
SLACK = 0.95
"""The share of the ideal rank that is enough to stop padding."""
WORK = 6_000_000
"""About how many additions a choice may take: what is found by then is the best."""

_LEVELS = 256
_STEP = 0.05
FACTORISATION = 24
"""Work in one beginning of a factorisation that is looked at."""
_PAIR = 60
"""Work in a pair of candidates, besides its cuts and steps."""


@dataclass(frozen=True)
class Side:
    """One side of a term: what is fixed, what is free, and near what."""

    features: int
    fixed: int
    free: tuple[Axis, ...]
    targets: tuple[float, ...]  # logarithms of the ideal sizes of `free`
    limit: float  # the most padded features that are tried

    def levels(self) -> Iterator[int]:
        """Padded features to try, the fewest first."""
        first = self.least
        yield first
        if not self.free:
            return
        for step in range(1, _LEVELS):
            level = first + step * self.fixed
            if level > self.limit:
                return
            yield level

    @property
    def least(self) -> int:
        """The features, padded for the fixed sizes alone."""
        return -(-self.features // self.fixed) * self.fixed

    def fix(self, sizes: Mapping[Axis, int]) -> Side:
        """The side with some of its free axes fixed; what is asked of it is shared."""
        fixed = self.fixed * math.prod(sizes[a] for a in self.free if a in sizes)
        kept = {a: t for a, t in self.asked() if a not in sizes}
        # What the fixed ones take more or less than asked, the others give.
        excess = math.log(max(1.0, self.features / fixed)) - sum(kept.values())
        targets = tuple(max(0.0, t + excess / len(kept)) for t in kept.values())
        side = Side(self.features, fixed, tuple(kept), targets, 0.0)
        return replace(side, limit=side.least + 8 * fixed)

    def covered_by(self, sizes: Mapping[Axis, int]) -> bool:
        """Whether some free index is left, or `sizes` hold the features."""
        if any(axis not in sizes for axis in self.free):
            return True
        return self.fixed * math.prod(sizes[a] for a in self.free) >= self.features

    def asked(self) -> Iterator[tuple[Axis, float]]:
        """The free indices and the logarithms of their targets."""
        return zip(self.free, self.targets, strict=True)


class Later(NamedTuple):
    """A side of a later term that what is chosen here leaves no choice.

    Its `known` sizes and those of `names` are to hold its features.
    """

    features: int
    known: int
    names: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Best:
    """The sizes chosen and the padded features of each side; less is better."""

    key: tuple[float, ...]
    levels: tuple[int, int]
    sizes: dict[str, int] = field(compare=False)


@dataclass(frozen=True)
class _Candidate:
    """Sizes of one side, with what they add to the logarithm of each cut and step."""

    choice: Choice
    cuts: list[float]
    steps: list[float]


@dataclass(frozen=True)
class _Pair:
    rank: float  # a logarithm, as all that follows is compared
    key: tuple[int, ...]
    sizes: dict[str, int]


class Search:
    """The choice among pairs of candidates; see the module's docstring."""

    def __init__(
        self,
        network: Network,
        sides: tuple[Side, Side],
        sizes: Mapping[str, int],
        top: int | None,
        ties: Sequence[Set[str]] = (),
        later: Sequence[Later] = (),
        work: int = WORK,
    ) -> None:
        self.sides = sides
        self.later = later
        self.work = work
        self.features = math.log(min(side.features for side in sides))
        base = [0.0] * len(network.axes)
        for i, axis in enumerate(network.axes):
            routed = axis.name == network.routed and top is not None
            base[i] = math.log(top if routed and top else sizes.get(axis.name, 1))
        cuts = [frozenset(bits(cut)) for cut in network.cuts]
        steps = [frozenset(bits(step)) for step in _written_steps(network)]
        self.base_cuts, self.base_steps = _sums(cuts, base), _sums(steps, base)
        first, second = ([network.axes.index(a) for a in s.free] for s in sides)
        self.shared = [(i, second.index(p)) for i, p in enumerate(first) if p in second]
        self.equal: tuple[list[list[int]], list[list[int]]] = ([], [])
        for tie in ties:
            places = [
                [i for i, axis in enumerate(side.free) if axis.name in tie]
                for side in sides
            ]
            for which in (0, 1):
                if len(places[which]) > 1:
                    self.equal[which].append(places[which])
            if places[0] and places[1]:
                self.shared.append((places[0][0], places[1][0]))
        self.bound = bool(self.shared or any(self.equal) or later)
        # An index of both sides counts once, with the first.
        self.cuts = [_places(cuts, first), _places(cuts, second, first)]
        self.steps = [_places(steps, first), _places(steps, second, first)]
        self.seen: dict[tuple[int, int], list[_Candidate]] = {}
        ideals = [
            self._weigh(i, Choice((), 0.0), s.targets) for i, s in enumerate(sides)
        ]
        self.ideal_rank = self._rank(*ideals)
        self.ideal_flops = self._flops(*ideals)

    def run(self) -> Best | None:
        """The best pair, or None where the sides have no common sizes near enough."""
        best: Best | None = None
        best_rank = -math.inf
        wanted = self.ideal_rank + math.log(SLACK)
        for levels in _in_order_of_padding(self.sides):
            # Without sizes that must agree there always is a best: see `_near`.
            if self.work < 0 and (best is not None or self.bound):
                break
            judged = (self._judge(*pair) for pair in self._pairs(levels))
            found = [pair for pair in judged if pair is not None]
            rank = max((pair.rank for pair in found), default=-math.inf)
            if rank <= best_rank + 1e-9:
                continue
            enough = min(rank, wanted) - 1e-9
            pair = min((p for p in found if p.rank >= enough), key=lambda p: p.key)
            features = [side.features for side in self.sides]
            padding = sum(p / d for p, d in zip(levels, features, strict=True))
            short = max(0.0, wanted - rank)
            best = Best((short, padding, *pair.key), levels, pair.sizes)
            best_rank = rank
            if short <= 1e-9:
                break
        return best

    # Candidates

    def _pairs(self, levels: tuple[int, int]) -> list[tuple[_Candidate, _Candidate]]:
        """Pairs of candidates that agree on common sizes, the nearest if too many."""
        first, second = (self._candidates(i, level) for i, level in enumerate(levels))
        agreeing: dict[tuple[int, ...], list[_Candidate]] = {}
        for other in second:
            key = tuple(other.choice.sizes[j] for _, j in self.shared)
            agreeing.setdefault(key, []).append(other)
        pairs = [
            (one, other)
            for one in first
            for other in agreeing.get(
                tuple(one.choice.sizes[i] for i, _ in self.shared), ()
            )
        ]
        cost = _PAIR + len(self.base_cuts) + 4 * len(self.base_steps)
        most = max(CANDIDATES, self.work // cost)
        self.work -= cost * min(most, len(pairs)) + 1
        if len(pairs) <= most:
            return pairs
        return heapq.nsmallest(
            most, pairs, key=lambda p: p[0].choice.distance + p[1].choice.distance
        )

    def _candidates(self, which: int, level: int) -> list[_Candidate]:
        """The candidates of a side at a level, the nearest first."""
        if (which, level) not in self.seen:
            self.seen[which, level] = [
                self._weigh(which, choice, [math.log(s) for s in choice.sizes])
                for choice in self._near(self.sides[which], level)
                if all(
                    len({choice.sizes[i] for i in places}) == 1
                    for places in self.equal[which]
                )
            ]
        return self.seen[which, level]

    def _near(self, side: Side, level: int) -> list[Choice]:
        first = level == side.least
        limit = NEAR_UNPADDED if first else NEAR
        choices = self._factorisations(side, level)
        near = [c for c in choices if c.distance <= limit * len(side.free) + 1e-9]
        if not near and first and not self.bound and not self._any_near(side):
            return [choices[0]]
        return near

    def _any_near(self, side: Side) -> bool:
        """Whether any padding at all brings a factorisation near the targets."""
        limit = NEAR * len(side.free) + 1e-9
        return any(
            self._factorisations(side, level)[0].distance <= limit
            for level in side.levels()
            if self.work >= 0
        )

    def _factorisations(self, side: Side, level: int) -> tuple[Choice, ...]:
        choices = factorisations(level // side.fixed, side.targets)
        self.work -= FACTORISATION * choices.work
        return choices.nearest

    # Judging

    def _weigh(self, which: int, choice: Choice, logs: Sequence[float]) -> _Candidate:
        cuts, steps = _sums(self.cuts[which], logs), _sums(self.steps[which], logs)
        if which == 0:
            cuts = list(map(add, cuts, self.base_cuts))
            steps = list(map(add, steps, self.base_steps))
        self.work -= len(cuts) * len(logs)
        return _Candidate(choice, cuts, steps)

    def _judge(self, first: _Candidate, second: _Candidate) -> _Pair | None:
        """None where a later side would not hold its features."""
        sizes: dict[str, int] = {}
        for side, candidate in zip(self.sides, (first, second), strict=True):
            for axis, size in zip(side.free, candidate.choice.sizes, strict=True):
                sizes[axis.name] = size
        distance = first.choice.distance + second.choice.distance
        distance += abs(self._flops(first, second) - self.ideal_flops)
        for features, known, names in self.later:
            product = known * math.prod(sizes[name] for name in names)
            if product < features:
                return None
            distance += math.log(product / features)
        ragged = sum(size % 8 != 0 for size in sizes.values())
        steps = math.floor(distance / _STEP + 1e-9)
        key = steps, ragged, *sizes.values()
        return _Pair(self._rank(first, second), key, sizes)

    def _rank(self, first: _Candidate, second: _Candidate) -> float:
        cut: float = min(map(add, first.cuts, second.cuts))
        return min(self.features, cut)

    def _flops(self, first: _Candidate, second: _Candidate) -> float:
        steps: list[float] = list(map(add, first.steps, second.steps))
        if not steps:
            return 0.0
        top = max(steps)
        return top + math.log(sum(math.exp(step - top) for step in steps))


def _sums(groups: Sequence[Iterable[int]], logs: Sequence[float]) -> list[float]:
    return [sum(logs[i] for i in group) for group in groups]


def _places(
    groups: Sequence[Set[int]], places: Sequence[int], besides: Sequence[int] = ()
) -> list[list[int]]:
    """For each group of axes, which of the axes at `places` are in it."""
    return [
        [i for i, place in enumerate(places) if place in group and place not in besides]
        for group in groups
    ]


def _written_steps(network: Network) -> list[int]:
    """What each contraction touches if x meets the factors in the written order."""
    joined, steps = X, []
    for i in range(1, len(network.tensors)):
        steps.append(network.touched(joined, 1 << i))
        joined |= 1 << i
    return steps


def _in_order_of_padding(sides: tuple[Side, Side]) -> Iterator[tuple[int, int]]:
    yield sides[0].least, sides[1].least
    first, second = (list(side.levels()) for side in sides)
    pairs = [(i, o) for i in first for o in second][1:]
    pairs.sort(key=lambda p: (p[0] / sides[0].features + p[1] / sides[1].features, p))
    yield from pairs
