"""`einc taxonomy`: a table over structures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from einc import asked, compiler, library, options
from einc import taxonomy as tables
from einc.analysis.profile import Profile
from einc.commands.certify import INTERRUPTED, certified
from einc.errors import SpecError, UsageError
from einc.output import (
    check_free,
    print_json,
    print_text,
    reporting,
    show,
    warn,
    write_file,
)

TITLE = "Structured linear maps by their exponents"


def taxonomy(
    specs: options.Specs = None,
    expr: options.Expr = None,
    d_in: options.In = None,
    d_out: options.Out = None,
    define: options.Define = None,
    warnings: options.Warn = None,
    tokens: options.Tokens = compiler.DEFAULT_TOKENS,
    order: options.Order = options.BEST,
    as_csv: options.Csv = False,
    as_markdown: options.Markdown = False,
    plot: options.MapPlot = None,
    force: options.Force = False,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Example: einc taxonomy btt monarch my.ein --in 4096

    One row a structure: the library's, unless some (or folders) are named. With --plot
    also a map of the exponents, with the library's structures on it in any case.
    """
    with reporting(as_json):
        file_format = None if plot is None else _map_format(plot, force)
        if as_csv + as_markdown + as_json > 1:
            raise UsageError("choose one of --csv, --markdown and --json")
        given = asked.arguments(define)
        named = specs or (library.NAMES if expr is None else ())
        rows, faults = asked.definitions(named, expr)
        if faults:
            raise SpecError(faults)
        asked.check_known(given, [definition for _, definition in rows])
        profiles = []
        interrupted = False
        for source, definition in rows:
            chosen = compiler.compile_definition(
                source, definition, asked.arguments_of(definition, given)
            )
            shape = asked.table_shape(chosen, d_in, d_out)
            report = compiler.analyze(chosen, *shape, tokens, options.kind(order))
            kept = asked.judged(report.warnings, warnings)
            if not interrupted:
                report, interrupted = certified(report)
            profiles.append(replace(report, warnings=tuple(kept)))
        if plot is not None and file_format is not None:
            picture = _map([*_rest(profiles, d_in, d_out), *profiles], file_format)
            write_file(plot, picture, force)
        if as_json:
            print_json(tables.document(profiles))
        elif as_csv:
            print_text(tables.as_csv(profiles))
        elif as_markdown:
            print_text(tables.as_markdown(profiles))
        else:
            from einc.report import table

            show(table(profiles), no_color, narrow=table(profiles, equations=False))
        if not as_json:
            warn([w for report in profiles for w in report.warnings])
        if interrupted:
            raise typer.Exit(INTERRUPTED)


def _map_format(path: Path, force: bool) -> str:
    """Checked before anything is computed for it."""
    from einc import plots
    from einc.maps.file import FORMATS

    check_free(path, force)
    return plots.file_format(path, FORMATS)


def _rest(
    profiles: Sequence[Profile], d_in: int | None, d_out: int | None
) -> Iterator[Profile]:
    """The library's structures that are not among the profiles.

    Those that do not take the features are there without figures.
    """
    shown = {report.structure.source for report in profiles}
    for structure in map(library.structure, library.NAMES):
        if structure.source in shown:
            continue
        try:
            shape = asked.table_shape(structure, d_in, d_out)
            yield compiler.analyze(structure, *shape)
        except SpecError:
            yield compiler.analyze(structure)


def _map(profiles: Sequence[Profile], file_format: str) -> bytes:
    from einc.maps.file import drawn
    from einc.maps.places import places

    found, left_out = places(profiles)
    if left_out:
        names = ", ".join(left_out)
        print(f"not on the map, without exponents: {names}", file=sys.stderr)
    return drawn(found, TITLE, file_format)
