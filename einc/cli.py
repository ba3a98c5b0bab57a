"""The command line: options, one call of the compiler, a report, an exit status.

Results go to stdout and messages to stderr. Exit status: 0 done, 1 the spec has
faults, 2 the command was used wrongly or a file cannot be read or written.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from einc import __version__, compiler, library, parser, taxonomy
from einc.analysis.profile import Profile
from einc.api import exact_argument
from einc.errors import Diagnostic, SpecError, UsageError
from einc.plan import ORDERS, Order
from einc.source import Source
from einc.structure import Structure
from einc.syntax import Definition

DIAGNOSTICS_SCHEMA = "einc.diagnostics/1"
LIBRARY_SCHEMA = "einc.library/1"
EXPRESSION_NAME = "expression"

app = typer.Typer(
    name="einc",
    help="Structured linear layers as einsums: what they cost, what they can "
    "express, and PyTorch code for them.\n\nExample: einc analyze btt --in 1024",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

SpecArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="SPEC",
        help="a path, path::name, - for standard input, or a library structure",
    ),
]
SpecsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[SPEC]...", help="as for analyze")
]
ExprOption = Annotated[
    str | None,
    typer.Option("-e", "--expr", metavar="TEXT", help="a structure's body, as SPEC"),
]
InOption = Annotated[
    int | None, typer.Option("--in", metavar="N", help="input features")
]
OutOption = Annotated[
    int | None,
    typer.Option("--out", metavar="N", help="output features (default: as --in)"),
]
DefineOption = Annotated[
    list[str] | None,
    typer.Option("-D", metavar="NAME=VALUE", help="a parameter, such as alpha=1/3"),
]
RouteOption = Annotated[
    str,
    typer.Option(
        "--route", metavar="INDEX:TOP", help="route an index of an unrouted structure"
    ),
]
TokensOption = Annotated[
    int, typer.Option("--tokens", metavar="N", help="tokens a call that is planned for")
]
OrderKind = Enum("OrderKind", {name: name for name in ORDERS})  # type: ignore[misc]
OrderOption = Annotated[
    OrderKind, typer.Option("--order", help="best, as given, or opt_einsum's")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="one JSON document and nothing else")
]
ColorOption = Annotated[
    bool, typer.Option("--no-color", help="plain text without control codes")
]


class Stage(StrEnum):
    """What `codegen --emit` prints."""

    syntax = "syntax"
    structure = "structure"
    plan = "plan"
    module = "module"
    source = "source"


def main() -> None:
    """The entry point: a closed pipe or Ctrl-C ends it quietly."""
    try:
        app(prog_name="einc")
    except BrokenPipeError:
        # Python would complain about stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"einc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="print the version"
        ),
    ] = False,
) -> None:
    pass


# Commands


@app.command(short_help="what a structure costs and can express")
def analyze(
    spec: SpecArgument = None,
    expr: ExprOption = None,
    d_in: InOption = None,
    d_out: OutOption = None,
    define: DefineOption = None,
    route: RouteOption = "",
    tokens: TokensOption = compiler.DEFAULT_TOKENS,
    order: OrderOption = OrderKind.best,  # type: ignore[attr-defined]
    as_json: JsonOption = False,
    no_color: ColorOption = False,
) -> None:
    """Example: einc analyze btt --in 1024 -D rank=4

    What a structure costs and what it can express. Without --in it is symbolic.
    """
    with _reporting(as_json, no_color):
        structure = _load(spec, expr, define, route)
        report = compiler.analyze(structure, d_in, d_out, tokens, _kind(order))
        if as_json:
            _print_json(report.to_json())
            return
        from einc.report import profile

        _show(profile(report), no_color)
        _warn(report.warnings)


@app.command(short_help="PyTorch source")
def codegen(
    spec: SpecArgument = None,
    expr: ExprOption = None,
    d_in: InOption = None,
    d_out: OutOption = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="INxOUT", help="a class a shape; repeatable"),
    ] = None,
    define: DefineOption = None,
    route: RouteOption = "",
    tokens: TokensOption = compiler.DEFAULT_TOKENS,
    order: OrderOption = OrderKind.best,  # type: ignore[attr-defined]
    class_name: Annotated[
        str, typer.Option("--class-name", metavar="NAME", help="the class's name")
    ] = "",
    stage: Annotated[
        Stage, typer.Option("--emit", help="look at another stage")
    ] = Stage.source,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="write there")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="replace an existing file")
    ] = False,
) -> None:
    """Example: einc codegen btt --in 1024 --out 4096 -o btt.py

    A standalone PyTorch module, on stdout or in a file.
    """
    with _reporting():
        shapes = _shapes(d_in, d_out, shape)
        structure = _load(spec, expr, define, route)
        text, warnings = _emit(
            structure, shapes, stage, tokens, _kind(order), class_name
        )
        if output is None:
            _print(text)
        else:
            _write(output, text, force)
        _warn(warnings)


@app.command("taxonomy", short_help="a table over structures")
def taxonomy_command(
    specs: SpecsArgument = None,
    expr: ExprOption = None,
    d_in: InOption = None,
    d_out: OutOption = None,
    define: DefineOption = None,
    tokens: TokensOption = compiler.DEFAULT_TOKENS,
    order: OrderOption = OrderKind.best,  # type: ignore[attr-defined]
    as_csv: Annotated[bool, typer.Option("--csv", help="comma-separated")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="a Markdown table")
    ] = False,
    as_json: JsonOption = False,
    no_color: ColorOption = False,
) -> None:
    """Example: einc taxonomy btt monarch my.ein --in 4096

    One row a structure: the library's, unless some (or folders) are named.
    """
    with _reporting(as_json, no_color):
        if as_csv + as_markdown + as_json > 1:
            raise UsageError("choose one of --csv, --markdown and --json")
        definitions = _definitions(specs, expr, every=True)
        profiles = []
        for source, definition in definitions:
            arguments = _arguments(define, definition)
            structure = compiler.compile_definition(source, definition, arguments)
            shape = _table_shape(structure, d_in, d_out)
            profiles.append(compiler.analyze(structure, *shape, tokens, _kind(order)))
        _check_defined(define, [d for _, d in definitions])
        _print_table(profiles, as_csv, as_markdown, as_json, no_color)
        if not as_json:
            _warn([w for report in profiles for w in report.warnings])


@app.command(short_help="diagnostics only")
def check(
    specs: SpecsArgument = None,
    expr: ExprOption = None,
    d_in: InOption = None,
    d_out: OutOption = None,
    define: DefineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Example: einc check my.ein

    Diagnostics only, of every structure of the files (or folders) named.
    """
    with _reporting(as_json):
        if not specs and expr is None:
            raise UsageError("nothing to check: name a SPEC, or give -e TEXT")
        found: list[Diagnostic] = []
        checked = 0
        wanted: list[tuple[list[str], str | None]] = [([s], None) for s in specs or []]
        if expr is not None:
            wanted.append(([], expr))
        for names, text in wanted:
            try:
                definitions = _definitions(names, text)
            except SpecError as error:
                found += error.diagnostics
                continue
            for source, definition in definitions:
                checked += 1
                arguments = _arguments(define, definition)
                found += _faults(source, definition, arguments, d_in, d_out)
        if as_json:
            _print_json(_diagnostics_document(found))
        else:
            _warn(found)
            if not found:
                print(f"{checked} structure{'s' * (checked != 1)} checked, no faults")
        if any(d.severity == "error" for d in found):
            raise typer.Exit(1)


