"""`einc bench`: the time of the generated module beside nn.Linear's and others'."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from einc import asked, compiler, options
from einc.analysis.profile import Profile
from einc.commands.certify import INTERRUPTED
from einc.errors import UsageError
from einc.options import Dtype
from einc.output import (
    check_free,
    print_json,
    progress,
    reporting,
    show,
    warn,
    write_file,
)
from einc.structure import Structure

if TYPE_CHECKING:
    from einc.calibration import Calibration, Machine
    from einc.nn.bench import Row

TOKENS = (1, 16, 256, 2048)


class Pass(StrEnum):
    """What of a step is timed."""

    forward = "forward"
    training = "training"


TokenCounts = Annotated[
    list[int] | None,
    typer.Option(
        "--tokens",
        metavar="N",
        help="tokens a call; repeatable (default: 1, 16, 256 and 2048)",
    ),
]
Dtypes = Annotated[
    list[Dtype] | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="float32 or bfloat16; repeatable (default: float32)",
    ),
]
OnDevice = Annotated[options.Device, typer.Option("--device", help="where it runs")]
Passes = Annotated[
    list[Pass] | None,
    typer.Option(
        "--pass",
        metavar="NAME",
        help="forward or training, which is both ways; repeatable (default: both)",
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="measure the machine, and keep it: then times are predicted, too",
    ),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="also the module under torch.compile")
]
Beside = Annotated[
    list[str] | None,
    typer.Option(
        "--beside",
        metavar="FILE.py:NAME",
        help="a layer of your own, made by a function of the module; repeatable",
    ),
]
TimesPlot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="draw the times: .png, .svg, .pdf"),
]


def bench(
    spec: options.Spec = None,
    expr: options.Expr = None,
    d_in: options.In = None,
    d_out: options.Out = None,
    define: options.Define = None,
    route: options.Route = "",
    warnings: options.Warn = None,
    tokens: TokenCounts = None,
    dtype: Dtypes = None,
    device: OnDevice = options.Device.cpu,
    passes: Passes = None,
    kernels: options.Kernels = options.KernelsName.torch,
    calibrate: Calibrate = False,
    compiled: Compile = False,
    beside: Beside = None,
    plot: TimesPlot = None,
    force: options.Force = False,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Example: einc bench btt --in 1024

    The time of the generated module beside that of nn.Linear, of the whole structure in
    one einsum, and of what the machine can do at best. The module is planned for each
    number of tokens. `einc bench --calibrate` measures the machine alone, for
    predictions.
    """
    with reporting(as_json):
        if calibrate:
            if spec is not None or expr is not None:
                raise UsageError("--calibrate measures the machine: name no SPEC")
            _calibrated(device, as_json, no_color)
            return
        from einc import bench_report, plots

        chosen = asked.structure(spec, expr, define, route)
        reports = _reports(chosen, d_in, d_out, sorted(set(tokens or TOKENS)))
        report = next(iter(reports.values()))
        kept = asked.judged(report.warnings, warnings)
        report = replace(report, warnings=tuple(kept))
        if plot is not None:
            file_format = plots.file_format(plot)
            check_free(plot, force)
        dtypes = list(dict.fromkeys(dtype or [Dtype.float32]))
        kinds = list(dict.fromkeys(passes or Pass))
        known = _known(device)
        machine, rows, interrupted = _measured(
            reports, dtypes, kinds, device, compiled, beside or [], kernels, known
        )
        notes = bench_report.about(report, machine, known)
        if plot is not None:
            picture = bench_report.picture(report, rows, file_format)
            write_file(plot, picture, force)
        if as_json:
            print_json(bench_report.document(report, machine, rows, notes))
        else:
            wide, narrow = (
                bench_report.shown(report, machine, rows, spread, notes)
                for spread in (True, False)
            )
            show(wide, no_color, narrow)
            warn(report.warnings)
        if interrupted:
            raise typer.Exit(INTERRUPTED)


def _known(device: options.Device) -> Calibration | None:
    """The stored calibration; a damaged one is told, and is as good as none."""
    from einc import calibration

    try:
        return calibration.stored(device.value)
    except UsageError as error:
        print(f"note: no predictions: {error}", file=sys.stderr)
        return None


def _calibrated(device: options.Device, as_json: bool, no_color: bool) -> None:
    """Measures the machine and keeps it; tells its ceilings, and where they are kept."""
    asked.check_device(device)
    from einc import calibration
    from einc.nn.calibrate import calibrate
    from einc.predict_report import ceilings

    with progress() as told:
        found = calibrate(
            device.value,
            [dtype.value for dtype in Dtype],
            lambda done, of: told("measuring", done, of),
        )
    path = calibration.save(found)
    if as_json:
        print_json(found.to_json())
    else:
        show(ceilings(found.machine), no_color)
    print(f"kept in {path}", file=sys.stderr)


def _reports(
    structure: Structure, d_in: int | None, d_out: int | None, tokens: Sequence[int]
) -> dict[int, Profile]:
    """The analysis for each number of tokens."""
    reports = {n: compiler.analyze(structure, d_in, d_out, n) for n in tokens}
    if any(report.figures is None for report in reports.values()):
        raise UsageError("times need features: give --in")
    return reports


def _measured(
    reports: dict[int, Profile],
    dtypes: Sequence[Dtype],
    passes: Sequence[Pass],
    device: options.Device,
    compiled: bool,
    beside: Sequence[str],
    kernels: options.KernelsName,
    known: Calibration | None,
) -> tuple[Machine, list[Row], bool]:
    """The machine, the rows, and whether an interrupt came after the first of them."""
    asked.check_device(device)
    from einc import predict
    from einc.nn import bench
    from einc.nn.beside import makers
    from einc.nn.machine import machine

    names = [dtype.value for dtype in dtypes]
    kinds: list[predict.Pass] = [kind.value for kind in passes]
    total = len(names) * len(kinds) * len(reports)
    rows: list[Row] = []
    own = makers(beside)
    with progress() as told:
        told("measuring", 0, total)
        measured = machine(device.value, names)
        try:
            for row in bench.rows(
                reports,
                names,
                kinds,
                measured,
                compiled,
                known,
                makers=own,
                kernels=kernels.value,
            ):
                rows.append(row)
                told("measuring", len(rows), total)
        except KeyboardInterrupt:
            if not rows:
                raise
            return measured, rows, True
        except RuntimeError as error:
            # On a CPU torch has no class for it.
            if "allocate memory" not in str(error) and "out of memory" not in str(
                error
            ):
                raise
            raise UsageError("not enough memory: ask for fewer tokens") from None
    return measured, rows, False
