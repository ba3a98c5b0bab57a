"""Measured times for people and programs: tables, sentences, a document, a picture.

In: the rows of `nn.bench`, and the machine that they were measured on. Out: rich
renderables, text, JSON, or the bytes of a figure. Nothing here is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from einc import plots
from einc.analysis.profile import Profile
from einc.errors import counted
from einc.report import plain_table, signature
from einc.sizes import Binding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from einc.nn.bench import Row
    from einc.nn.machine import Machine

SCHEMA = "einc.bench/1"

CONTESTANTS = {
    "module": "module",
    "compiled": "compiled module",
    "dense": "nn.Linear",
    "einsum": "torch.einsum",
    "opt_einsum": "opt_einsum",
}
"""What people are shown for a contestant."""
COLUMNS = (
    "tokens",
    "layer",
    "time",
    "quartiles",
    "/ nn.Linear",
    "quartiles",
    "x ideal",
    "bound by",
)
UNSTEADY = 2
"""Over how many times the lower quartile the upper one is too much."""
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
LINES = tuple(zip((*plots.STYLES, (0, (9, 3))), "osv^D", strict=True))
"""Style and marker of each contestant, in their order."""
LEGEND = """\
medians over rounds, and the quartiles, between which half of them are; ratios are taken
  within rounds
x ideal: over nn.Linear's time in proportion to FLOPs
bound by: the largest of the times that the FLOPs, the bytes and the launches of the
  structure ask for at the machine's ceilings"""


def document(report: Profile, machine: Machine, rows: Sequence[Row]) -> dict[str, Any]:
    """The document `einc.bench/1`: times in seconds, rates a second."""
    profile = report.to_json()
    return {
        "schema": SCHEMA,
        **{key: profile[key] for key in ("structure", "arguments", "features")},
        "machine": machine.to_json(),
        "rows": [row.to_json() for row in rows],
        "sentences": sentences(report.name, rows),
        "warnings": profile["warnings"],
    }


# Sentences


def sentences(name: str, rows: Sequence[Row]) -> list[str]:
    """From how many tokens on a structure is faster; what to know about the figures."""
    told = []
    for (dtype, kind), part in _parts(rows).items():
        for contestant, who in (("module", name), ("compiled", f"{name}, compiled,")):
            if contestant in part[0].times:
                told.append(f"{dtype}, {kind}: {who} is {_faster(contestant, part)}")
    left_out = dict.fromkeys(reason for row in rows for reason in row.left_out)
    return [*told, *left_out, *_unsteady(rows)]


def _unsteady(rows: Sequence[Row]) -> list[str]:
    """That ratios are not to be relied on, where that is so."""
    ratios = [row.ratios["module"] for row in rows]
    count = sum(ratio.high >= UNSTEADY * ratio.low for ratio in ratios)
    if not count:
        return []
    return [
        f"unsteady: in {count} of {counted(len(rows), 'measurement')} the quartiles of "
        f"the ratio are {UNSTEADY}x apart or more; was the machine busy with other work?"
    ]


def crossover(contestant: str, rows: Sequence[Row]) -> int | None:
    """The tokens from which on it is faster than nn.Linear, of rows ascending in them.

    None where it is not with the most tokens.
    """
    found = None
    for row in reversed(rows):
        if row.ratios[contestant].median >= 1:
            break
        found = row.tokens
    return found


def _faster(contestant: str, rows: Sequence[Row]) -> str:
    first = crossover(contestant, rows)
    if first == rows[0].tokens:
        return "faster than nn.Linear at every measured number of tokens"
    if first is not None:
        return f"faster than nn.Linear from {first:,} tokens on"
    faster = [row.tokens for row in rows if row.ratios[contestant].median < 1]
    if not faster:
        return "faster than nn.Linear at no measured number of tokens"
    listed = ", ".join(f"{tokens:,}" for tokens in faster)
    return f"faster than nn.Linear from no number of tokens on, only at {listed}"