@app.command("list", short_help="the library")
def list_command(as_json: JsonOption = False, no_color: ColorOption = False) -> None:
    """Example: einc list

    The structures of the library.
    """
    with _reporting(as_json, no_color):
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
            _print_json({"schema": LIBRARY_SCHEMA, "structures": rows})
            return
        from einc.report import listing

        _show(
            listing(
                (_signature(s), "; ".join(s.equations), s.definition.doc or "")
                for s in structures
            ),
            no_color,
        )


@app.command(short_help="the source of one library structure")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a library structure")],
) -> None:
    """Example: einc show btt > my.ein

    The source of one structure of the library.
    """
    with _reporting():
        if name not in library.NAMES:
            listed = ", ".join(library.NAMES)
            raise UsageError(f"the library has no `{name}`; it has {listed}")
        _print(library.source(name).text)


# From options to values


def _load(
    spec: str | None, expr: str | None, define: list[str] | None, route: str
) -> Structure:
    if (spec is None) == (expr is None):
        raise UsageError("name one SPEC, or give -e TEXT instead of it")
    if expr is not None:
        source, definition = _expression(expr)
    else:
        assert spec is not None
        source, definition = compiler.find(spec)
    arguments = _arguments(define)
    return compiler.compile_definition(source, definition, arguments, route)


