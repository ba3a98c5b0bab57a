"""How many steps fit into the time there is.

In: what jobs of a few steps took, one for each contestant and width. Out: one number of
steps for all runs, so that the whole study takes about as long as was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from einc.errors import UsageError
from einc.scale.job import Job, Result
from einc.scale.training import POINTS, WARM_UP

LEAST = 2 * WARM_UP
"""Steps of a run worth its time."""
TUNED = 2
"""A run has so many times the steps of a job that tunes the rate."""


@dataclass(frozen=True)
class Load:
    """Seconds of jobs: `fixed`, and `per_step` of the steps of a run."""

    fixed: float = 0.0
    per_step: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(self.fixed + other.fixed, self.per_step + other.per_step)

    def __mul__(self, times: float) -> Load:
        return Load(self.fixed * times, self.per_step * times)


def of_run(job: Job, timed: Result) -> Load:
    """What a run takes, by what a job of `job.steps` steps took."""
    step, loss = timed["seconds_per_step"], timed["seconds_per_loss"]
    once = timed["seconds"] - job.steps * step - loss
    return Load(max(once, 0.0) + POINTS * loss, step)


def of_tuning(run: Load) -> Load:
    """What a job that tunes the rate takes, by what a run does."""
    return Load(run.fixed, run.per_step / TUNED)


def tuning_steps(steps: int) -> int:
    """The steps of a job that tunes the rate.

    >>> tuning_steps(1000), tuning_steps(1)
    (500, 1)
    """
    return max(1, steps // TUNED)


def steps(
    timed: Mapping[Job, Result],
    seeds: Mapping[str, int],
    rates: int,
    seconds: float,
    workers: int,
) -> int:
    """Those with which all runs, and `rates` rates a contestant, take `seconds`.

    Raises `UsageError` where they are too few to be worth it.
    """
    whole = _whole(timed.items(), seeds, rates) * (1 / workers)
    found = int((seconds - whole.fixed) / whole.per_step)
    if found < LEAST:
        needed = (whole.fixed + LEAST * whole.per_step) / 60
        raise UsageError(
            f"{LEAST} steps a run, the fewest, take about {needed:.1f} minutes more with "
            f"{workers} at a time: give more --minutes, or fewer contestants, widths or "
            "seeds"
        )
    return found


def _whole(
    timed: Iterable[tuple[Job, Result]], seeds: Mapping[str, int], rates: int
) -> Load:
    total = Load()
    for job, result in timed:
        run = of_run(job, result)
        total += run * seeds[job.contestant.name]
        if job.width == job.base_width:
            total += of_tuning(run) * rates
    return total
