"""A study in words: sentences of comparisons, of claims, and of what cannot be said.

In: summaries and claims. Out: plain text. Each sentence carries the figures that it
rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, assert_never

from einc.errors import counted
from einc.scale.claims import Claim, Finding
from einc.scale.frontier import BEGINNING
from einc.scale.multiplier import (
    CONFIDENCE,
    ENOUGH,
    MARGIN,
    Bound,
    Comparison,
    Estimate,
    Multiplier,
    Untold,
)
from einc.scale.results import Results
from einc.scale.summaries import Summary
from einc.times import digits

Cost = Literal["compute", "size"]
_NOUNS: dict[Cost, str] = {"compute": "compute", "size": "total parameters"}


def estimate(found: Estimate, unit: str = "") -> str:
    """The mean and its ends: (interval), or [extremes] of few seeds.

    >>> estimate(Estimate(2.0, 1.5, 2.5, 5), "x"), estimate(Estimate(2.0, 1.5, 2.5, 3))
    ('2.00x (1.50 - 2.50)', '2.00 [1.50 - 2.50]')
    """
    mean = f"{digits(found.mean)}{unit}"
    ends = f"{digits(found.low)} - {digits(found.high)}"
    if found.seeds == 1:
        return mean
    return f"{mean} ({ends})" if found.is_interval else f"{mean} [{ends}]"


def cells(comparison: Comparison) -> tuple[str, str, str]:
    """Of a table: the multiplier, that at the lowest loss, and the range of loss."""
    match comparison:
        case Multiplier(mean, at_lowest, (low, high)):
            over = f"{digits(low)} - {digits(high)}"
            return estimate(mean, "x"), estimate(at_lowest, "x"), over
        case Bound(side, factor, loss):
            sign = ">=" if side == "at least" else "<="
            return f"{sign} {digits(factor)}x", "-", digits(loss)
        case Untold():
            return "-", "-", "-"
        case _:
            assert_never(comparison)


# Sentences


def sentences(found: Sequence[Summary], cost: Cost) -> list[str]:
    """One for each contestant and baseline."""
    return [
        sentence(one.contestant.name, name, comparison, cost)
        for one in found
        for name, comparison in (one.compute if cost == "compute" else one.size).items()
    ]


def sentence(
    contestant: str, baseline: str, comparison: Comparison, cost: Cost = "compute"
) -> str:
    """What the contestant needs of what the baseline needs: the multiplier's inverse."""
    of = f"of {baseline}'s {_NOUNS[cost]}"
    match comparison:
        case Multiplier(mean, at_lowest, (low, high)):
            return (
                f"{contestant} needs {_share(mean)} {of} at equal loss over "
                f"{digits(low)} to {digits(high)}, and {_share(at_lowest)} at the lowest"
            )
        case Bound(side, factor, loss, seeds):
            ahead, how = "at most", f"which {baseline} does not reach"
            if side == "at most":
                ahead, how = "at least", f"which {contestant} does not reach"
            return (
                f"{contestant} needs {ahead} {digits(1 / factor)}x {of} for a loss of "
                f"{digits(loss)}, {how} ({counted(seeds, 'seed')})"
            )
        case Untold(reason):
            return f"{contestant} against {baseline}: nothing, since {reason}"
        case _:
            assert_never(comparison)


def _share(found: Estimate) -> str:
    """The inverse of a multiplier, with its ends: `0.60x (0.50x to 0.70x, 95%)`."""
    share = f"{digits(1 / found.mean)}x"
    if found.seeds == 1:
        return f"{share} (one seed: no interval)"
    ends = f"{digits(1 / found.high)}x to {digits(1 / found.low)}x"
    if found.is_interval:
        return f"{share} ({ends}, {CONFIDENCE:.0%})"
    return f"{share} ({ends} in {found.seeds} seeds: no interval)"


def findings(claim: Claim) -> list[str]:
    """One sentence for each contestant and baseline that a claim is about."""
    if not claim.findings:
        return ["no contestant of this study is of this kind"]
    return [f"{one.standing}: {finding(one)}" for one in claim.findings]


