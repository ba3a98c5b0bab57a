"""Profiles and stages for people: what a terminal shows.

In: values of the pipeline. Out: rich renderables, or plain text for `--emit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from einc import taxonomy
from einc.analysis.exponents import Exponents
from einc.analysis.profile import Figures, Profile, StepReport, number
from einc.analysis.rank import Cut
from einc.analysis.why import Reasons
from einc.plan import Plan
from einc.structure import Structure, Term
from einc.syntax import unparse

if TYPE_CHECKING:
    from einc.nn.spectrum import Spectra


def profile(
    report: Profile,
    why: Reasons | None = None,
    spectra: Spectra | None = None,
    times: RenderableType | None = None,
) -> RenderableType:
    """What is it, what does it cost, what can it express (and why), in which order.

    `times` is a part more.
    """
    figures = report.figures
    costs = _formulas(report) if figures is None else _costs(report, figures)
    parts: list[RenderableType] = [_what(report), costs, _expresses(report)]
    if spectra is not None:
        parts.append(_spectra(report, spectra))
    if why is not None:
        parts.append(_why(why))
    parts.append(_order(report))
    if times is not None:
        parts.append(times)
    spaced: list[RenderableType] = [parts[0]]
    for part in parts[1:]:
        spaced += [Text(), part]
    return Group(*spaced)


def signature(structure: Structure) -> str:
    """A structure's name and what its parameters stand for: `btt(rank = 1)`."""
    arguments = ", ".join(f"{k} = {v}" for k, v in structure.arguments.items())
    return f"{structure.name}({arguments})" if arguments else structure.name


def _what(report: Profile) -> Text:
    structure = report.structure
    text = Text(signature(structure), style="bold")
    if report.class_ is not None:
        text.append(f"  {report.class_}", style="cyan")
    if structure.definition.doc:
        text.append(f"\n{structure.definition.doc}", style="not bold italic")
    for equation in structure.equations:
        text.append(f"\n  {equation}", style="not bold")
    if report.figures is not None:
        text.append(f"\n  {_sizes(report.figures)}", style="not bold")
    return text


def _sizes(figures: Figures) -> str:
    binding = figures.binding
    line = f"{binding.d_in} -> {binding.d_out} features"
    line += ", " * bool(binding.sizes)
    line += ", ".join(f"{name} = {size}" for name, size in binding.sizes.items())
    if binding.is_padded:
        sides = zip(*binding.padded, strict=True)
        padded_in, padded_out = (max(side) for side in sides)
        line += f"; padded to {padded_in} -> {padded_out}"
    return line


def _costs(report: Profile, figures: Figures) -> Table:
    work, memory, parameters = figures.work, figures.memory, figures.parameters
    dense = figures.dense
    table = plain_table()
    table.add_column("per token")
    for name in (report.name, "dense", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, value: Fraction | int, other: int | None = None) -> None:
        ratio = "" if not other else f"{float(value / other):.4g}x"
        table.add_row(name, _count(value), _count(other), ratio)

    binding = figures.binding
    add("parameters", parameters.total, dense)
    if report.structure.route is not None:
        add("  active", parameters.active, dense)
        add("  router", parameters.router)
    add("FLOPs forward", 2 * work.matrix, 2 * dense)
    if report.structure.route is not None:
        add("  all experts", 2 * work.all_experts_matrix, 2 * dense)
        add("  router", 2 * parameters.router)
    add("FLOPs training", 2 * work.training_matrix, 6 * dense)
    if work.elementwise:
        add("elementwise FLOPs", work.elementwise)
    add("saved for backward", memory.saved_for_backward, binding.d_in)
    if memory.largest_intermediate:
        add("largest intermediate", memory.largest_intermediate)
    return table


def _count(value: Fraction | int | None) -> str:
    if value is None:
        return ""
    shown = number(value)
    if isinstance(shown, float):
        return f"{shown:,.1f}" if shown >= 1 else f"{shown:.3g}"
    return f"{shown:,}"


def _formulas(report: Profile) -> Text:
    return Text(
        f"parameters             {report.formulas['params']}\n"
        f"multiply-adds a token  {report.formulas['macs']}"
    )


def _expresses(report: Profile) -> Text:
    figures, formula = report.figures, report.formulas["rank"]
    if figures is None:
        text = Text(f"rank at most {formula}")
    else:
        text = _rank(report.structure, figures, formula)
    if report.exponents is None:
        text.append("\nfixed sizes: no exponents")
        return text
    best = report.exponents.best
    names = {
        "omega": (best.omega, _sharing(best.omega)),
        "psi": (best.psi, _growth_of_rank(report.exponents)),
        "nu": (best.nu, "multiply-adds grow as d^(1 + nu)"),
    }
    for name, (value, meaning) in names.items():
        text.append(f"\n{name:<6} {'-' if value is None else value!s:<5} {meaning}")
        formula = report.exponents.formulas.get(name, "")
        if formula and formula != str(value):
            text.append(f": {formula}")
    merged = _merged(report.exponents)
    if merged:
        text.append(f"\n{merged}")
    return text


