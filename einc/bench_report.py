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

from einc import plots, predict, predict_report
from einc.analysis.profile import Profile
from einc.calibration import Calibration, Machine
from einc.errors import counted
from einc.report import plain_table, signature
from einc.sizes import Binding
from einc.times import digits, faster, text, unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from einc.nn.bench import Row

SCHEMA = "einc.bench/1"

CONTESTANTS = {
    "module": "module",
    "plain": "without kernel",
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
    "predicted",
    "/ nn.Linear",
    "quartiles",
    "x ideal",
    "bound by",
)
UNSTEADY = 2
"""Over how many times the lower quartile the upper one is too much."""
STYLES = (*plots.STYLES, (0, (9, 3)))
MARKERS = "osv^Dx+*"
LEGEND = {
    "": "medians over rounds, and the quartiles, between which half of them are; ratios are "
    "taken\n  within rounds",
    "predicted": "predicted: from the calibration that is stored; `einc bench --calibrate` "
    "measures one",
    "x ideal": "x ideal: over nn.Linear's time in proportion to FLOPs",
    "bound by": "bound by: the largest of the times that the FLOPs, the bytes and the "
    "launches of the\n  structure ask for at the machine's ceilings",
}
"""What a table means, and some of its columns."""


def document(
    report: Profile, machine: Machine, rows: Sequence[Row], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The document `einc.bench/1`: times in seconds, rates a second.

    `notes` are sentences more.
    """
    profile = report.to_json()
    return {
        "schema": SCHEMA,
        **{key: profile[key] for key in ("structure", "arguments", "features")},
        "machine": machine.to_json(),
        "rows": [row.to_json() for row in rows],
        "sentences": [*sentences(report.name, rows), *notes],
        "warnings": profile["warnings"],
    }


# Sentences


def sentences(name: str, rows: Sequence[Row]) -> list[str]:
    """From how many tokens on a structure is faster; what to know about the figures."""
    told = []
    for (dtype, kind), part in _parts(rows).items():
        for contestant, who in (("module", name), ("compiled", f"{name}, compiled,")):
            if contestant in part[0].times:
                how = faster(ratios(contestant, part), "measured")
                told.append(f"{dtype}, {kind}: {who} is {how}")
    left_out = dict.fromkeys(reason for row in rows for reason in row.left_out)
    return [*told, *left_out, *_unsteady(rows)]


def about(
    report: Profile, machine: Machine, calibration: Calibration | None
) -> list[str]:
    """Why there are no predictions, or how far to rely on them."""
    if calibration is None:
        cuda = " --device cuda" * (machine.device == "cuda")
        return [
            f"nothing is predicted, for no calibration is stored: `einc bench "
            f"--calibrate{cuda}` measures one"
        ]
    reason = predict.why_not(report, calibration)
    if reason is not None:
        return [reason]
    differences = calibration.differences(machine)
    if not differences:
        return []
    return [f"the calibration was made otherwise: {'; '.join(differences)}"]


def _unsteady(rows: Sequence[Row]) -> list[str]:
    """That ratios are not to be relied on, where that is so."""
    spreads = [row.ratios["module"] for row in rows]
    count = sum(spread.high >= UNSTEADY * spread.low for spread in spreads)
    if not count:
        return []
    return [
        f"unsteady: in {count} of {counted(len(rows), 'measurement')} the quartiles of "
        f"the ratio are {UNSTEADY}x apart or more; was the machine busy with other work?"
    ]


def ratios(contestant: str, rows: Sequence[Row]) -> dict[int, float]:
    """A contestant's median ratios by tokens."""
    return {row.tokens: row.ratios[contestant].median for row in rows}


def _parts(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each dtype and pass, ascending in tokens."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.tokens):
        parts.setdefault((row.dtype, row.kind), []).append(row)
    return parts


# For people


def shown(
    report: Profile,
    machine: Machine,
    rows: Sequence[Row],
    spread: bool = True,
    notes: Sequence[str] = (),
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
    told = [*sentences(report.name, rows), *notes]
    parts += [Text("\n" + "\n".join(told))]
    empty = _empty(rows)
    legend = "\n".join(line for name, line in LEGEND.items() if name not in empty)
    parts += [Text(f"\n{legend}\n"), _machine(machine, binding, rows)]
    return Group(*parts)


def _table(rows: Sequence[Row], spread: bool) -> Table:
    table = plain_table()
    left_out = _empty(rows) | ({"quartiles"} if not spread else set())
    wanted = [i for i, name in enumerate(COLUMNS) if name not in left_out]
    for i in wanted:
        words = COLUMNS[i] in ("layer", "bound by")
        justify: Literal["left", "right"] = "left" if words else "right"
        table.add_column(COLUMNS[i], justify=justify, no_wrap=True)
    for row in rows:
        for contestant in _shown(rows):
            if contestant in row.times:
                cells = _cells(row, contestant)
                table.add_row(*(Text(cells[i]) for i in wanted))
        table.add_section()
    return table


def _empty(rows: Sequence[Row]) -> set[str]:
    """Columns without a cell."""
    found = set()
    if all(row.predicted is None for row in rows):
        found.add("predicted")
    if all(row.times_ideal(name) is None for row in rows for name in row.times):
        found.add("x ideal")
    return found


def _shown(rows: Sequence[Row]) -> dict[str, str]:
    """What people are shown for each contestant of some rows, the user's last."""
    own = {name: name for row in rows for name in row.times if name not in CONTESTANTS}
    return CONTESTANTS | own


def _cells(row: Row, contestant: str) -> list[str]:
    """A cell a column; what is of the row stands with its first contestant."""
    seconds, ratio = row.seconds[contestant], row.ratios[contestant]
    scale, name = unit(seconds.median)
    predicted = row.predicted_seconds
    ideal = row.times_ideal(contestant)
    first, dense = contestant == "module", contestant == "dense"
    return [
        f"{row.tokens:,}" if first else "",
        CONTESTANTS.get(contestant, contestant),
        f"{digits(seconds.median / scale)} {name}",
        f"{digits(seconds.low / scale)} - {digits(seconds.high / scale)}",
        text(predicted[contestant]) if contestant in predicted else "",
        "" if dense else f"{digits(ratio.median)}x",
        "" if dense else f"{digits(ratio.low)} - {digits(ratio.high)}",
        "" if dense or ideal is None else digits(ideal),
        row.bound if first else "",
    ]


def _machine(machine: Machine, binding: Binding, rows: Sequence[Row]) -> Text:
    reached = {
        dtype: max(_rate(row, binding) for row in rows if row.dtype == dtype)
        for dtype in dict.fromkeys(row.dtype for row in rows)
    }
    beside = {
        dtype: f" (nn.Linear at best {digits(rate / 1e9)})"
        for dtype, rate in reached.items()
    }
    return predict_report.ceilings(machine, beside)


def _rate(row: Row, binding: Binding) -> float:
    """FLOPs a second of nn.Linear."""
    flops = (6 if row.kind == "training" else 2) * binding.d_in * binding.d_out
    return flops * row.tokens / row.seconds["dense"].median


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
    for i, (name, label) in enumerate(_shown(rows).items()):
        # An einsum that is left out for some numbers of tokens has a shorter line.
        found = {r.tokens: r.seconds[name].median for r in rows if name in r.times}
        if found:
            axes.plot(
                list(found),
                list(found.values()),
                linestyle=STYLES[i % len(STYLES)],
                marker=MARKERS[i % len(MARKERS)],
                markerfacecolor="white",
                color="black",
                label=label,
            )
    ideal = {row.tokens: row.ideal for row in rows if row.ideal}
    if ideal:
        axes.plot(list(ideal), list(ideal.values()), color="grey", label="ideal")
