"""The command line: options, one call of the compiler, a report, an exit status."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from einc import __version__, compiler, explain, library, options, specs, taxonomy
from einc.analysis.profile import Profile
from einc.errors import FAULTS, Diagnostic, SpecError, UsageError, counted
from einc.layout import laid_out
from einc.options import Stage
from einc.order import Order as OrderName
from einc.output import (
    check_free,
    diagnostics_document,
    print_json,
    print_text,
    reporting,
    show,
    waiting,
    warn,
    write_file,
)
from einc.source import Source
from einc.structure import Structure
from einc.syntax import Definition

if TYPE_CHECKING:
    from einc.nn.spectrum import Spectra

INTERRUPTED = 130
LIBRARY_SCHEMA = "einc.library/1"

app = typer.Typer(
    name="einc",
    help="Example: einc analyze btt --in 1024\n\nStructured linear layers as einsums: "
    "what they cost, what they can express, and PyTorch code for them.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def main() -> None:
    """The entry point."""
    # To the parser of options, `-::name` would be an option.
    given = [
        a.replace("-", specs.STDIN, 1) if a.startswith("-::") else a
        for a in sys.argv[1:]
    ]
    app(given, prog_name="einc")


def _version(wanted: bool) -> None:
    if wanted:
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


@app.command(short_help="what a structure costs and can express")
def analyze(
    spec: options.Spec = None,
    expr: options.Expr = None,
    d_in: options.In = None,
    d_out: options.Out = None,
    define: options.Define = None,
    route: options.Route = "",
    warnings: options.Warn = None,
    tokens: options.Tokens = compiler.DEFAULT_TOKENS,
    order: options.Order = options.BEST,
    why: options.Why = False,
    spectrum: options.Spectrum = False,
    plot: options.Plot = None,
    force: options.Force = False,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Example: einc analyze btt --in 1024 -D rank=4

    What a structure costs and what it can express. Without --in it is symbolic.
    """
    with reporting(as_json):
        chosen = options.structure(spec, expr, define, route)
        report = compiler.analyze(chosen, d_in, d_out, tokens, options.kind(order))
        kept = options.judged(report.warnings, warnings)
        report = replace(report, warnings=tuple(kept))
        spectra = _spectra(report, plot, force) if spectrum or plot else None
        report, interrupted = _certified(report)
        found = compiler.why(report) if why else None
        if as_json:
            document = report.to_json()
            if why:
                document["why"] = None if found is None else found.to_json()
            if spectra is not None:
                document["spectrum"] = spectra.to_json()
            print_json(document)
        else:
            from einc.report import profile

            show(profile(report, found, spectra), no_color)
            warn(report.warnings)
        if interrupted:
            raise typer.Exit(INTERRUPTED)


def _spectra(report: Profile, plot: Path | None, force: bool) -> Spectra:
    """The spectra, and their picture where one is asked for."""
    from einc import plots

    if plot is not None:
        file_format = plots.file_format(plot)
        check_free(plot, force)
    from einc.nn.spectrum import spectra

    found = spectra(report)
    if plot is not None:
        structure, dense = found.structure, found.dense
        lines = {
            report.name: structure.singular_values,
            "dense": dense.singular_values,
        }
        title = (
            f"{report.name} at initialization, {dense.d_in} to {dense.d_out} features"
        )
        picture = plots.spectra(lines, dense.limit, title, file_format)
        write_file(plot, picture, force)
    return found


def _certified(report: Profile) -> tuple[Profile, bool]:
    """With the rank by elimination; or without, where Ctrl-C stopped that."""
    try:
        return compiler.certify(report, waiting), False
    except KeyboardInterrupt:
        if report.figures is None:
            raise
        rank = replace(report.figures.rank, method="elimination was interrupted")
        return replace(report, figures=replace(report.figures, rank=rank)), True


@app.command(short_help="PyTorch source")
def codegen(
    spec: options.Spec = None,
    expr: options.Expr = None,
    d_in: options.In = None,
    d_out: options.Out = None,
    shape: options.Shapes = None,
    define: options.Define = None,
    route: options.Route = "",
    warnings: options.Warn = None,
    tokens: options.Tokens = compiler.DEFAULT_TOKENS,
    order: options.Order = options.BEST,
    class_name: options.ClassName = "",
    stage: options.Emit = Stage.source,
    output: options.Output = None,
    force: options.Force = False,
) -> None:
    """Example: einc codegen btt --in 1024 --out 4096 -o btt.py

    A standalone PyTorch module, on stdout or in a file.
    """
    with reporting():
        wanted = options.shapes(d_in, d_out, shape)
        chosen = options.structure(spec, expr, define, route)
        text, found = _emit(
            chosen, wanted, stage, tokens, options.kind(order), class_name
        )
        kept = options.judged(found, warnings)
        if output is None:
            print_text(text)
        else:
            write_file(output, text, force)
        warn(kept)


def _emit(
    structure: Structure,
    shapes: list[options.Features],
    stage: Stage,
    tokens: int,
    order: OrderName,
    class_name: str,
) -> tuple[str, list[Diagnostic]]:
    """The text of a stage, and the warnings on the way to it."""
    from einc import report

    if stage is Stage.syntax:
        return report.tree(structure.definition) + "\n", []
    if stage is Stage.structure:
        return report.tree(structure) + "\n", list(structure.warnings)
    reports = [compiler.analyze(structure, *s, tokens, order) for s in shapes]
    warnings = list(dict.fromkeys(w for r in reports for w in r.warnings))
    if stage is Stage.plan:
        texts = [report.plan_text(r.plan) + "\n" for r in reports]
        return "\n".join(texts), warnings
    modules = []
    for profile, (d_in, d_out) in zip(reports, shapes, strict=True):
        name = class_name
        if class_name and len(shapes) > 1:
            name = f"{class_name}{d_in}x{d_out}"
        modules.append(compiler.module(profile, name))
    if stage is Stage.module:
        return "\n".join(report.tree(m) + "\n" for m in modules), warnings
    return compiler.source(structure, modules), warnings


