"""How much less a contestant needs than a baseline, at equal loss.

In: the frontiers of both, by seed. Out: a `Multiplier`, cost of the baseline over cost
of the contestant, over the losses that all frontiers of both reach; a `Bound` where
there are none; or why there is neither. Nothing is extrapolated.

Seeds are paired: of each seed that both have, the logarithm of the ratio is one
observation. The same seed gives the same order of data, which may move both alike; a
paired interval is right whether it does or not, as long as seeds are independent of
each other, where an unpaired one would be right only if it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from einc.scale.frontier import Frontier, Frontiers

Array = NDArray[np.float64]

MARGIN = 1.1
"""A multiplier within this factor of 1, either way, is a match."""
CONFIDENCE = 0.95
ENOUGH = 5
"""Seeds from which on there is an interval."""
_PARTS = 16
"""Into which the gaps between logged losses are cut."""

Verdict = Literal["win", "match", "loss", "cannot be told"]


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds, with the ends of its interval or, of few seeds, the extremes.

    `is_interval`: the ends are those of the t interval of `CONFIDENCE`.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of one value a seed.

        >>> Estimate.of([1, 2, 3])
        Estimate(mean=2.0, low=1.0, high=3.0, seeds=3)
        """
        found = np.array(values, np.float64)
        n, mean = len(found), float(found.mean())
        if n < ENOUGH:
            return cls(mean, float(found.min()), float(found.max()), n)
        half = t_quantile(n - 1) * float(found.std(ddof=1)) / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)

    @classmethod
    def of_logarithms(cls, values: Sequence[float]) -> Estimate:
        """The geometric mean of numbers, whose logarithms are given, and its ends."""
        found = cls.of(values)
        ends = math.exp(found.mean), math.exp(found.low), math.exp(found.high)
        return cls(*ends, found.seeds)

    @property
    def is_interval(self) -> bool:
        return self.seeds >= ENOUGH


@dataclass(frozen=True)
class Multiplier:
    """Cost of the baseline over cost of the contestant, at equal loss.

    `mean` is the geometric mean over `losses`, from the lowest to the highest that all
    frontiers reach, uniform in the logarithm of the cost; `at_lowest` is at the lowest
    of them. `inside` is the share of the range where the best widths of both are neither
    the narrowest nor the widest: elsewhere a width that was not trained may be better.
    """

    mean: Estimate
    at_lowest: Estimate
    losses: tuple[float, float]
    inside: float

    @property
    def verdict(self) -> Verdict:
        """Of the mean; none where the multiplier at the lowest loss says the contrary."""
        both = {judged(self.mean), judged(self.at_lowest)}
        return "cannot be told" if both == {"win", "loss"} else judged(self.mean)


@dataclass(frozen=True)
class Bound:
    """No loss is reached by all frontiers of both.

    At `loss` the multiplier is at least `factor` in every seed, or at most.
    """

    side: Literal["at least", "at most"]
    factor: float
    loss: float
    seeds: int

    @property
    def verdict(self) -> Verdict:
        if self.seeds >= ENOUGH:
            if self.side == "at least" and self.factor > MARGIN:
                return "win"
            if self.side == "at most" and self.factor < 1 / MARGIN:
                return "loss"
        return "cannot be told"


@dataclass(frozen=True)
class Untold:
    """Neither a multiplier nor a bound."""

    reason: str

    @property
    def verdict(self) -> Verdict:
        return "cannot be told"


Comparison = Multiplier | Bound | Untold


def judged(found: Estimate) -> Verdict:
    """What the interval of a multiplier says; without an interval nothing is told."""
    if not found.is_interval:
        return "cannot be told"
    if found.low >= 1 / MARGIN and found.high <= MARGIN:
        return "match"
    if found.low > 1:
        return "win"
    return "loss" if found.high < 1 else "cannot be told"


