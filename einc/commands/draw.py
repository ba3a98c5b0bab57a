"""`einc draw`: a picture of the tensor network and its contraction tree."""

from __future__ import annotations

from einc import asked, compiler, options
from einc.errors import UsageError
from einc.output import check_free, reporting, warn, write_file


def draw(
    spec: options.Spec = None,
    expr: options.Expr = None,
    d_in: options.In = None,
    d_out: options.Out = None,
    define: options.Define = None,
    route: options.Route = "",
    warnings: options.Warn = None,
    tokens: options.Tokens = compiler.DEFAULT_TOKENS,
    order: options.Order = options.BEST,
    output: options.Output = None,
    force: options.Force = False,
) -> None:
    """Example: einc draw btt --in 1024 -o btt.svg

    The tensor network of a structure and the tree in which it is contracted, as .svg,
    .png or .pdf.
    """
    with reporting():
        from einc import plots

        if output is None:
            raise UsageError("a drawing needs a file: -o FILE")
        file_format = plots.file_format(output)
        check_free(output, force)
        chosen = asked.structure(spec, expr, define, route)
        report = compiler.analyze(chosen, d_in, d_out, tokens, options.kind(order))
        kept = asked.judged(report.warnings, warnings)
        from einc.drawing.figure import draw as drawn

        write_file(output, drawn(report, file_format), force)
        warn(kept)
