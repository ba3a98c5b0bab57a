"""`einc analyze`: the whole profile of a structure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from einc import asked, compiler, options
from einc.analysis.profile import Profile
from einc.commands.certify import INTERRUPTED, certified
from einc.errors import UsageError
from einc.order import Order
from einc.output import check_free, print_json, reporting, show, warn, write_file

if TYPE_CHECKING:
    from einc.calibration import Calibration
    from einc.nn.spectrum import Spectra
    from einc.predict import Prediction

OnDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="cpu|cuda|FILE",
        help="predict times from a calibration of `einc bench --calibrate`",
    ),
]


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
    device: OnDevice = None,
    force: options.Force = False,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Example: einc analyze btt --in 1024 -D rank=4

    What a structure costs and what it can express. Without --in it is symbolic.
    """
    with reporting(as_json):
        known = _calibration(device)
        chosen = asked.structure(spec, expr, define, route)
        kind = options.kind(order)
        report = compiler.analyze(chosen, d_in, d_out, tokens, kind)
        kept = asked.judged(report.warnings, warnings)
        report = replace(report, warnings=tuple(kept))
        predicted = None if known is None else _predicted(report, kind, known)
        spectra = _spectra(report, plot, force) if spectrum or plot else None
        report, interrupted = certified(report)
        found = compiler.why(report) if why else None
        if as_json:
            document = report.to_json()
            if why:
                document["why"] = None if found is None else found.to_json()
            if spectra is not None:
                document["spectrum"] = spectra.to_json()
            if predicted is not None:
                document["predicted"] = predicted.to_json(report.name)
            print_json(document)
        else:
            from einc.report import profile

            times = None
            if predicted is not None:
                from einc.predict_report import shown

                times = shown(predicted, report.name)
            show(profile(report, found, spectra, times), no_color)
            warn(report.warnings)
        if interrupted:
            raise typer.Exit(INTERRUPTED)


def _calibration(device: str | None) -> Calibration | None:
    if device is None:
        return None
    from einc.calibration import load

    return load(device)


def _predicted(report: Profile, order: Order, known: Calibration) -> Prediction:
    from einc.predict import SHOWN, prediction

    if report.figures is None:
        raise UsageError("times need features: give --in")
    binding, tokens = report.figures.binding, report.plan.tokens or 1
    shown = sorted({*SHOWN, tokens})
    return prediction(binding, known, shown, order)


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
