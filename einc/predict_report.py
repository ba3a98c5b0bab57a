"""Predicted times for people: a table, sentences, and where they come from.

In: a `Prediction`. Out: rich renderables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from einc import times
from einc.calibration import Machine
from einc.errors import counted
from einc.predict import SEARCHED, Prediction
from einc.report import plain_table

COLUMNS = ("tokens", "module", "nn.Linear", "ratio", "bound by")


def shown(found: Prediction, name: str) -> RenderableType:
    """A section for each dtype and pass, what follows from them, and the machine."""
    sentences = "\n".join(found.sentences(name))
    calibrated = machine(found.calibration.machine)
    others = sorted({row.tokens for row in found.rows}.difference(SEARCHED))
    beside = "".join(f" and at {tokens:,}" for tokens in others)
    origin = Text(
        f"looked for at powers of two up to {SEARCHED[-1]:,} tokens{beside}; bound by: "
        f"what most of the module's time goes into\ncalibrated on {calibrated}"
    )
    return Group(_table(found), Text(f"\n{sentences}"), origin)


def machine(found: Machine) -> str:
    """What times hold for."""
    threads = counted(found.threads, "thread")
    return (
        f"{found.processor}, {threads}, torch {found.torch}, "
        f"allocator: {found.allocator}"
    )


def ceilings(found: Machine, beside: Mapping[str, str] | None = None) -> Text:
    """The most that a machine was seen to do; `beside` has remarks by dtype."""
    rates = ", ".join(
        f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" + (beside or {}).get(dtype, "")
        for dtype, rate in found.matmul.items()
    )
    return Text(
        f"{machine(found)}\nceilings: matrix products {rates}; "
        f"copies {found.copy / 1e9:,.1f} GB/s; a launch {times.text(found.launch)}"
    )


def _table(found: Prediction) -> Table:
    table = plain_table()
    table.add_column("predicted", no_wrap=True)
    for column in COLUMNS:
        words: Literal["left", "right"] = "left" if column == "bound by" else "right"
        table.add_column(column, justify=words, no_wrap=True)
    for dtype, kind in found.ratios:
        part = [row for row in found.rows if (row.dtype, row.kind) == (dtype, kind)]
        for i, row in enumerate(part):
            table.add_row(
                f"{dtype}, {kind}" if i == 0 else "",
                f"{row.tokens:,}",
                times.text(row.module.total),
                times.text(row.dense.total),
                f"{times.digits(row.ratio)}x",
                row.module.bound,
            )
        table.add_section()
    return table
