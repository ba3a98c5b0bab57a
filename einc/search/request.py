"""From what is asked on a command line to `Settings`, and what is compared with.

In: texts such as `=1`, `0.25x`, `params:min`. Raises `UsageError` for what is not one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from einc import compiler
from einc.compiler import Arguments
from einc.errors import SpecError, UsageError, counted
from einc.search import wishes
from einc.search.found import Judged
from einc.search.hypergraphs import BOTH_FACTORS, MAX_FACTORS
from einc.search.run import Measure
from einc.search.walk import Settings
from einc.search.wishes import Exponent, Figure, Limit, Relation
from einc.stated import MAX_SIZE

DEFAULTS: Mapping[Exponent, str] = {"omega": "=0", "psi": "=1", "nu": "<=1"}
"""What holds of an exponent where nothing is said of it: the dense layer's scaling law
(docs/analysis.md) at no more work."""
COUNTS: Mapping[Figure, Relation] = {
    "flops": "<=",
    "params": "<=",
    "intermediate": "<=",
    "rank": ">=",
}
COMPARED: Mapping[str, Arguments] = {
    "dense": {},
    "low_rank": {},
    "monarch": {},
    "btt": {"rank": Fraction(4)},
}
"""What of the library is shown beside what is found, with its arguments."""
MOST_PARTS = {1: 24, 2: 24, 3: 6, 4: 6}
"""The finest grid for each number of factors: the thetas of one set of indices are
listed at once, in some ten megabytes."""


def settings(
    d_in: int | None,
    d_out: int | None,
    exponents: Mapping[Exponent, Sequence[str]],
    counts: Mapping[Figure, str | None],
    objectives: Sequence[str],
    factors: int,
    both: bool,
    parts: int | None,
    pareto: bool,
    tokens: int,
    seed: int,
) -> Settings:
    """A search for what is asked."""
    if d_in is None and d_out is not None:
        raise UsageError("output features alone say too little: give --in too")
    d_out = d_in if d_out is None else d_out
    for features in (d_in, d_out):
        if features is not None and not 1 <= features <= MAX_SIZE:
            raise UsageError(f"features must be from 1 to {MAX_SIZE}, not {features}")
    if not 1 <= tokens <= compiler.MAX_TOKENS:
        raise UsageError(
            f"tokens must be from 1 to {compiler.MAX_TOKENS}, not {tokens}"
        )
    if not 1 <= factors <= MAX_FACTORS:
        raise UsageError(f"--factors is from 1 to {MAX_FACTORS}, not {factors}")
    if both and factors > BOTH_FACTORS:
        raise UsageError(f"--both is for at most {BOTH_FACTORS} factors: --factors 2")
    if parts is not None and not 1 <= parts <= MOST_PARTS[factors]:
        raise UsageError(
            f"--grid is from 1 to {MOST_PARTS[factors]} for "
            f"{counted(factors, 'factor')}, not {parts}"
        )
    limits = [
        wishes.limit(exponent, text)
        for exponent in wishes.EXPONENTS
        for text in exponents[exponent] or [DEFAULTS[exponent]]
    ]
    for figure, relation in COUNTS.items():
        text = counts[figure]
        if text is not None:
            limits.append(_count(figure, relation, text, d_in, d_out))
    wanted = objectives or (["nu"] if d_in is None else ["flops", "params"])
    return Settings(
        d_in,
        d_out,
        factors,
        both,
        parts,
        tuple(limits),
        tuple(wishes.objective(text) for text in wanted),
        pareto,
        tokens,
        seed,
    )


def _count(
    figure: Figure, relation: Relation, text: str, d_in: int | None, d_out: int | None
) -> Limit:
    if d_in is None or d_out is None:
        raise UsageError(f"a limit on {figure} needs features: give --in")
    dense = {
        "flops": 2 * d_in * d_out,
        "params": d_in * d_out,
        "intermediate": max(d_in, d_out),
        "rank": min(d_in, d_out),
    }
    return wishes.share(figure, relation, text, dense[figure])


def compared(settings: Settings, measure: Measure | None) -> Iterator[Judged]:
    """Structures of the library at the same features, if they take them."""
    for name, arguments in COMPARED.items():
        structure = compiler.load(name, arguments)
        try:
            profile = compiler.analyze(
                structure, settings.d_in, settings.d_out, settings.tokens
            )
        except SpecError:
            continue
        yield Judged(profile, None if measure is None else measure(profile))
