"""`einc codegen`: PyTorch source."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from einc import asked, compiler, options
from einc.codegen.choices import Backward as BackwardName
from einc.codegen.choices import Dtype as DtypeName
from einc.codegen.choices import Kernels
from einc.errors import Diagnostic
from einc.options import Stage
from einc.order import Order as OrderName
from einc.output import check_free, print_text, reporting, warn, write_file
from einc.structure import Structure


class BackwardKind(StrEnum):
    """Who writes the backward, and what it finds."""

    autograd = "autograd"
    manual = "manual"
    recompute = "recompute"


Backward = Annotated[
    BackwardKind,
    typer.Option(
        "--backward", help="autograd's; by hand where it pays; without keeping"
    ),
]


Tune = Annotated[
    bool, typer.Option("--tune", help="measure on this machine, take the fastest")
]


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
    dtype: options.PlannedDtype = options.Dtype.float32,
    backward: Backward = BackwardKind.manual,
    kernels: options.Kernels = options.KernelsName.torch,
    tune: Tune = False,
    class_name: options.ClassName = "",
    stage: options.Emit = Stage.source,
    output: options.Output = None,
    force: options.Force = False,
) -> None:
    """Example: einc codegen btt --in 1024 --out 4096 -o btt.py

    A standalone PyTorch module, on stdout or in a file.
    """
    with reporting():
        if output is not None:
            check_free(output, force)
        wanted = asked.shapes(d_in, d_out, shape)
        chosen = asked.structure(spec, expr, define, route)
        text, found = _emit(
            chosen,
            wanted,
            stage,
            tokens,
            options.kind(order),
            dtype.value,
            backward.value,
            kernels.value,
            tune,
            class_name,
        )
        kept = asked.judged(found, warnings)
        if output is None:
            print_text(text)
        else:
            write_file(output, text, force)
        warn(kept)


def _emit(
    structure: Structure,
    shapes: list[asked.Features],
    stage: Stage,
    tokens: int,
    order: OrderName,
    dtype: DtypeName,
    backward: BackwardName,
    kernels: Kernels,
    tune: bool,
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
        module = compiler.module(profile, name, dtype, backward, kernels)
        if tune and structure.route is None:
            from einc.nn.tune import tuned

            fastest = tuned(profile, name, dtype, backward, module.native)
            module = replace(fastest, fused=module.fused)
        modules.append(module)
    if stage is Stage.module:
        return "\n".join(report.tree(m) + "\n" for m in modules), warnings
    return compiler.source(structure, modules), warnings
