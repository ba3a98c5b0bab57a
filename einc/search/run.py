"""The search: walks hypergraphs and their exponents, then looks closer at the best.

In: `Settings`. Out: a `Result`, best first. The walk goes through the beginnings of all
spaces in an order that the seed draws, so that what a stopped one has seen is a fair
share; the result of a finished one does not depend on the order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import numpy as np

from einc import compiler
from einc.analysis.profile import Profile
from einc.errors import WASTED_RANK, SpecError, UsageError
from einc.search.candidates import Candidate
from einc.search.extremes import Extreme, Programs, Unsettled
from einc.search.forms import MACS_A_VALUE
from einc.search.found import Found
from einc.search.hypergraphs import Index
from einc.search.pool import Scores, front, nearest
from einc.search.state import State
from einc.search.walk import Settings, Walk
from einc.search.wishes import EXPONENTS, Number, Objective, keeps

NAME = "found"
SECONDS_A_SAVE = 5.0
MARGINS = (0.985, 0.97, 0.95, 0.92, 0.88, 0.84, 0.8)
"""How much tighter limits are for what breaks them once its sizes are integers."""
LEAST = 1e-9
BYTES = 4
"""Of a value in float32."""

Measure = Callable[[Profile], float]
"""The forward time of a structure over that of nn.Linear."""


Progress = Callable[[str, int, int], None]
"""Is told of what, how much is done, and of how much."""


def no_progress(what: str, done: int, of: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Least:
    """What is best of an exponent over all hypergraphs of so many factors.

    `extreme` is None where the limits leave none; `settled` False where that would have
    taken too long to find.
    """

    factors: int
    objective: Objective
    extreme: Extreme | None
    candidate: Candidate | None
    settled: bool = True


@dataclass
class Result:
    """What a search found, best first, what it looked at closely, how far it came."""

    found: list[Found] = field(default_factory=list)
    looked: list[Found] = field(default_factory=list)
    least: list[Least] = field(default_factory=list)
    classes: int = 0
    structures: int = 0
    finished: bool = False


def search(
    settings: Settings,
    top: int = 20,
    state: State | None = None,
    measure: Measure | None = None,
    progress: Progress = no_progress,
) -> Result:
    """Searches, and returns at most `top` structures.

    With `measure` the first of them, at most `top`, are measured. A KeyboardInterrupt
    ends the walk: the result is then of what it saw, and not `finished`. Raises
    `UsageError` for figures that need features, or measuring.
    """
    _check(settings, measure)
    state = State() if state is None else state
    walks = [Walk.of(settings, space) for space in settings.spaces()]
    state.load(settings, walks)
    result = Result(finished=True)
    found: list[Found] = []
    try:
        result.least = [_least(walk) for walk in walks]
        _walk(settings, walks, state, progress)
    except KeyboardInterrupt:
        result.finished = False
    try:
        for judged in _looked_at(settings, result.least, walks, progress):
            found.append(judged)  # one by one: there are some where it is interrupted
        if measure is not None:
            found = _promising(settings, found, top)
            for i, one in enumerate(found):
                progress("measuring", i, len(found))
                found[i] = _measured(one, measure, state)
                state.save(settings, walks)
    except KeyboardInterrupt:
        result.finished = False
    result.classes = sum(walk.classes for walk in walks)
    result.structures = sum(walk.structures for walk in walks)
    result.looked = found
    result.found = _named(settings, _best(settings, found)[:top])
    return result


def _check(settings: Settings, measure: Measure | None) -> None:
    if measure is not None and settings.features is None:
        raise UsageError("measuring needs features: give --in")
    asked = [o.figure for o in settings.objectives]
    asked += [limit.figure for limit in settings.limits]
    for figure in asked:
        if figure not in EXPONENTS and settings.features is None:
            raise UsageError(f"`{figure}` needs features: give --in")
        if figure == "time" and measure is None:
            raise UsageError("`time` needs --measure")


def _least(walk: Walk) -> Least:
    """The best of the first exponent that is an objective, else the least nu."""
    settings = walk.settings
    asked = [o for o in settings.objectives if o.figure in EXPONENTS]
    objective = asked[0] if asked else Objective("nu", False)
    factors = walk.space.factors
    weights = {
        e: -1 if objective.largest else 1 for e in EXPONENTS if e == objective.figure
    }
    try:
        extreme = Programs(walk.forms).least(weights, settings.limits)
    except Unsettled:
        return Least(factors, objective, None, None, settled=False)
    if extreme is None:
        return Least(factors, objective, None, None)
    return Least(factors, objective, extreme, Candidate.of(walk.forms, extreme.thetas))


def _walk(
    settings: Settings, walks: Sequence[Walk], state: State, progress: Progress
) -> None:
    """Goes through all beginnings that are not done, and saves now and then."""
    waiting = [
        (walk, beginning)
        for walk in walks
        for beginning in walk.space.beginnings()
        if beginning.of_x not in walk.done
    ]
    random.Random(settings.seed).shuffle(waiting)
    saved = monotonic()
    try:
        for i, (walk, beginning) in enumerate(waiting):
            progress("searching", i, len(waiting))
            walk.step(beginning)
            if monotonic() - saved > SECONDS_A_SAVE:
                state.save(settings, walks)
                saved = monotonic()
    finally:
        state.save(settings, walks)


def _looked_at(
    settings: Settings,
    least: Sequence[Least],
    walks: Sequence[Walk],
    progress: Progress,
) -> Iterator[Found]:
    """Each once: what is best of all hypergraphs, and what the walks found.

    Where the best of a hypergraph breaks a limit once its sizes are integers, or is no
    structure of its own then, something near it is taken.
    """
    kept: dict[Candidate, bool | None] = {}
    """Whether limits are, by all that was seen; None of no structure of its own."""

    def new(candidate: Candidate) -> Iterator[Found]:
        if candidate in kept:
            return
        found = _itself(settings, candidate)
        is_kept = None if found is None else keeps(settings.limits, found.figures)
        kept[candidate] = is_kept
        if found is not None and is_kept:
            yield found

    for one in sorted(o.candidate for o in least if o.candidate is not None):
        yield from new(one)
    # Of powers of two sizes are what they are estimated to be.
    are_powers = not any(d & (d - 1) for d in settings.features or ())
    rows = [(walk, rows) for walk in walks for rows in walk.pool.best()]
    for i, (walk, (row, *spare)) in enumerate(rows):
        progress("looking closer", i, len(rows))
        coarse = walk.candidate(row)
        yield from new(coarse)
        if settings.features is None:
            continue
        finest = walk.refined(row, 1.0)
        yield from new(finest)
        if kept[finest] or (kept[finest] is None and are_powers):
            continue
        tighter = (walk.refined(row, margin) for margin in MARGINS)
        others = (walk.candidate(other) for other in spare)
        for instead in (tighter, others):
            for candidate in instead:
                yield from new(candidate)
                if kept[candidate]:
                    break


def _itself(settings: Settings, candidate: Candidate) -> Found | None:
    """With the sizes that it really gets, if it is a structure of its own with them."""
    try:
        profile = _analyzed(settings, candidate, NAME)
    except SpecError:
        return None  # more elements than a factor may have
    found = Found(profile=profile, candidate=candidate)
    return found if _is_itself(profile) else None


def _is_itself(profile: Profile) -> bool:
    """Whether it is no smaller structure in disguise.

    It is one where an index gets the size 1, where a bond is larger than it can use, and
    where merging factors before x comes costs less: their product can do more.
    """
    sizes = [] if profile.figures is None else profile.figures.binding.sizes.values()
    return (
        all(size > 1 for size in sizes)
        and all(step.holds_x for _, step in profile.plan.steps)
        and all(warning.code != WASTED_RANK.code for warning in profile.warnings)
    )


def _measured(found: Found, measure: Measure, state: State) -> Found:
    if found.text not in state.times:
        state.times[found.text] = measure(found.profile)
    return replace(found, time=state.times[found.text])


def _promising(settings: Settings, found: Sequence[Found], size: int) -> list[Found]:
    """The `size` that are most worth measuring."""
    guessed = [replace(one, time=_guess(one.profile)) for one in found]
    if settings.pareto:
        near = nearest(_logarithms(settings, guessed), size)
        guessed = [guessed[i] for i in near]
    else:
        guessed = _best(settings, guessed)
    return [replace(one, time=None) for one in guessed[:size]]


def _guess(profile: Profile) -> float:
    """A time in multiply-adds; only its order means anything."""
    assert profile.figures is not None
    moved = profile.figures.memory.bytes_moved / BYTES
    return float(profile.figures.work.forward + MACS_A_VALUE * moved)


def _best(settings: Settings, found: Sequence[Found]) -> list[Found]:
    """Best first: one of each hypergraph, or where a front is asked for, that."""

    def scored(one: Found) -> tuple[Number, ...]:
        # What could not be measured, or has no value, comes last.
        return tuple(
            o.score(one.figures[o.figure]) if o.figure in one.figures else math.inf
            for o in settings.objectives
        )

    def simplest_first(one: Found) -> tuple[Any, ...]:
        return (scored(one), len(one.candidate.indices), one.candidate)

    ordered = sorted(found, key=simplest_first)
    if settings.pareto:
        scores = np.array([scored(one) for one in ordered], np.float64)
        return [ordered[i] for i in front(scores.reshape(-1, len(settings.objectives)))]
    seen: dict[tuple[Index, ...], Found] = {}
    for one in ordered:
        seen.setdefault(one.candidate.hypergraph, one)
    return list(seen.values())


def _logarithms(settings: Settings, found: Sequence[Found]) -> Scores:
    """Scores whose differences say by what factor counts differ.

    A diagonal has no FLOPs of matrix products: what is 0 or has no value is `LEAST`.
    """

    def scored(one: Found, objective: Objective) -> Number:
        value = one.figures.get(objective.figure, 0)
        if objective.figure not in EXPONENTS:
            value = math.log(max(value, LEAST))
        return objective.score(value)

    rows = [[scored(one, o) for o in settings.objectives] for one in found]
    return np.array(rows, np.float64).reshape(-1, len(settings.objectives))


def _named(settings: Settings, found: Sequence[Found]) -> list[Found]:
    """With names of their own, by their place."""
    return [
        replace(one, profile=_analyzed(settings, one.candidate, f"{NAME}_{i}"))
        for i, one in enumerate(found, 1)
    ]


def _analyzed(settings: Settings, candidate: Candidate, name: str) -> Profile:
    structure = candidate.structure(name)
    return compiler.analyze(structure, settings.d_in, settings.d_out, settings.tokens)