def _expression(text: str) -> tuple[Source, Definition]:
    source = Source.of("<expression>", text)
    return source, parser.parse_body(source, EXPRESSION_NAME)


def _definitions(
    specs: list[str] | None, expr: str | None, every: bool = False
) -> list[tuple[Source, Definition]]:
    """All definitions that `specs` name; the library's, if `every` and none is."""
    found: list[tuple[Source, Definition]] = []
    if expr is not None:
        found.append(_expression(expr))
    names = list(specs or [])
    if not names and expr is None and every:
        names = list(library.NAMES)
    for spec in names:
        path, _, name = spec.partition("::")
        paths = [path]
        if path not in library.NAMES and Path(path).is_dir():
            paths = sorted(str(p) for p in Path(path).glob("*.ein"))
            if not paths:
                raise UsageError(f"the folder `{path}` has no .ein files")
        for one in paths:
            source = compiler.read(one)
            tree = compiler.parse(source)
            if name:
                found.append((source, compiler.choose(source, tree, name, one)))
            else:
                found += [(source, definition) for definition in tree.definitions]
    return found


def _arguments(
    define: list[str] | None, definition: Definition | None = None
) -> dict[str, Fraction]:
    """`-D` options; with a definition, those that are parameters of it."""
    arguments: dict[str, Fraction] = {}
    for text in define or []:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"a parameter is given as -D NAME=VALUE, not `{text}`")
        if name in arguments:
            raise UsageError(f"-D gives `{name}` twice")
        arguments[name] = exact_argument(name, value)
    if definition is None:
        return arguments
    known = {p.name.text for p in definition.params}
    return {name: value for name, value in arguments.items() if name in known}


def _check_defined(define: list[str] | None, definitions: list[Definition]) -> None:
    known = {p.name.text for d in definitions for p in d.params}
    for name in _arguments(define):
        if name not in known:
            raise UsageError(f"no structure of the table has a parameter `{name}`")


def _kind(order: Any) -> Order:
    kind: Order = order.value
    return kind


def _shapes(
    d_in: int | None, d_out: int | None, shapes: list[str] | None
) -> list[tuple[int | None, int | None]]:
    if not shapes:
        return [(d_in, d_out)]
    if d_in is not None or d_out is not None:
        raise UsageError("give --shape, or --in and --out, not both")
    found: list[tuple[int | None, int | None]] = []
    for text in shapes:
        left, x, right = text.partition("x")
        if (
            not x
            or not (left.isascii() and left.isdigit())
            or not (right.isascii() and right.isdigit())
            or len(text) > 32
        ):
            raise UsageError(f"a shape is INxOUT, such as 1024x4096, not `{text}`")
        if (int(left), int(right)) in found:
            raise UsageError(f"--shape gives {text} twice")
        found.append((int(left), int(right)))
    return found


def _table_shape(
    structure: Structure, d_in: int | None, d_out: int | None
) -> tuple[int | None, int | None]:
    """The features of a row: as given, else fixed, else 1024."""
    if d_in is None and structure.fixed_features(0) is None:
        d_in = 1024
    return d_in, d_out


def _faults(
    source: Source,
    definition: Definition,
    arguments: dict[str, Fraction],
    d_in: int | None,
    d_out: int | None,
) -> list[Diagnostic]:
    try:
        structure = compiler.compile_definition(source, definition, arguments)
        binding = compiler.bind(structure, d_in, d_out)
    except SpecError as error:
        return list(error.diagnostics)
    late = () if binding is None else binding.warnings
    return [*structure.warnings, *late]


