"""The options of the command line, and the values that they stand for.

In: what typer hands over. Out: structures, definitions, arguments and shapes. Raises
`UsageError` for what is not one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import Enum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from einc import compiler, library, parser, specs
from einc.api import exact_argument
from einc.errors import FAULTS, Diagnostic, SpecError, UsageError
from einc.order import ORDERS
from einc.order import Order as OrderName
from einc.source import Source
from einc.structure import Structure
from einc.syntax import Definition

EXPRESSION_NAME = "expression"
TABLE_FEATURES = 1024

Features = tuple[int | None, int | None]

Spec = Annotated[
    str | None,
    typer.Argument(
        metavar="SPEC",
        help="a path, path::name, - for standard input, or a library structure",
    ),
]
Specs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SPEC]...", help="as for analyze, or a folder"),
]
Expr = Annotated[
    str | None,
    typer.Option("-e", "--expr", metavar="TEXT", help="a structure's body, as SPEC"),
]
In = Annotated[int | None, typer.Option("--in", metavar="N", help="input features")]
Out = Annotated[
    int | None,
    typer.Option("--out", metavar="N", help="output features (default: as --in)"),
]
Warn = Annotated[
    list[str] | None,
    typer.Option(
        "-W",
        metavar="ACTION[:CODE]",
        help="error or ignore, for all warnings or one, such as ignore:W103",
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INxOUT", help="a class a shape; repeatable"),
]
Define = Annotated[
    list[str] | None,
    typer.Option("-D", metavar="NAME=VALUE", help="a parameter, such as alpha=1/3"),
]
Route = Annotated[
    str,
    typer.Option(
        "--route", metavar="INDEX:TOP", help="route an index of an unrouted structure"
    ),
]
Tokens = Annotated[
    int, typer.Option("--tokens", metavar="N", help="tokens a call that is planned for")
]
OrderKind = Enum("OrderKind", {name: name for name in ORDERS})  # type: ignore[misc]
Order = Annotated[
    OrderKind, typer.Option("--order", help="best, as given, or opt_einsum's")
]
BEST = OrderKind("best")
Json = Annotated[
    bool, typer.Option("--json", help="one JSON document and nothing else")
]
NoColor = Annotated[
    bool, typer.Option("--no-color", help="plain text without control codes")
]
Why = Annotated[
    bool,
    typer.Option("--why", help="the reasons for the exponents, and what moves them"),
]
Spectrum = Annotated[
    bool, typer.Option("--spectrum", help="singular values at initialization")
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="draw the spectrum: .png, .svg, .pdf"),
]
MapPlot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="draw the map: .png, .svg, .pdf, or .html to turn",
    ),
]
Factors = Annotated[
    int, typer.Option("--factors", metavar="N", help="at most so many, up to 4")
]
Both = Annotated[
    bool,
    typer.Option("--both", help="also indices of both x and y; at most two factors"),
]
Grid = Annotated[
    int | None,
    typer.Option("--grid", metavar="N", help="exponents in multiples of 1/N"),
]


def _exponent(name: str, default: str) -> Any:
    told = f"such as '>=1/2', '=0'; repeatable (default: '{default}')"
    return typer.Option(f"--{name}", metavar="LIMIT", help=told)


Omega = Annotated[list[str] | None, _exponent("omega", "=0")]
Psi = Annotated[list[str] | None, _exponent("psi", "=1")]
Nu = Annotated[list[str] | None, _exponent("nu", "<=1")]


def _count(name: str, of: str) -> Any:
    return typer.Option(f"--{name}", metavar="N", help=f"a number, or 0.25x of {of}")


MaxFlops = Annotated[str | None, _count("max-flops", "the dense layer's")]
MaxParams = Annotated[str | None, _count("max-params", "the dense layer's")]
MaxIntermediate = Annotated[
    str | None, _count("max-intermediate", "the wider side; values a token")
]
MinRank = Annotated[str | None, _count("min-rank", "the narrower side")]
Objectives = Annotated[
    list[str] | None,
    typer.Option(
        "--objective",
        metavar="FIGURE",
        help="omega, psi, nu, flops, params, params-per-flop, rank, intermediate or"
        " time; with :min or :max; repeatable, the first first",
    ),
]
Pareto = Annotated[
    bool, typer.Option("--pareto", help="the best trades between the objectives")
]
Top = Annotated[int, typer.Option("--top", metavar="N", min=1, help="at most so many")]
Measure = Annotated[
    bool, typer.Option("--measure", help="time the generated code of the first --top")
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", help="the order in which is searched")
]
Save = Annotated[
    Path | None, typer.Option("--save", metavar="DIR", help="write .ein files there")
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="DIR", help="keep the search there, and go on"),
]
FrontPlot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="draw the front: .png, .svg, .pdf"),
]
Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="or folders, or - for stdin")
]
CheckOnly = Annotated[
    bool, typer.Option("--check", help="write nothing; exit 1 where it would")
]
Csv = Annotated[bool, typer.Option("--csv", help="comma-separated")]
Markdown = Annotated[bool, typer.Option("--markdown", help="a Markdown table")]


class Stage(StrEnum):
    """What `codegen --emit` prints."""

    syntax = "syntax"
    structure = "structure"
    plan = "plan"
    module = "module"
    source = "source"


class Dtype(StrEnum):
    """What is computed in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Device(StrEnum):
    """What is computed on."""

    cpu = "cpu"
    cuda = "cuda"