def _parts(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each dtype and pass, ascending in tokens."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.tokens):
        parts.setdefault((row.dtype, row.kind), []).append(row)
    return parts


# For people


def shown(
    report: Profile, machine: Machine, rows: Sequence[Row], spread: bool = True
) -> RenderableType:
    """A table for each dtype and pass, what follows from them, and the machine.

    Without `spread` there are no quartiles, and it fits into 80 columns.
    """
    assert report.figures is not None
    binding = report.figures.binding
    features = f"{binding.d_in:,} -> {binding.d_out:,} features, with bias"
    title = Text(signature(report.structure), style="bold")
    title.append(f"\n  {features}", style="not bold")
    parts: list[RenderableType] = [title]
    for (dtype, kind), part in _parts(rows).items():
        parts += [Text(f"\n{dtype}, {kind}", style="bold"), _table(part, spread)]
    parts += [Text("\n" + "\n".join(sentences(report.name, rows)))]
    parts += [Text(f"\n{LEGEND}\n"), _machine(machine, binding, rows)]
    return Group(*parts)


def _table(rows: Sequence[Row], spread: bool) -> Table:
    table = plain_table()
    wanted = [i for i, name in enumerate(COLUMNS) if spread or name != "quartiles"]
    for i in wanted:
        words = COLUMNS[i] in ("layer", "bound by")
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(COLUMNS[i], justify=justify, no_wrap=True)
    for row in rows:
        for contestant in CONTESTANTS:
            if contestant in row.times:
                cells = _cells(row, contestant)
                table.add_row(*(Text(cells[i]) for i in wanted))
        table.add_section()
    return table


def _cells(row: Row, contestant: str) -> list[str]:
    """A cell a column; what is of the row stands with its first contestant."""
    seconds, ratio = row.seconds[contestant], row.ratios[contestant]
    scale, unit = _unit(seconds.median)
    ideal = row.times_ideal(contestant)
    first, dense = contestant == "module", contestant == "dense"
    return [
        f"{row.tokens:,}" if first else "",
        CONTESTANTS[contestant],
        f"{_digits(seconds.median / scale)} {unit}",
        f"{_digits(seconds.low / scale)} - {_digits(seconds.high / scale)}",
        "" if dense else f"{_digits(ratio.median)}x",
        "" if dense else f"{_digits(ratio.low)} - {_digits(ratio.high)}",
        "" if dense or ideal is None else _digits(ideal),
        row.bound if first else "",
    ]


def _machine(machine: Machine, binding: Binding, rows: Sequence[Row]) -> Text:
    reached = {
        dtype: max(_rate(row, binding) for row in rows if row.dtype == dtype)
        for dtype in dict.fromkeys(row.dtype for row in rows)
    }
    rates = ", ".join(
        f"{machine.matmul[dtype] / 1e9:,.0f} GFLOP/s in {dtype} "
        f"(nn.Linear at best {rate / 1e9:,.0f})"
        for dtype, rate in reached.items()
    )
    scale, unit = _unit(machine.launch)
    threads = counted(machine.threads, "thread")
    return Text(
        f"{machine.processor}, {threads}, torch {machine.torch}, "
        f"allocator: {machine.allocator}\n"
        f"ceilings: matrix products {rates}; copies {machine.copy / 1e9:,.1f} GB/s; "
        f"a launch {_digits(machine.launch / scale)} {unit}"
    )


def _rate(row: Row, binding: Binding) -> float:
    """FLOPs a second of nn.Linear."""
    flops = (6 if row.kind == "training" else 2) * binding.d_in * binding.d_out
    return flops * row.tokens / row.seconds["dense"].median


def _unit(seconds: float) -> tuple[float, str]:
    """The unit in which seconds are at least 1, or the smallest."""
    return next((u for u in UNITS if seconds >= u[0]), UNITS[-1])


def _digits(value: float) -> str:
    """Three digits, and no exponent.

    >>> [_digits(v) for v in (0.0123, 1.234, 56.78, 1234.5)]
    ['0.0123', '1.23', '56.8', '1,234']
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


# A picture


def picture(report: Profile, rows: Sequence[Row], file_format: str) -> bytes:
    """Times over tokens, both logarithmic: a line a contestant, axes a dtype and pass."""
    from matplotlib.figure import Figure

    assert report.figures is not None
    binding = report.figures.binding
    parts = _parts(rows)
    dtypes = list(dict.fromkeys(dtype for dtype, _ in parts))
    kinds = list(dict.fromkeys(kind for _, kind in parts))
    size = (1 + 4.5 * len(kinds), 0.8 + 3.4 * len(dtypes))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(dtypes), len(kinds), squeeze=False)
    for (dtype, kind), part in parts.items():
        axes = grid[dtypes.index(dtype)][kinds.index(kind)]
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = [row.tokens for row in part]
        axes.set_xticks(ticks, [f"{tokens:,}" for tokens in ticks])
        _draw(axes, part)
        axes.set_title(f"{dtype}, {kind}")
        axes.set_xlabel("tokens")
        axes.set_ylabel("seconds")
    figure.suptitle(f"{report.name}, {binding.d_in:,} to {binding.d_out:,} features")
    grid[0][0].legend(frameon=False, fontsize="small")
    return plots.saved(figure, file_format)


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    for (name, label), (style, marker) in zip(CONTESTANTS.items(), LINES, strict=True):
        # An einsum that is left out for some numbers of tokens has a shorter line.
        found = {r.tokens: r.seconds[name].median for r in rows if name in r.times}
        if found:
            axes.plot(
                list(found),
                list(found.values()),
                linestyle=style,
                marker=marker,
                markerfacecolor="white",
                color="black",
                label=label,
            )
    ideal = {row.tokens: row.ideal for row in rows if row.ideal}
    if ideal:
        axes.plot(list(ideal), list(ideal.values()), color="grey", label="ideal")