def _rank(structure: Structure, figures: Figures, formula: str) -> Text:
    """The rank, how it is known, and where it is lost."""
    rank = figures.rank
    match rank.status:
        case "proved":
            text = Text(f"rank {rank.generic:,} (proved), from {formula}")
        case "probable":
            text = Text(
                f"rank {rank.generic:,} (probable), at most {rank.bound:,} by {formula}"
            )
        case "bound only":
            at_least = f" and at least {rank.least:,}" if rank.least > 1 else ""
            text = Text(
                f"rank at most {rank.bound:,}{at_least} (bound only), from {formula}"
            )
    label = {"proved": "proof: ", "probable": "by "}.get(rank.status, "")
    text.append(f"\n  {label}{rank.method}")
    for term, cut in zip(structure.terms, rank.cuts, strict=True):
        of = f"of `{unparse(term.equation)}` " if len(rank.cuts) > 1 else ""
        text.append(f"\n  smallest cut {of}{cut_text(term, cut)}")
    return text


def cut_text(term: Term, cut: Cut) -> str:
    """Where a term is narrowest: `32: r, between x * A and B`."""
    for tensor, side in zip("xy", term.sides, strict=True):
        if {axis.name for axis in side} == set(cut.indices):
            return f"{cut.size:,}: all of {tensor}"
    near, far = " * ".join(("x", *cut.x_side)), " * ".join((*cut.y_side, "y"))
    return f"{cut.size:,}: {', '.join(cut.indices) or '1'}, between {near} and {far}"


def _spectra(report: Profile, found: Spectra) -> Table:
    """At initialization: gains of the RMS, stable rank, and some singular values."""
    table = plain_table()
    table.add_column("at initialization")
    for name in (report.name, "dense"):
        table.add_column(name, justify="right", no_wrap=True)
    both = (found.structure, found.dense)

    def add(name: str, values: Iterable[float]) -> None:
        table.add_row(name, *(f"{value:.4g}" for value in values))

    add("RMS gain, typical input", (one.gain for one in both))
    add("RMS gain, worst input", (one.largest_gain for one in both))
    add("spectral norm", (one.norm for one in both))
    add("sqrt(d_out / d_in)", (one.limit for one in both))
    add("stable rank", (one.stable_rank for one in both))
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        place = f"singular value, after {share:.0%}"
        add(place, (one.at(share) for one in both))
    add("smallest singular value", (one.at(1.0) for one in both))
    return table


def _why(found: Reasons) -> Text:
    lines = []
    for name, reason in found.by_exponent.items():
        value = "-" if reason.value is None else reason.value
        lines.append(f"why {name} = {value}: {reason.text}")
        for change in reason.changes:
            triple = ", ".join(f"{k} {v}" for k, v in vars(change.triple).items())
            words = "" if change.text == change.statement else f"{change.text}, "
            lines.append(f"  {words}{change.statement}: {triple}")
    return Text("\n".join(lines))


def _growth_of_rank(found: Exponents) -> str:
    words = "full rank" if found.best.psi == 1 else "rank grows as d^psi"
    return words if found.psi_is_exact else f"at most: {words} (a factor is tied)"


def _sharing(omega: Fraction | None) -> str:
    if omega is None:
        return "no parameters"
    if omega == 0:
        return "every parameter is used once a token"
    return "parameters are shared" if omega > 0 else "parameters outgrow the work"


def _merged(found: Exponents) -> str:
    if found.merged == found.best:
        return ""
    triple = ", ".join(f"{k} {v}" for k, v in vars(found.merged).items())
    return f"with factors merged first: {triple}"


def _order(report: Profile) -> Text:
    plan = report.plan
    planned = "by exponents" if plan.tokens is None else f"for {plan.tokens:,} tokens"
    text = Text(f"order: {plan.kind}, {planned}")
    for step in report.steps:
        text.append(f"\n  {_step(step)}")
    return text


def _step(step: StepReport) -> str:
    line = f"{step.result} = {' * '.join(step.operands)}  {step.einsum}"
    if step.macs is None:
        return line
    kind = "" if step.matrix else ", elementwise"
    return f"{line}  {_count(step.macs)} multiply-adds{kind}"