def check_device(device: Device) -> None:
    """Raises `UsageError` where there is none."""
    import torch

    if device is Device.cuda and not torch.cuda.is_available():
        raise UsageError(
            "torch finds no CUDA device here: --device cpu is what is left"
        )


class KernelsName(StrEnum):
    """What computes the contractions."""

    torch = "torch"
    triton = "triton"
    native = "native"


PlannedDtype = Annotated[
    Dtype, typer.Option("--dtype", help="what the layouts are chosen for")
]

Kernels = Annotated[
    KernelsName,
    typer.Option(
        "--kernels",
        help="triton adds a fused kernel for NVIDIA GPUs, native one in C for CPUs",
    ),
]
ClassName = Annotated[
    str, typer.Option("--class-name", metavar="NAME", help="the class's name")
]
Emit = Annotated[Stage, typer.Option("--emit", help="look at another stage")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="write there")
]
Force = Annotated[bool, typer.Option("--force", help="replace an existing file")]


def kind(order: Any) -> OrderName:
    """What the pipeline calls a value of `--order`."""
    value: OrderName = order.value
    return value


# SPEC


def structure(
    spec: str | None, expr: str | None, define: list[str] | None, route: str
) -> Structure:
    """The one structure that a command is about."""
    if (spec is None) == (expr is None):
        raise UsageError("name one SPEC, or give -e TEXT instead of it")
    if expr is not None:
        source, definition = _expression(expr)
    else:
        assert spec is not None
        source, definition = specs.find(spec)
    return compiler.compile_definition(source, definition, arguments(define), route)


def _expression(text: str) -> tuple[Source, Definition]:
    source = Source.of("<expression>", text)
    return source, parser.parse_body(source, EXPRESSION_NAME)


def definitions(
    names: Iterable[str], expr: str | None = None
) -> tuple[list[tuple[Source, Definition]], list[Diagnostic]]:
    """All definitions that are named, and the faults of texts and between names."""
    found: list[tuple[Source, Definition]] = []
    faults: list[Diagnostic] = []
    named = [
        (path, spec) for spec in names for path in spec_files(spec.partition("::")[0])
    ]
    for path, spec in named:
        try:
            source = specs.read(path)
            tree, clashes = specs.parsed(source)
        except SpecError as error:
            faults += error.diagnostics
            continue
        faults += clashes
        name = spec.partition("::")[2]
        chosen = tree.definitions
        if name:
            chosen = (specs.choose(source, tree, name, path),)
        found += [(source, definition) for definition in chosen]
    if expr is not None:
        try:
            found.append(_expression(expr))
        except SpecError as error:
            faults += error.diagnostics
    return found, faults


