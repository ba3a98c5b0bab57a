"""What a search found, written: .ein files, and the rows of the JSON document.

In: a `Result` and the search it is of. Out: text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from einc import taxonomy
from einc.family import family
from einc.layout import laid_out
from einc.search.found import Found, Judged
from einc.search.run import Least, Result
from einc.search.walk import Settings
from einc.source import Source


def ein(found: Found, settings: Settings) -> str:
    """A file of its own: its figures, the search that found it, its definition."""
    profile, figures = found.profile, found.profile.figures
    exponents = ", ".join(
        f"{name} {found.figures[name]}"
        for name in ("omega", "psi", "nu")
        if name in found.figures
    )
    known = family(profile.structure)
    lines = [f"{exponents}: {profile.class_}, {known or 'without a name'}"]
    if figures is not None:
        binding, rank = figures.binding, figures.rank
        lines.append(
            f"at {binding.d_in} x {binding.d_out}: "
            f"{figures.parameters.total:,} parameters ({figures.parameter_share:.3g}x),"
            f" {2 * int(figures.work.matrix):,} FLOPs ({figures.flop_share:.3g}x),"
            f" rank {'' if rank.status == 'proved' else 'at most '}{rank.bound:,}"
        )
    if found.time is not None:
        lines.append(
            f"forward at {settings.tokens} tokens: {found.time:.3g}x nn.Linear"
        )
    lines.append(f"found by {command(settings)}")
    text = "".join(f"# {line}\n" for line in lines) + found.text
    return laid_out(Source.of(profile.name, text))


def command(settings: Settings) -> str:
    """The search as a command line."""
    words = ["einc search"]
    if settings.features is not None:
        words.append("--in {} --out {}".format(*settings.features))
    words.append(f"--factors {settings.factors}")
    words += ["--both"] * settings.both
    if settings.parts is not None:
        words.append(f"--grid {settings.parts}")
    for limit in settings.limits:
        words.append(limit.option())
    words += [f"--objective {objective.option()}" for objective in settings.objectives]
    words += ["--pareto"] * settings.pareto
    if any(o.figure == "time" for o in settings.objectives):
        words.append("--measure")
    words.append(f"--tokens {settings.tokens}")
    return " ".join(words)


def document(
    result: Result, settings: Settings, compared: Sequence[Judged]
) -> dict[str, Any]:
    """The JSON of a search: that of a taxonomy, each row with its `source` and `time`."""
    return {
        "schema": taxonomy.SCHEMA,
        "rows": [_row(found, ein(found, settings)) for found in result.found],
        "compared": [_row(one, one.text) for one in compared],
        "search": {
            "command": command(settings),
            "finished": result.finished,
            "hypergraphs": result.classes,
            "structures": result.structures,
            "least": [_least(least) for least in result.least],
        },
    }


def _row(found: Judged, source: str) -> dict[str, Any]:
    structure = found.profile.structure
    return {
        **found.profile.to_json(),
        "family": family(structure),
        "source": source,
        "time": found.time,
    }


def _least(least: Least) -> dict[str, Any]:
    extreme, candidate = least.extreme, least.candidate
    return {
        "factors": least.factors,
        "objective": str(least.objective),
        "settled": least.settled,
        "value": None if extreme is None else str(abs(extreme.value)),
        "source": None if candidate is None else candidate.text("least"),
    }