def finding(one: Finding) -> str:
    """The sentence of a finding."""
    return sentence(one.contestant, one.baseline, one.comparison)


def fits(found: Sequence[Summary]) -> str:
    """What the table of fits shows."""
    laws = [law for one in found for law in (one.own, one.shared) if law is not None]
    if not laws:
        return "No frontier has enough points for a fit."
    unit = laws[0].fits[0].unit
    shared = next((one.shared for one in found if one.shared is not None), None)
    assert shared is not None
    return (
        f"L(C) = E + A (C / {unit:.0e} FLOPs)^-b, fitted to the frontier of each seed by "
        "least squares of relative errors, whose root mean square is `error`. First "
        "with an E for each seed, then with one E for all contestants and seeds, "
        f"{digits(shared.fits[0].E)}: the irreducible loss is the task's."
    )


# What cannot be said


def limits(results: Results, found: Sequence[Summary]) -> list[str]:
    """What to know before anything is concluded from the figures."""
    told = [
        "Nothing is said beyond the compute, the losses and the widths that were "
        "trained; a fit describes its points and foretells nothing.",
        "Frontiers are of the widths trained. Where the best width is the narrowest or "
        "the widest, another one may need less.",
        *_edges(found),
        f"The first {BEGINNING:.0%} of the steps of each run are left out.",
        "Intervals cover what a seed draws: the first weights and the order of data. "
        "They do not cover the choice of data, of learning rates, or of the batch.",
        f"Each interval is of {CONFIDENCE:.0%} for itself; among many some miss.",
        f"A match is an interval within {MARGIN - 1:.0%} of 1: smaller differences are "
        "not told apart. A claim is of these contestants on this task alone.",
        "Compute is FLOPs of training. It is neither time nor memory.",
    ]
    if any(one.size for one in found):
        told.append(
            "Parameters are compared at the end of runs, however much compute they took."
        )
    few = [o.contestant.name for o in found if 0 < len(o.seeds) < ENOUGH]
    if few:
        told.append(
            f"Fewer than {ENOUGH} seeds, so no interval and no verdict: {', '.join(few)}."
        )
    vague = [
        one.contestant.name
        for one in found
        if one.own is not None and not all(fit.determined for fit in one.own.fits)
    ]
    if vague:
        told.append(f"The frontier does not determine b: {', '.join(vague)}.")
    return told


def _edges(found: Sequence[Summary]) -> list[str]:
    """How much of each range is away from the narrowest and the widest models."""
    shares = [
        f"{one.contestant.name} against {name} {comparison.inside:.0%}"
        for one in found
        for name, comparison in one.compute.items()
        if isinstance(comparison, Multiplier) and one.contestant.kind == "structure"
    ]
    if not shares:
        return []
    return [
        "The best widths of both are neither the narrowest nor the widest over this "
        f"share of the range: {', '.join(shares)}."
    ]


def left_out(results: Results, found: Sequence[Summary]) -> list[str]:
    """Diverged, failed and missing jobs, and seeds that are not used."""
    told = [
        f"diverged: {run.contestant}, width {run.width}, seed {run.seed}, after "
        f"{counted(run.steps[-1] if run.steps else 0, 'step')}, at rate {run.lr:g}"
        for run in results.runs
        if run.diverged
    ]
    for job in results.failures:
        lines = job.error.strip().splitlines() or ["it does not say why"]
        told.append(f"failed: {job.name}: {lines[-1]}")  # of a traceback, the error
    missing: dict[tuple[str, int], list[str]] = {}
    for name, width, seed in results.missing:
        missing.setdefault((name, width), []).append(str(seed))
    told += [
        f"without a result: {name}, width {width}, seed {', '.join(seeds)}"
        for (name, width), seeds in missing.items()
    ]
    told += [
        f"not used: seed {seed} of {one.contestant.name}, which lacks a width that "
        "another seed has, or has no finished run"
        for one in found
        for seed in one.left_out
    ]
    return told