def spec_files(path: str) -> list[str]:
    """The .ein files of a folder; everything else is one."""
    if path in library.NAMES or not os.path.isdir(path):
        return [path]
    files = sorted(str(p) for p in Path(path).glob("*.ein"))
    if not files:
        raise UsageError(f"the folder `{path}` has no .ein files")
    return files


# -D


def arguments(define: list[str] | None) -> dict[str, Fraction]:
    """The parameters that `-D` gives."""
    found: dict[str, Fraction] = {}
    for text in define or []:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"a parameter is given as -D NAME=VALUE, not `{text}`")
        if name in found:
            raise UsageError(f"-D gives `{name}` twice")
        found[name] = exact_argument(name, value)
    return found


def arguments_of(
    definition: Definition, given: Mapping[str, Fraction]
) -> dict[str, Fraction]:
    """Those that are parameters of `definition`, where a command has several."""
    known = {p.name.text for p in definition.params}
    return {name: value for name, value in given.items() if name in known}


def check_known(given: Iterable[str], among: Iterable[Definition]) -> None:
    """Raises `UsageError` for a parameter that none of the definitions has."""
    known = {p.name.text for definition in among for p in definition.params}
    for name in given:
        if name not in known:
            raise UsageError(f"no structure here has a parameter `{name}`")


# Features


def shapes(
    d_in: int | None, d_out: int | None, texts: list[str] | None
) -> list[Features]:
    """The shapes to generate classes for."""
    if not texts:
        return [(d_in, d_out)]
    if d_in is not None or d_out is not None:
        raise UsageError("give --shape, or --in and --out, not both")
    found: list[Features] = []
    for text in texts:
        left, _, right = text.partition("x")
        if not (_is_number(left) and _is_number(right)):
            raise UsageError(f"a shape is INxOUT, such as 1024x4096, not `{text}`")
        if (int(left), int(right)) in found:
            raise UsageError(f"--shape gives {text} twice")
        found.append((int(left), int(right)))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16


def table_shape(structure: Structure, d_in: int | None, d_out: int | None) -> Features:
    """The features of a row: as given, else fixed, else 1024."""
    if d_in is None and structure.fixed_features(0) is None:
        d_in = TABLE_FEATURES
    return d_in, d_out


def filtered(found: Iterable[Diagnostic], rules: list[str] | None) -> list[Diagnostic]:
    """Diagnostics after `-W`: the last rule that fits a warning decides.

    Raises `UsageError` for a rule that is none.
    """
    actions = [_rule(text) for text in rules or []]
    kept = []
    for diagnostic in found:
        fitting = [
            action
            for action, code in actions
            if diagnostic.severity == "warning" and code in ("", diagnostic.code)
        ]
        if fitting and fitting[-1] == "error":
            kept.append(replace(diagnostic, promoted=True))
        elif not fitting:
            kept.append(diagnostic)
    return kept


def judged(found: Iterable[Diagnostic], rules: list[str] | None) -> list[Diagnostic]:
    """The warnings that are left; raises `SpecError` where one became an error."""
    kept = filtered(found, rules)
    if any(diagnostic.promoted for diagnostic in kept):
        raise SpecError(kept)
    return kept


def _rule(text: str) -> tuple[str, str]:
    action, _, code = text.partition(":")
    codes = [c for c, fault in FAULTS.items() if fault.severity == "warning"]
    if action not in ("error", "ignore") or (code and code.upper() not in codes):
        raise UsageError(
            f"-W takes error or ignore, and the code of a warning after a colon, "
            f"not `{text}`"
        )
    return action, code.upper()
