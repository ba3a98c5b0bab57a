"""A study for people and programs: a table, a document in Markdown, one in JSON.

In: `Results`. Out: rich renderables, text, or the document `einc.scale-report/1`. What is
said stands in `told`; what is computed, in `summaries` and `claims`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from einc.report import plain_table
from einc.scale import told
from einc.scale.claims import Claim, claims
from einc.scale.multiplier import Comparison, Estimate
from einc.scale.results import Results
from einc.scale.summaries import PARAMETERS, Law, Parameter, Summary, summaries

SCHEMA = "einc.scale-report/1"
LEGEND = (
    "Multiplier: training FLOPs (or parameters) of the baseline over the contestant's "
    "at equal loss; above 1 the contestant needs less. Geometric mean over the range of "
    "loss that both reach. (a - b) is the 95% interval over seeds; [a - b] the least and "
    "most of fewer than five seeds."
)

Row = list[str]


def table(results: Results) -> RenderableType:
    """The contestants, what each needs, the claims, and where to be careful."""
    found = summaries(results)
    parts: list[RenderableType] = [_rich(CONTESTANTS, map(_contestant, found)), Text()]
    for title, by_name in (("compute", "compute"), ("total parameters", "size")):
        rows = [row for one in found for row in _compared(one, getattr(one, by_name))]
        if rows:
            parts += [_rich((*COMPARISONS, f"multiplier of {title}", *OVER), rows)]
            parts += [Text()]
    parts.append(Text(f"{LEGEND}\n"))
    for i, claim in enumerate(claims(found), 1):
        parts.append(Text(f"claim {i} {claim.standing}: {claim.text}", style="bold"))
        parts += [Text(f"  {line}") for line in told.findings(claim)]
    trouble = told.left_out(results, found)
    if trouble:
        parts.append(Text("\n" + "\n".join(trouble)))
    return Group(*parts)


CONTESTANTS = (
    "contestant",
    "widths",
    "seeds",
    "parameters",
    "active",
    "lowest loss",
)
FITS = ("contestant", "E", "A", "b", "error", "A, shared E", "b, shared E", "error")
COMPARISONS = ("contestant", "against")
OVER = ("at the lowest loss", "over losses", "verdict")


def _contestant(summary: Summary) -> Row:
    """Cells of `CONTESTANTS`; parameters are those of the narrowest and widest model."""
    widths = sorted(summary.parameters)
    ends = [summary.parameters[width] for width in widths[:: max(len(widths) - 1, 1)]]
    total, active = (" - ".join(f"{end[i]:,}" for end in ends) for i in (0, 1))
    return [
        summary.contestant.name,
        ", ".join(map(str, widths)) or "none",
        str(len(summary.seeds)),
        total or "-",
        active if active != total else "all" if total else "-",
        told.estimate(summary.best) if summary.best else "-",
    ]


def _compared(summary: Summary, by_name: Mapping[str, Comparison]) -> list[Row]:
    return [
        [summary.contestant.name, name, *told.cells(comparison), comparison.verdict]
        for name, comparison in by_name.items()
    ]


def _law(summary: Summary) -> Row:
    """Cells of `FITS`."""
    cells = [summary.contestant.name]
    for law, first in ((summary.own, 0), (summary.shared, 1)):
        names = PARAMETERS[first:]
        if law is None:
            cells += ["-"] * (len(names) + 1)
            continue
        cells += [told.estimate(law.over_seeds(name)) for name in names]
        cells.append(f"{law.over_seeds('error').mean:.2%}")
    return cells


def _rich(columns: Sequence[str], rows: Iterable[Row]) -> RenderableType:
    result = plain_table()
    words = ("contestant", "against", "widths", "verdict")
    for column in columns:
        result.add_column(column, justify="left" if column in words else "right")
    for row in rows:
        result.add_row(*map(Text, row))
    return result


# Markdown


def markdown(results: Results) -> str:
    """The whole report: a document that stands for itself."""
    found = summaries(results)
    claimed = claims(found)
    parts = ["# Scaling study", _summary(claimed), "## Configuration"]
    parts.append(_markdown(("what", "value"), _configuration(results)))
    parts += ["## Contestants", _markdown(CONTESTANTS, map(_contestant, found))]
    parts += [_markdown(STRUCTURES, map(_structure, found))]
    parts += ["## Compute at equal loss", LEGEND]
    columns = (*COMPARISONS, "multiplier", *OVER)
    parts.append(
        _markdown(columns, (r for one in found for r in _compared(one, one.compute)))
    )
    parts.append(_list(told.sentences(found, "compute")))
    if any(one.size for one in found):
        rows = (r for one in found for r in _compared(one, one.size))
        parts += ["## Total parameters at equal loss", _markdown(columns, rows)]
        parts.append(_list(told.sentences(found, "size")))
    parts += ["## Scaling laws", told.fits(found), _markdown(FITS, map(_law, found))]
    parts.append("## Claims")
    for i, claim in enumerate(claimed, 1):
        parts.append(f"### {i}. {claim.standing}: {claim.text}")
        parts.append(_list(told.findings(claim)))
    parts += ["## What these runs cannot say", _list(told.limits(results, found))]
    trouble = told.left_out(results, found)
    parts += ["## Left out", _list(trouble or ["Nothing: every job has finished."])]
    return "\n\n".join(part for part in parts if part) + "\n"


STRUCTURES = ("contestant", "kind", "routed", "omega", "psi", "nu")


def _structure(summary: Summary) -> Row:
    one = summary.contestant
    exponents = ["-" if v is None else str(v) for v in (one.omega, one.psi, one.nu)]
    return [one.name, one.kind, "yes" if one.routed else "no", *exponents]


def _summary(claimed: Sequence[Claim]) -> str:
    return _list(f"{claim.text}: **{claim.standing}**" for claim in claimed)


def _configuration(results: Results) -> list[Row]:
    """All of `study.json` but the contestants, which have tables of their own."""
    return [
        [key, value if isinstance(value, str) else json.dumps(value)]
        for key, value in results.study.items()
        if key not in ("schema", "contestants")
    ]


def _markdown(columns: Sequence[str], rows: Iterable[Row]) -> str:
    lines = []
    for cells in (columns, ["---"] * len(columns), *rows):
        safe = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
        lines.append(f"| {' | '.join(safe)} |")
    return "\n".join(lines)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


# JSON


def to_json(results: Results) -> dict[str, Any]:
    """The document `einc.scale-report/1`: losses, FLOPs and plain numbers."""
    found = summaries(results)
    return {
        "schema": SCHEMA,
        "contestants": [_summary_json(one) for one in found],
        "claims": [_claim_json(claim) for claim in claims(found)],
        "cannot_say": told.limits(results, found),
        "left_out": told.left_out(results, found),
    }


def _summary_json(summary: Summary) -> dict[str, Any]:
    one = summary.contestant
    return {
        "name": one.name,
        "kind": one.kind,
        "routed": one.routed,
        "exponents": {
            name: None if value is None else str(value)
            for name, value in (("omega", one.omega), ("psi", one.psi), ("nu", one.nu))
        },
        "parameters": {
            str(width): {"total": total, "active": active}
            for width, (total, active) in sorted(summary.parameters.items())
        },
        "seeds": list(summary.seeds),
        "lowest_loss": _estimate_json(summary.best),
        "fit": _law_json(summary.own),
        "fit_shared_E": _law_json(summary.shared),
        "compute_multiplier": _comparisons_json(summary.compute),
        "parameter_multiplier": _comparisons_json(summary.size),
    }


def _estimate_json(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {**asdict(found), "ends": "interval" if found.is_interval else "extremes"}


def _law_json(law: Law | None) -> dict[str, Any] | None:
    if law is None:
        return None
    names: tuple[Parameter, ...] = (*PARAMETERS, "error")
    found: dict[str, Any] = {n: _estimate_json(law.over_seeds(n)) for n in names}
    return {**found, "A_at_flops": law.fits[0].unit}


def _comparisons_json(by_name: Mapping[str, Comparison]) -> dict[str, Any]:
    return {name: _comparison_json(found) for name, found in by_name.items()}


def _comparison_json(found: Comparison) -> dict[str, Any]:
    return {"verdict": found.verdict, **asdict(found)}


def _claim_json(claim: Claim) -> dict[str, Any]:
    return {
        "claim": claim.text,
        "standing": claim.standing,
        "findings": [
            {
                "contestant": finding.contestant,
                "baseline": finding.baseline,
                "standing": finding.standing,
                "told": told.finding(finding),
            }
            for finding in claim.findings
        ],
    }