def _emit(
    structure: Structure,
    shapes: list[tuple[int | None, int | None]],
    stage: Stage,
    tokens: int,
    kind: Order,
    class_name: str,
) -> tuple[str, list[Diagnostic]]:
    """The text of a stage, and the warnings on the way to it."""
    from einc import report

    if stage is Stage.syntax:
        return report.tree(structure.definition) + "\n", []
    if stage is Stage.structure:
        return report.tree(structure) + "\n", list(structure.warnings)
    reports = [compiler.analyze(structure, *s, tokens, kind) for s in shapes]
    warnings = list(dict.fromkeys(w for r in reports for w in r.warnings))
    if stage is Stage.plan:
        texts = [report.plan_text(r.plan) + "\n" for r in reports]
        return "\n".join(texts), warnings
    modules = []
    for d_in, d_out in shapes:
        name = class_name
        if class_name and len(shapes) > 1:
            name = f"{class_name}{d_in}x{d_out}"
        modules.append(compiler.module(structure, (d_in, d_out), tokens, kind, name))
    if stage is Stage.module:
        return "\n".join(report.tree(m) + "\n" for m in modules), warnings
    return compiler.source(structure, modules), warnings


# From values to output


@contextmanager
def _reporting(as_json: bool = False, no_color: bool = False) -> Iterator[None]:
    """Turns what went wrong into messages and an exit status."""
    try:
        yield
    except SpecError as error:
        if as_json:
            _print_json(_diagnostics_document(error.diagnostics))
        else:
            _warn(error.diagnostics)
        raise typer.Exit(1) from None
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _warn(diagnostics: Any) -> None:
    text = "\n\n".join(str(d) for d in diagnostics)
    if text:
        sys.stdout.flush()
        print(text, file=sys.stderr)


def _diagnostics_document(diagnostics: Any) -> dict[str, Any]:
    return {
        "schema": DIAGNOSTICS_SCHEMA,
        "diagnostics": [d.to_json() for d in diagnostics],
    }


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_json(document: dict[str, Any]) -> None:
    _print(json.dumps(document, indent=2) + "\n")


def _show(renderable: Any, no_color: bool) -> None:
    """Prints for people: as wide as the terminal, uncut where there is none."""
    from rich.console import Console

    plain = no_color or bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    plain = plain or os.environ.get("TERM") in ("dumb", "unknown")
    if plain:
        console = Console(color_system=None, width=1000, highlight=False)
    else:
        console = Console(highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    lines = captured.get().splitlines()
    _print("".join(f"{line.rstrip() if plain else line}\n" for line in lines))


def _print_table(
    profiles: list[Profile],
    as_csv: bool,
    as_markdown: bool,
    as_json: bool,
    no_color: bool,
) -> None:
    if as_json:
        _print_json(taxonomy.document(profiles))
    elif as_csv:
        _print(taxonomy.as_csv(profiles))
    elif as_markdown:
        _print(taxonomy.as_markdown(profiles))
    else:
        from einc.report import table

        shapes = {
            f"{r.figures.binding.d_in} x {r.figures.binding.d_out}"
            for r in profiles
            if r.figures is not None
        }
        _show(table(profiles, ", ".join(sorted(shapes))), no_color)


def _signature(structure: Structure) -> str:
    arguments = ", ".join(f"{k} = {v}" for k, v in structure.arguments.items())
    return f"{structure.name}({arguments})" if arguments else structure.name


def _write(path: Path, text: str, force: bool) -> None:
    """Writes a file whole or not at all."""
    import tempfile

    if path.exists() and not force:
        raise UsageError(f"`{path}` exists; --force replaces it")
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".einc-", delete=False, encoding="utf-8"
        ) as file:
            temporary = Path(file.name)
            try:
                file.write(text)
                file.close()
                mask = os.umask(0)
                os.umask(mask)
                temporary.chmod(0o666 & ~mask)
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write `{path}`: {reason}") from None
