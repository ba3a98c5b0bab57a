"""What a search found, for people: a table, and how far the search came."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from einc import taxonomy
from einc.errors import counted
from einc.report import grouped, plain_table
from einc.search.found import Judged
from einc.search.run import Least, Result

COLUMNS = ("name", "equation", "family", "omega", "psi", "nu")
COUNTS = ("parameters", "FLOPs", "rank")


def result(found: Result, compared: Sequence[Judged]) -> RenderableType:
    """The structures, those of the library beside them, and what was searched."""
    seen = (
        f"{counted(found.classes, 'hypergraph')} and "
        f"{counted(found.structures, 'structure')} searched"
        + ("" if found.finished else "; stopped before the end")
    )
    lines = [seen, *(_least(least) for least in found.least)]
    if not found.found:
        lines.insert(0, "nothing found under these limits")
    return Group(_table(found.found, compared), Text("\n" + "\n".join(lines)))


def _table(found: Sequence[Judged], compared: Sequence[Judged]) -> Table:
    shown = [*found, *compared]
    figures = any(one.profile.figures is not None for one in shown)
    timed = any(one.time is not None for one in shown)
    table = plain_table()
    for column in COLUMNS:
        wide = column in ("name", "equation", "family")
        table.add_column(column, justify="left" if wide else "right", no_wrap=not wide)
    for column in COUNTS if figures else ():
        table.add_column(column, justify="right", no_wrap=True)
    if timed:
        table.add_column("time", justify="right", no_wrap=True)
    for i, one in enumerate(shown):
        row = dict(zip(taxonomy.COLUMNS, taxonomy.row(one.profile), strict=True))
        cells = [row[column] for column in COLUMNS]
        cells += [grouped(row[column]) for column in COUNTS if figures]
        if timed:
            cells.append("" if one.time is None else f"{one.time:.3g}x")
        last = i == len(found) - 1
        table.add_row(*map(Text, cells), end_section=last)
    return table


def _least(least: Least) -> str:
    of = f"{least.objective} with {counted(least.factors, 'factor')}"
    if not least.settled:
        return f"{of}: not settled"
    if least.extreme is None:
        return f"{of}: none under these limits"
    return f"{of}: {abs(least.extreme.value)}, over all hypergraphs"