def table(profiles: Sequence[Profile], equations: bool = True) -> Table:
    """The taxonomy; without equations and families it fits into 80 columns."""
    shapes = {
        f"{r.figures.binding.d_in} x {r.figures.binding.d_out}"
        for r in profiles
        if r.figures is not None
    }
    caption = f"figures at {', '.join(sorted(shapes))}"
    if not equations:
        caption += "; a wider terminal shows equations and families"
    result = plain_table(caption)
    for column in taxonomy.COLUMNS:
        if column in ("equation", "family"):
            if equations:
                result.add_column(column)
        elif column in ("name", "class"):
            result.add_column(column, no_wrap=column == "name")
        else:
            result.add_column(column, justify="right", no_wrap=True)
    for report in profiles:
        name, equation, *cells = taxonomy.row(report)
        kind = [cells[4]] * equations
        written = [equation] * equations
        shown = (name, *written, *cells[:4], *kind, *map(grouped, cells[5:]))
        result.add_row(*map(Text, shown))
    return result


def grouped(cell: str) -> str:
    """A count of the taxonomy, its digits in groups of three."""
    start, space, digits = cell.rpartition(" ")
    if "." not in digits:
        return f"{start}{space}{int(digits):,}"
    value = float(digits)
    return f"{start}{space}{value:{',.6g' if value < 1e6 else ',.1f'}}"


def listing(structures: Iterable[Structure]) -> Table:
    """The library: signature, equation, description."""
    result = plain_table()
    for column in ("structure", "equation", "what it is"):
        result.add_column(column)
    for structure in structures:
        equation = "; ".join(structure.equations)
        cells = (signature(structure), equation, structure.definition.doc or "")
        result.add_row(*map(Text, cells))
    return result


def plain_table(caption: str | None = None) -> Table:
    return Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        caption=caption,
        caption_justify="left",
    )


def restructuring(rows: Sequence[Any]) -> Table:
    """The rows of a `Restructuring`, and their sums."""
    result = plain_table()
    for column in ("layer", "shape", "becomes"):
        result.add_column(column, no_wrap=True)
    for column in ("parameters", "before", "FLOPs a token", "before"):
        result.add_column(column, justify="right", no_wrap=True)
    projected = any(row.error is not None for row in rows)
    if projected:
        result.add_column("error", justify="right")
    totals = [0.0] * 4
    for row in rows:
        figures = [row.parameters[1], row.parameters[0], row.flops[1], row.flops[0]]
        totals = [a + b for a, b in zip(totals, figures, strict=True)]
        cells = [row.name, f"{row.d_in} -> {row.d_out}"]
        cells.append(row.structure or f"(left: {row.reason})")
        cells += [f"{round(figure):,}" for figure in figures]
        if projected:
            cells.append("" if row.error is None else f"{row.error:.3g}")
        result.add_row(*map(Text, cells))
    result.add_section()
    cells = ["all dense layers", "", "", *(f"{round(total):,}" for total in totals)]
    result.add_row(*map(Text, cells))
    return result


def coordinates(
    activations: Mapping[str, Mapping[str, Mapping[int, float]]],
    updates: Mapping[str, Mapping[str, Mapping[int, float]]],
) -> Table:
    """Root mean squares by module and width, of outputs and of what moved them."""
    widths = sorted({w for m in activations.values() for v in m.values() for w in v})
    result = plain_table()
    result.add_column("module", no_wrap=True)
    for what in ("output", "update"):
        for width in widths:
            result.add_column(f"{what} at {width}", justify="right")
    for model, modules in activations.items():
        for name, by_width in modules.items():
            moved = updates[model][name]
            cells = [f"{values[w]:.3g}" for values in (by_width, moved) for w in widths]
            result.add_row(f"{model}/{name}", *cells)
    return result


def text(renderable: RenderableType) -> str:
    """As plain text, uncut, without a line end."""
    from rich.console import Console

    console = Console(width=10_000, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def plan_text(plan: Plan) -> str:
    """A plan as text: a line a contraction, with what it touches and sums."""
    planned = "by exponents" if plan.tokens is None else f"for {plan.tokens} tokens"
    lines = [f"order: {plan.kind}, {planned}"]
    for term in plan.terms:
        for step in term.steps:
            touched = "*".join(a.name for a in step.touched) or "1"
            summed = ", ".join(a.name for a in step.summed) or "nothing"
            kept = ", ".join(a.name for a in step.kept)
            lines.append(
                f"{step.name}[{kept}] = {step.left.name} * {step.right.name}: "
                f"touches {touched}, sums {summed}"
            )
    return "\n".join(lines)


def tree(node: Any) -> str:
    """A syntax tree, a structure or a module as an indented text."""
    from rich.pretty import pretty_repr

    return pretty_repr(node, max_width=88)