@app.command("taxonomy", short_help="a table over structures")
def taxonomy_command(
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
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Example: einc taxonomy btt monarch my.ein --in 4096

    One row a structure: the library's, unless some (or folders) are named.
    """
    with reporting(as_json):
        if as_csv + as_markdown + as_json > 1:
            raise UsageError("choose one of --csv, --markdown and --json")
        given = options.arguments(define)
        named = specs or (library.NAMES if expr is None else ())
        rows, faults = options.definitions(named, expr)
        if faults:
            raise SpecError(faults)
        options.check_known(given, [definition for _, definition in rows])
        profiles = []
        interrupted = False
        for source, definition in rows:
            chosen = compiler.compile_definition(
                source, definition, options.arguments_of(definition, given)
            )
            shape = options.table_shape(chosen, d_in, d_out)
            report = compiler.analyze(chosen, *shape, tokens, options.kind(order))
            kept = options.judged(report.warnings, warnings)
            if not interrupted:
                report, interrupted = _certified(report)
            profiles.append(replace(report, warnings=tuple(kept)))
        if as_json:
            print_json(taxonomy.document(profiles))
        elif as_csv:
            print_text(taxonomy.as_csv(profiles))
        elif as_markdown:
            print_text(taxonomy.as_markdown(profiles))
        else:
            from einc.report import table

            show(table(profiles), no_color, narrow=table(profiles, equations=False))
        if not as_json:
            warn([w for report in profiles for w in report.warnings])
        if interrupted:
            raise typer.Exit(INTERRUPTED)


@app.command(short_help="diagnostics only")
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
        given = options.arguments(define)
        named, found = options.definitions(specs or (), expr)
        if not found:
            options.check_known(given, [definition for _, definition in named])
        for source, definition in named:
            found += _faults(source, definition, given, (d_in, d_out))
        found = options.filtered(found, warnings)
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
    features: options.Features,
) -> list[Diagnostic]:
    """What is found on the way to sizes."""
    arguments = options.arguments_of(definition, given)
    try:
        structure = compiler.compile_definition(source, definition, arguments)
        binding = compiler.bind(structure, *features)
    except SpecError as error:
        return list(error.diagnostics)
    late = () if binding is None else binding.warnings
    return [*structure.warnings, *late]


@app.command("fmt", short_help="one layout for .ein files")
def fmt_command(files: options.Files, check_only: options.CheckOnly = False) -> None:
    """Example: einc fmt my.ein

    Lays files out in the one canonical way, in place and with their comments; standard
    input goes to standard output. Files with faults are left as they are.
    """
    with reporting():
        faults: list[Diagnostic] = []
        changed = kept = 0
        for path in [file for name in files for file in options.spec_files(name)]:
            if path in library.NAMES:
                raise UsageError(f"`{path}` is of einc's library; name a file")
            try:
                source = specs.read(path)
                text = laid_out(source)
            except SpecError as error:
                faults += error.diagnostics
                continue
            if path == "-":
                is_new = text != source.text
                if not check_only:
                    print_text(text)
            else:
                is_new = Path(path).read_bytes() != text.encode()
                if is_new and check_only:
                    print(f"would lay out {path}", file=sys.stderr)
                elif is_new:
                    write_file(Path(path), text, force=True)
            changed, kept = changed + is_new, kept + (not is_new)
        if files != ["-"]:
            done = "would be laid out" if check_only else "laid out"
            told = [f"{counted(changed, 'file')} {done}"] * (changed > 0)
            told += [f"{counted(kept, 'file')} as before"] * (kept > 0)
            print(", ".join(told) or "no file laid out", file=sys.stderr)
        if faults:
            raise SpecError(faults)
        if check_only and changed:
            raise typer.Exit(1)


@app.command("explain", short_help="what a diagnostic means")
def explain_command(
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="such as E209 or W103")
    ] = None,
) -> None:
    """Example: einc explain E209

    What a diagnostic means, with a wrong and a right example; all codes without one.
    """
    with reporting():
        if code is not None:
            print_text(explain.page(code))
            return
        lines = [f"{code}  {explain.title(code)}\n" for code in sorted(FAULTS)]
        print_text("".join(lines))


@app.command("list", short_help="the library")
def list_command(
    as_json: options.Json = False, no_color: options.NoColor = False
) -> None:
    """Example: einc list

    The structures of the library.
    """
    with reporting(as_json):
        structures = [library.structure(name) for name in library.NAMES]
        if as_json:
            rows = [
                {
                    "name": s.name,
                    "arguments": s.arguments,
                    "equations": list(s.equations),
                    "description": s.definition.doc,
                }
                for s in structures
            ]
            print_json({"schema": LIBRARY_SCHEMA, "structures": rows})
            return
        from einc.report import listing

        show(listing(structures), no_color)


@app.command("show", short_help="the source of one library structure")
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a library structure")],
) -> None:
    """Example: einc show btt > my.ein

    The source of one structure of the library.
    """
    with reporting():
        if name not in library.NAMES:
            listed = ", ".join(library.NAMES)
            raise UsageError(f"the library has no `{name}`; it has {listed}")
        print_text(library.source(name).text)
