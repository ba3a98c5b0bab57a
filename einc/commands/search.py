"""`einc search`: structures under limits, best first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from einc import compiler, options
from einc.commands.certify import INTERRUPTED, certified
from einc.errors import UsageError
from einc.output import (
    check_free,
    print_json,
    progress,
    reporting,
    show,
    write_file,
)

if TYPE_CHECKING:
    from einc.search.found import Judged
    from einc.search.run import Measure, Result
    from einc.search.walk import Settings

T = TypeVar("T")
J = TypeVar("J", bound="Judged")


def search(
    d_in: options.In = None,
    d_out: options.Out = None,
    factors: options.Factors = 3,
    both: options.Both = False,
    grid: options.Grid = None,
    omega: options.Omega = None,
    psi: options.Psi = None,
    nu: options.Nu = None,
    max_flops: options.MaxFlops = None,
    max_params: options.MaxParams = None,
    max_intermediate: options.MaxIntermediate = None,
    min_rank: options.MinRank = None,
    objective: options.Objectives = None,
    pareto: options.Pareto = False,
    top: options.Top = 20,
    measure: options.Measure = False,
    tokens: options.Tokens = compiler.DEFAULT_TOKENS,
    seed: options.Seed = 0,
    save: options.Save = None,
    resume: options.Resume = None,
    plot: options.FrontPlot = None,
    force: options.Force = False,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Example: einc search --in 1024 --max-flops 0.25x --objective params

    Structures under limits, best first. Unless said otherwise those that follow the
    dense layer's scaling law (--psi =1 --omega =0) at no more work (--nu '<=1'), with
    the fewest FLOPs and then the most parameters; without --in by exponents alone, with
    the smallest nu.
    """
    with reporting(as_json):
        from einc import plots
        from einc.search import request, shown, written
        from einc.search.run import search as run
        from einc.search.state import State

        settings = request.settings(
            d_in,
            d_out,
            {"omega": omega or [], "psi": psi or [], "nu": nu or []},
            {
                "flops": max_flops,
                "params": max_params,
                "intermediate": max_intermediate,
                "rank": min_rank,
            },
            objective or [],
            factors,
            both,
            grid,
            pareto,
            tokens,
            seed,
        )
        file_format = ""
        if plot is not None:
            if len(settings.objectives) < 2:
                raise UsageError("a plot needs two objectives: --objective twice")
            file_format = plots.file_format(plot)
            check_free(plot, force)
        if save is not None:
            _check_folder(save, force)
        measured = _measure(tokens) if measure else None
        with progress() as told:
            result = run(settings, top, State(resume), measured, told)
            others, interrupted = _until_interrupted(
                request.compared(settings, measured)
            )
        result.finished = result.finished and not interrupted
        result.found, interrupted = _certified(result.found, interrupted)
        compared, interrupted = _certified(others, interrupted)
        if save is not None:
            _save(save, result, settings, force)
        if plot is not None:
            from einc.search import picture

            front = picture.front(result, compared, settings, file_format)
            write_file(plot, front, force)
        if as_json:
            print_json(written.document(result, settings, compared))
        else:
            show(shown.result(result, compared), no_color)
        if interrupted or not result.finished:
            raise typer.Exit(INTERRUPTED)


def _check_folder(folder: Path, force: bool) -> None:
    """Raises `UsageError` where what is found could not be saved."""
    from einc.search.run import NAME

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make `{folder}`: {error.strerror}") from None
    for path in (folder / f"{NAME}_1.ein", *_saved(folder)):
        check_free(path, force)


def _saved(folder: Path) -> list[Path]:
    """The files that a search has saved there."""
    from einc.search.run import NAME

    named = re.compile(rf"{NAME}_[1-9][0-9]*\.ein").fullmatch
    return sorted(path for path in folder.glob(f"{NAME}_*.ein") if named(path.name))


def _save(folder: Path, result: Result, settings: Settings, force: bool) -> None:
    """A file each; with `force` what another search saved beside them is removed."""
    from einc.search import written

    files = {folder / f"{one.profile.name}.ein": one for one in result.found}
    for path, found in files.items():
        write_file(path, written.ein(found, settings), force)
    for path in _saved(folder):
        if force and path not in files:
            try:
                path.unlink()
            except OSError as error:
                reason = f"cannot remove `{path}`: {error.strerror}"
                raise UsageError(reason) from None


def _measure(tokens: int) -> Measure:
    from einc.nn.timing import against_dense

    return partial(against_dense, tokens=tokens)


def _until_interrupted(structures: Iterable[T]) -> tuple[list[T], bool]:
    """Those that come before Ctrl-C, and whether it came."""
    found: list[T] = []
    try:
        found.extend(structures)  # each as it comes
    except KeyboardInterrupt:
        return found, True
    return found, False


def _certified(found: Sequence[J], interrupted: bool) -> tuple[list[J], bool]:
    """With the ranks that elimination finds; those after an interrupt without."""
    result: list[J] = []
    for one in found:
        profile = one.profile
        if not interrupted:
            profile, interrupted = certified(profile)
        result.append(replace(one, profile=profile))
    return result, interrupted