def compared(contestant: Frontiers, baseline: Frontiers) -> Comparison:
    """The contestant against the baseline, over the seeds that both have."""
    if not contestant or not baseline:
        who = "the contestant" if not contestant else "the baseline"
        return Untold(f"{who} has no finished runs")
    seeds = sorted(contestant.keys() & baseline.keys())
    if not seeds:
        return Untold("no seed has runs of both")
    pairs = [(contestant[seed], baseline[seed]) for seed in seeds]
    both = [frontier for pair in pairs for frontier in pair]
    low = max(frontier.lowest for frontier in both)
    high = min(frontier.highest for frontier in both)
    if low > high:
        return _bound(pairs)
    if low == high:
        return _at(pairs, low)
    losses = _grid(both, low, high)
    logs = np.log([[of.cost(losses) for of in pair] for pair in pairs])
    ratios = logs[:, 1] - logs[:, 0]  # seed, loss
    weights = -np.diff(logs.mean(axis=(0, 1)))
    if not weights.any():  # one cost for all of these losses
        weights = np.diff(losses)
    middle = (ratios[:, 1:] + ratios[:, :-1]) / 2
    weights /= weights.sum()
    means = middle @ weights
    between = (losses[1:] + losses[:-1]) / 2
    inside = [one.is_inside(between) & other.is_inside(between) for one, other in pairs]
    return Multiplier(
        mean=Estimate.of_logarithms(means.tolist()),
        at_lowest=Estimate.of_logarithms(ratios[:, 0].tolist()),
        losses=(low, high),
        inside=float(np.mean(inside @ weights)),
    )


def _at(pairs: Sequence[tuple[Frontier, Frontier]], loss: float) -> Multiplier:
    """At the one loss that all of them reach."""
    at = np.array([loss])
    ratios = [float(np.log(other.cost(at) / one.cost(at))[0]) for one, other in pairs]
    found = Estimate.of_logarithms(ratios)
    inside = [one.is_inside(at) & other.is_inside(at) for one, other in pairs]
    return Multiplier(found, found, (loss, loss), float(np.mean(inside)))


def _grid(frontiers: Sequence[Frontier], low: float, high: float) -> Array:
    """Ascending losses, so near each other that costs are as good as linear between."""
    logged = np.concatenate([c.losses for f in frontiers for c in f.curves])
    inside = logged[(logged > low) & (logged < high)]
    knots = np.unique(np.concatenate([[low], inside, [high]]))
    places = np.arange(_PARTS * (len(knots) - 1) + 1) / _PARTS
    found: Array = np.interp(places, np.arange(len(knots)), knots)
    return found


def _bound(pairs: Sequence[tuple[Frontier, Frontier]]) -> Bound | Untold:
    """What is known where frontiers have no loss in common.

    A loss that the contestant reaches and the baseline does not costs the baseline more
    than all that was spent on it; and the other way round.
    """
    contestant, baseline = zip(*pairs, strict=True)
    at_least = _lead(contestant, baseline)
    if at_least is not None:
        return Bound("at least", *at_least, len(pairs))
    at_most = _lead(baseline, contestant)
    if at_most is not None:
        factor, loss = at_most
        return Bound("at most", 1 / factor, loss, len(pairs))
    return Untold("there is no loss that the frontiers of all seeds reach")


def _lead(
    ahead: Sequence[Frontier], behind: Sequence[Frontier]
) -> tuple[float, float] | None:
    """How much less those ahead need, in all seeds, for the highest loss of all of them.

    With that loss. None where some of them do not reach it, or some behind do.
    """
    loss = min(frontier.highest for frontier in ahead)
    if loss >= min(frontier.lowest for frontier in behind):
        return None
    if loss < max(frontier.lowest for frontier in ahead):
        return None
    pairs = zip(ahead, behind, strict=True)
    return min(last.spent / float(first.cost(loss)) for first, last in pairs), loss


def t_quantile(freedom: int) -> float:
    """The two-sided quantile of Student's t for `CONFIDENCE`.

    With t = sqrt(freedom) tan(a) the density is cos(a)^(freedom - 1).

    >>> [round(t_quantile(n), 3) for n in (4, 9, 99)]
    [2.776, 2.262, 1.984]
    """
    angles = np.linspace(0, math.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = float(np.interp(CONFIDENCE, share / share[-1], angles))
    return math.sqrt(freedom) * math.tan(angle)
