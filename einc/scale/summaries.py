"""What a study says of each contestant.

In: `Results`. Out: a `Summary` a contestant: its fits, and how it compares with the
baselines. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from einc.scale.fits import Fit, fit, fit_shared
from einc.scale.frontier import Frontiers, by_flops, by_parameters
from einc.scale.multiplier import Comparison, Estimate, compared
from einc.scale.results import Contestant, Results

Parameter = Literal["E", "A", "b", "error"]
PARAMETERS: tuple[Parameter, ...] = ("E", "A", "b")
"""Of a `Fit`."""


@dataclass(frozen=True)
class Law:
    """The fits of a contestant's seeds: their parameters, over `fits`, one a seed."""

    fits: tuple[Fit, ...]

    def over_seeds(self, name: Parameter) -> Estimate:
        """A parameter over the seeds."""
        return Estimate.of([getattr(found, name) for found in self.fits])

    @property
    def mean(self) -> Fit:
        """The law with the means of the parameters, A's geometric."""
        E, b = self.over_seeds("E").mean, self.over_seeds("b").mean
        A = float(np.exp(np.mean([np.log(found.A) for found in self.fits])))
        error = self.over_seeds("error").mean
        return Fit(E, A, b, self.fits[0].unit, error)


@dataclass(frozen=True)
class Summary:
    """One contestant.

    `parameters` are total and active by width; `seeds` those that have a frontier;
    `best` is the lowest loss of each seed; `own` has an E for each seed, `shared` one E
    for the whole study. `compute` and `size` compare with each other baseline by name:
    training FLOPs, and for routed contestants total parameters, at equal loss.
    """

    contestant: Contestant
    parameters: Mapping[int, tuple[int, int]]
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    best: Estimate | None
    own: Law | None
    shared: Law | None
    compute: Mapping[str, Comparison]
    size: Mapping[str, Comparison]


@lru_cache(maxsize=1)
def summaries(results: Results) -> tuple[Summary, ...]:
    """What follows from the runs that there are, a contestant each."""
    names = [contestant.name for contestant in results.contestants]
    flops = {name: by_flops(results, name) for name in names}
    sizes = {name: by_parameters(results, name) for name in names}
    unit = _unit(flops)
    shared = _shared(flops, unit)
    baselines = [c.name for c in results.contestants if c.kind != "structure"]
    found = []
    for contestant in results.contestants:
        name = contestant.name
        others = [other for other in baselines if other != name]
        frontiers = flops[name]
        runs = [run for run in results.runs if run.contestant == name]
        fits = [fit(*of_seed.points(), unit) for of_seed in frontiers.values()]
        lowest = [of_seed.lowest for of_seed in frontiers.values()]
        summary = Summary(
            contestant=contestant,
            parameters={
                run.width: (run.parameters_total, run.parameters_active) for run in runs
            },
            seeds=tuple(frontiers),
            left_out=tuple(sorted({run.seed for run in runs} - frontiers.keys())),
            best=Estimate.of(lowest) if lowest else None,
            own=_law(fits),
            shared=_law(shared[name]),
            compute={o: compared(frontiers, flops[o]) for o in others},
            size={o: compared(sizes[name], sizes[o]) for o in others}
            if contestant.routed
            else {},
        )
        found.append(summary)
    return tuple(found)


def _unit(flops: Mapping[str, Frontiers]) -> float:
    """The power of ten in the middle of the study's compute."""
    ends = [
        end
        for frontiers in flops.values()
        for frontier in frontiers.values()
        for end in (frontier.cheapest, frontier.spent)
    ]
    if not ends:
        return 1.0
    return float(10.0 ** round(float(np.mean(np.log10([min(ends), max(ends)])))))


def _shared(flops: Mapping[str, Frontiers], unit: float) -> dict[str, list[Fit | None]]:
    """The fits of all seeds of each contestant, with one E."""
    points = [f.points() for frontiers in flops.values() for f in frontiers.values()]
    fits = iter(fit_shared(points, unit))
    return {name: [next(fits) for _ in found] for name, found in flops.items()}


def _law(fits: list[Fit | None]) -> Law | None:
    found = tuple(one for one in fits if one is not None)
    return Law(found) if found else None
