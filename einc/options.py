"""The options of the command line: their names, types and help, each once.

What their values stand for is in `asked`.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from einc.order import ORDERS
from einc.order import Order as OrderName

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
