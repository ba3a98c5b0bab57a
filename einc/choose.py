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
import itertools
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
_PRODUCTS = 10_000
_STEP = 0.05
_FACTORISATION = 24
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
        self.work -= _FACTORISATION * choices.work
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


def tied_sizes(
    sides: tuple[Side, Side], ties: Sequence[Set[str]]
) -> list[dict[Axis, int]]:
    """Sizes to try for indices that must agree, where no candidates do.

    Each set of `ties` takes one size; where a side has no other free index, sizes
    that cover its features.
    """
    members = [
        [(a, t) for side in sides for a, t in side.asked() if a.name in tie]
        for tie in ties
    ]
    members = [found for found in members if found]
    wanted = [math.exp(sum(t for _, t in m) / len(m)) for m in members]
    each = max(2, int(CANDIDATES ** (1 / max(1, len(members)))))
    near = [_near_integers(size)[:each] for size in wanted]
    options = []
    for chosen in itertools.product(*near):
        sizes = {
            axis: size
            for found, size in zip(members, chosen, strict=True)
            for axis, _ in found
        }
        if all(side.covered_by(sizes) for side in sides):
            options.append(sizes)
    return options or [_covering(sides, members)]


def _near_integers(target: float) -> list[int]:
    """The positive integers within `NEAR` of a real size, the nearest first."""
    spread = math.exp(NEAR)
    low, high = max(1, math.ceil(target / spread)), math.floor(target * spread)
    middle = max(1, round(target))
    low, high = max(low, middle - CANDIDATES), min(high, middle + CANDIDATES)
    return sorted(range(low, max(low, high) + 1), key=lambda s: (abs(s - target), s))


def _covering(
    sides: tuple[Side, Side], members: Sequence[Sequence[tuple[Axis, float]]]
) -> dict[Axis, int]:
    """The same size for all of them, just large enough for both sides."""
    size = 1
    for side in sides:
        if all(any(a == axis for m in members for axis, _ in m) for a in side.free):
            need = -(-side.features // side.fixed)
            count = max(1, len(side.free))
            while size**count < need and side.free:
                size = max(size + 1, math.floor(need ** (1 / count)))
    return {axis: size for found in members for axis, _ in found}


def common_sizes(sides: tuple[Side, Side]) -> list[dict[Axis, int]]:
    """Sizes to try for the indices of both sides, where no candidates agree.

    Each side is then padded to a multiple of their product; so what is tried first
    are the products that pad the least, and their factorisations near the targets.
    """
    both = [a for a in sides[0].free if a in sides[1].free]
    asked = dict(zip(sides[0].free, sides[0].targets, strict=True))
    total = sum(asked[a] for a in both)
    products, wanted = _common_products(sides, len(both), math.exp(total))
    # What cannot be had together is shared.
    excess = (math.log(wanted) - total) / len(both)
    targets = tuple(max(0.0, asked[a] + excess) for a in both)
    choices: list[Choice] = []
    near: list[Choice] = []
    work = WORK // 4
    for product in products:
        found = factorisations(product, targets)
        choices.append(found.nearest[0])
        if choices[-1].distance <= NEAR * len(both):
            near.append(choices[-1])
        work -= _FACTORISATION * found.work
        if len(near) == CANDIDATES or work < 0:
            break
    near = near or [min(choices, key=lambda c: c.distance)]
    return [dict(zip(both, c.sizes, strict=True)) for c in near]


def _common_products(
    sides: tuple[Side, Side], count: int, asked: float
) -> tuple[list[int], float]:
    """Products of the `count` common sizes, the least padding first, and what is
    possible of what was asked of them."""
    needs = [side.least // side.fixed for side in sides]
    # A side with no other index must be covered by them alone.
    alone = [need for need, s in zip(needs, sides, strict=True) if len(s.free) == count]
    least, most = (max(alone), max(needs)) if alone else (1, min(needs))
    wanted = min(max(asked, least), most)
    spread = math.exp(NEAR * count)
    low = max(least, math.ceil(wanted / spread), round(wanted) - _PRODUCTS)
    most += max(8, most // 200) if alone else 0
    high = min(most, math.floor(wanted * spread), round(wanted) + _PRODUCTS)

    def padding(product: int) -> float:
        return sum(-(-need // product) * product / need for need in needs)

    products = range(low, max(low, high) + 1)
    order = sorted(products, key=lambda p: (padding(p), abs(p - wanted)))
    return order[:_PRODUCTS], wanted


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
