"""The command line: which commands there are. What each does is in `commands`."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from einc import __version__, specs
from einc.commands import (
    analyze,
    bench,
    check,
    codegen,
    draw,
    explain,
    fmt,
    library,
    scale,
    search,
    taxonomy,
)
from einc.output import print_text, reporting, unwritten

app = typer.Typer(
    name="einc",
    help="Example: einc analyze btt --in 1024\n\nStructured linear layers as einsums: "
    "what they cost, what they can express, and PyTorch code for them.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
for name, command, summary in (
    ("analyze", analyze.analyze, "what a structure costs and can express"),
    ("codegen", codegen.codegen, "PyTorch source"),
    ("taxonomy", taxonomy.taxonomy, "a table over structures, or a map"),
    ("search", search.search, "structures under limits, best first"),
    ("draw", draw.draw, "the tensor network and its contraction tree"),
    ("scale", scale.scale, "loss against training compute, at several widths"),
    ("bench", bench.bench, "times beside nn.Linear"),
    ("check", check.check, "diagnostics only"),
    ("fmt", fmt.fmt, "one layout for .ein files"),
    ("explain", explain.explain, "what a diagnostic means"),
    ("list", library.listing, "the library"),
    ("show", library.source, "the source of one library structure"),
):
    app.command(name, short_help=summary)(command)


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What specs, modules and tables are in, whatever the locale; paths as they are.
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    # To the parser of options, `-::name` would be an option.
    given = [
        a.replace("-", specs.STDIN, 1) if a.startswith("-::") else a
        for a in sys.argv[1:]
    ]
    try:
        app(given, prog_name="einc")
    except OSError as error:  # of help, which no command writes
        print(f"error: {unwritten(error)}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        with reporting():
            print_text(f"einc {__version__}\n")
        raise typer.Exit


@app.callback()
def _einc(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="print the version"
        ),
    ] = False,
) -> None:
    pass
