"""`einc check`: diagnostics only."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import typer

from einc import asked, compiler, options
from einc.errors import Diagnostic, SpecError, UsageError, counted, in_order
from einc.output import diagnostics_document, print_json, print_text, reporting, warn
from einc.source import Source
from einc.syntax import Definition


def check(
    specs: options.Specs = None,
    expr: options.Expr = None,
    d_in: options.In = None,
    d_out: options.Out = None,
    define: options.Define = None,
    warnings: options.Warn = None,
    as_json: options.Json = False,
) -> None:
    """Example: einc check my.ein

    Diagnostics only, of every structure of the files (or folders) named.
    """
    with reporting(as_json):
        if not specs and expr is None:
            raise UsageError("nothing to check: name a SPEC, or give -e TEXT")
        given = asked.arguments(define)
        named, found = asked.definitions(specs or (), expr)
        if not found:
            asked.check_known(given, [definition for _, definition in named])
        for source, definition in named:
            found += _faults(source, definition, given, (d_in, d_out))
        found = asked.filtered(in_order(found), warnings)
        if as_json:
            print_json(diagnostics_document(found))
        elif found:
            warn(found)
        else:
            print_text(f"{counted(len(named), 'structure')} checked, no faults\n")
        if any(d.severity == "error" for d in found):
            raise typer.Exit(1)


def _faults(
    source: Source,
    definition: Definition,
    given: Mapping[str, Fraction],
    features: asked.Features,
) -> list[Diagnostic]:
    """What is found on the way to sizes."""
    arguments = asked.arguments_of(definition, given)
    try:
        structure = compiler.compile_definition(source, definition, arguments)
        binding = compiler.bind(structure, *features)
    except SpecError as error:
        return list(error.diagnostics)
    late = () if binding is None else binding.warnings
    return [*structure.warnings, *late]
