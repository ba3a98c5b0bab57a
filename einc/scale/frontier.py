"""What a contestant reaches at which cost: the lower envelope of its runs.

In: the runs of one contestant and seed. Out: a `Frontier` over training FLOPs or over
total parameters, which tells the lowest loss at a cost, and the least cost of a loss.
Between logged points the logarithm of the cost is linear in the loss; beyond them
nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from einc.scale.results import Results, Run

Array = NDArray[np.float64]

BEGINNING = 0.1
"""The share of a run's steps that is left out. There the learning rate warms up and the
loss falls from that of an untrained model, equally fast in all models by the step: per
FLOP the model with the cheapest steps would always win."""


@dataclass(frozen=True)
class Curve:
    """One run: ascending costs, and the losses reached by then, which descend.

    `spent` is the cost of all of it, `costs` end with that of its lowest loss.
    """

    width: int
    costs: Array
    losses: Array
    spent: float

    @classmethod
    def of(cls, width: int, costs: Sequence[float], losses: Sequence[float]) -> Curve:
        """The points, cheapest first, that have a lower loss than all before them.

        >>> Curve.of(8, [1, 2, 3, 4], [3.0, 2.0, 2.5, 1.0]).costs
        array([1., 2., 4.])
        """
        reached = np.array(losses, np.float64)
        before = np.minimum.accumulate(np.concatenate([[np.inf], reached[:-1]]))
        kept = reached < before
        all_costs = np.array(costs, np.float64)
        return cls(width, all_costs[kept], reached[kept], float(all_costs[-1]))


@dataclass(frozen=True)
class Frontier:
    """The lower envelope of `curves`, of which there is at least one."""

    curves: tuple[Curve, ...]

    @property
    def cheapest(self) -> float:
        """The least cost of which anything is known."""
        return min(float(curve.costs[0]) for curve in self.curves)

    @property
    def spent(self) -> float:
        """The cost up to which a lower loss than the lowest was looked for, in vain."""
        return max(curve.spent for curve in self.curves)

    @property
    def lowest(self) -> float:
        """The lowest loss reached."""
        return min(float(curve.losses[-1]) for curve in self.curves)

    @property
    def highest(self) -> float:
        """The loss at the least cost: above it nothing is known."""
        return float(self.loss(self.cheapest))

    def cost(self, losses: Array | float) -> Array:
        """The least cost at which each loss is reached; NaN out of what is known."""
        wanted = np.asarray(losses, np.float64)
        found = np.exp(np.min([_log_cost(c, wanted) for c in self.curves], axis=0))
        known = (wanted >= self.lowest) & (wanted <= self.highest)
        return np.where(known, found, np.nan)

    def loss(self, costs: Array | float) -> Array:
        """The lowest loss reached by each cost; NaN out of what is known."""
        wanted = np.log(np.asarray(costs, np.float64))
        found = [
            np.interp(wanted, np.log(curve.costs), curve.losses, left=np.inf)
            for curve in self.curves
        ]
        ends = np.log([self.cheapest, self.spent])
        known = (wanted >= ends[0]) & (wanted <= ends[1])
        return np.where(known, np.min(found, axis=0), np.nan)

    def widths(self, losses: Array) -> NDArray[np.int64]:
        """The width that reaches each loss at the least cost."""
        costs = [_log_cost(curve, losses) for curve in self.curves]
        widths = np.array([curve.width for curve in self.curves])
        return np.asarray(widths[np.argmin(costs, axis=0)])

    def is_inside(self, losses: Array) -> NDArray[np.bool_]:
        """Whether the best width for each is neither the narrowest nor the widest."""
        best, trained = self.widths(losses), [curve.width for curve in self.curves]
        return (best > min(trained)) & (best < max(trained))

    def points(self) -> tuple[Array, Array]:
        """The logged points on the envelope: ascending costs, descending losses."""
        costs = np.concatenate([curve.costs for curve in self.curves])
        losses = np.concatenate([curve.losses for curve in self.curves])
        on = losses <= self.loss(costs) * (1 + 1e-12)
        order = np.argsort(costs[on], kind="stable")
        curve = Curve.of(0, costs[on][order].tolist(), losses[on][order].tolist())
        return curve.costs, curve.losses


def _log_cost(curve: Curve, losses: Array | float) -> Array:
    """Of reaching losses: infinite below the lowest, the first cost above the first."""
    found: Array | float = np.interp(
        losses, curve.losses[::-1], np.log(curve.costs[::-1]), left=np.inf
    )
    return np.asarray(found)


Frontiers = dict[int, Frontier]
"""By seed."""


def by_flops(results: Results, contestant: str) -> Frontiers:
    """Loss over training FLOPs, after the beginning of each run."""
    return {
        seed: Frontier(tuple(_steps(run) for run in runs))
        for seed, runs in _by_seed(results, contestant).items()
    }


def by_parameters(results: Results, contestant: str) -> Frontiers:
    """The lowest loss of each run over the total parameters of its model."""
    return {
        seed: Frontier((_sizes(runs),))
        for seed, runs in _by_seed(results, contestant).items()
    }


def _steps(run: Run) -> Curve:
    first = next(i for i, n in enumerate(run.steps) if n >= BEGINNING * run.steps[-1])
    return Curve.of(run.width, run.flops[first:], run.losses[first:])


def _sizes(runs: Iterable[Run]) -> Curve:
    points = sorted((run.parameters_total, run.best) for run in runs)
    return Curve.of(0, [cost for cost, _ in points], [loss for _, loss in points])


def _by_seed(results: Results, contestant: str) -> dict[int, list[Run]]:
    """The finished runs of each seed, of those seeds that have all widths.

    All: those that any seed has, so that no frontier is worse for want of a run. A
    diverged run is there, but adds nothing to its frontier.
    """
    runs = [run for run in results.runs if run.contestant == contestant]
    widths = {run.width for run in runs}
    found: dict[int, list[Run]] = {}
    for seed in sorted({run.seed for run in runs}):
        of_seed = [run for run in runs if run.seed == seed]
        finished = [run for run in of_seed if not run.diverged]
        if finished and {run.width for run in of_seed} == widths:
            found[seed] = finished
    return found
