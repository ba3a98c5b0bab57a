"""Tables over structures: one row a structure, as rich, CSV, Markdown or JSON.

In: profiles. Out: rows of text and the document `einc.taxonomy/1`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from einc.analysis.profile import Profile, number
from einc.family import family

SCHEMA = "einc.taxonomy/1"
COLUMNS = (
    "name",
    "equation",
    "omega",
    "psi",
    "nu",
    "class",
    "family",
    "parameters",
    "FLOPs",
    "rank",
)


def row(profile: Profile) -> tuple[str, ...]:
    """The cells of `COLUMNS`: FLOPs per token forward, and the rank.

    A rank that is not proved is written `~ rank` where it is probable, `<= bound`
    where it is only bounded; an exponent that a fixed structure does not have is
    empty. The family is the structure of the library with the same hypergraph.
    """
    found, figures = profile.exponents, profile.figures
    triple = (
        ("", "", "")
        if found is None
        else tuple(
            "" if value is None else str(value)
            for value in (found.best.omega, found.best.psi, found.best.nu)
        )
    )
    counts = ("", "", "")
    if figures is not None:
        rank = figures.rank
        exactly = "" if rank.status == "proved" else "~ "
        counts = (
            str(figures.parameters.total),
            str(number(2 * figures.work.matrix)),
            f"<= {rank.bound}" if rank.generic is None else f"{exactly}{rank.generic}",
        )
    equation = "; ".join(profile.structure.equations)
    kind = family(profile.structure) or "novel"
    return (profile.name, equation, *triple, profile.class_ or "", kind, *counts)


def document(profiles: Sequence[Profile]) -> dict[str, Any]:
    """The JSON of a taxonomy: profiles, each with its `family`, null where novel."""
    rows = [{**p.to_json(), "family": family(p.structure)} for p in profiles]
    return {"schema": SCHEMA, "rows": rows}


def as_csv(profiles: Sequence[Profile]) -> str:
    """One line a structure after a header, as RFC 4180 without its line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row(profile) for profile in profiles)
    return text.getvalue()


def as_markdown(profiles: Sequence[Profile]) -> str:
    """A table for a README."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS)]
    for profile in profiles:
        cells = list(row(profile))
        cells[1] = f"`{cells[1]}`"
        lines.append(tuple(cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
