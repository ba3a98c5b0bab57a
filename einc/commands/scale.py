"""`einc scale`: structures trained at several widths, loss against training compute."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from einc import asked, options
from einc.errors import UsageError
from einc.output import check_free, print_json, progress, reporting, show, write_file

if TYPE_CHECKING:
    from einc.scale.settings import Settings
    from einc.scale.study import Study

FAILED = 1
"""The exit status where a job failed."""
REPORT = "report.md"
MOST_WORKERS = 1024


class TaskKind(StrEnum):
    """What is learned."""

    regression = "regression"
    text = "text"
    pixels = "pixels"


Contestants = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SPEC]...",
        help="as for analyze; arguments may follow, as in 'btt(rank=2)'",
    ),
]
Folder = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="the study's folder")
]
Task = Annotated[
    TaskKind | None, typer.Option("--task", help="what is learned (default: text)")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="a text, UTF-8 (default: the sources of Python's standard library)",
    ),
]
Widths = Annotated[
    str | None,
    typer.Option(
        "--widths", metavar="N,N,...", help="multiples of 8 (default: 32,64,128,256)"
    ),
]


def _number(name: str, told: str) -> Any:
    return typer.Option(f"--{name}", metavar="N", help=told)


Depth = Annotated[int | None, _number("depth", "blocks of a model (default: 3)")]
Seeds = Annotated[int | None, _number("seeds", "runs of each model (default: 3)")]
SeedsOf = Annotated[
    list[str] | None,
    typer.Option(
        "--seeds-of", metavar="NAME=N", help="of one contestant's; repeatable"
    ),
]
Steps = Annotated[int | None, _number("steps", "steps of each run")]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        metavar="M",
        help="as many steps as fit, all in all, instead (default: 30)",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option("--lr", metavar="X", help="of the smallest width (default: tuned)"),
]
Experts = Annotated[
    int | None, _number("experts", "of routed layers; a token takes 2 (default: 8)")
]
Auxiliary = Annotated[
    float | None,
    typer.Option(
        "--auxiliary", metavar="X", help="weight of the routing loss (default: 0.01)"
    ),
]
OnDevice = Annotated[
    options.Device | None,
    typer.Option("--device", help="where models are trained (default: cpu)"),
]
Workers = Annotated[
    int | None,
    _number("workers", "jobs at a time (default: one a core; on a GPU one)"),
]
Threads = Annotated[
    int | None,
    _number("threads", "threads of a job; numbers depend on it (default: 1)"),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="jobs on a Ray cluster: HOST:PORT, auto, or local",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="go on with the study in the folder")
]
ScalePlot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="draw it: .png, .svg, .pdf"),
]


def scale(
    folder: Folder,
    specs: Contestants = None,
    task: Task = None,
    data: Data = None,
    define: options.Define = None,
    widths: Widths = None,
    depth: Depth = None,
    seeds: Seeds = None,
    seeds_of: SeedsOf = None,
    steps: Steps = None,
    minutes: Minutes = None,
    lr: Rate = None,
    experts: Experts = None,
    auxiliary: Auxiliary = None,
    device: OnDevice = None,
    workers: Workers = None,
    threads: Threads = None,
    ray: Ray = None,
    resume: Resume = False,
    plot: ScalePlot = None,
    force: options.Force = False,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Example: einc scale btt btt_moe --task text --minutes 60 -o study

    Loss against training compute: each structure in place of a model's linear layers,
    trained at several widths beside dense layers and the standard mixture of experts,
    then fitted and compared. A study that was stopped goes on with --resume.
    """
    with reporting(as_json):
        sizes, own_seeds = _widths(widths), _seeds_of(seeds_of)
        arguments, count = asked.arguments(define), _workers(workers)

        from einc import plots
        from einc.scale import figures, parallel, report, results
        from einc.scale.settings import Given, settings
        from einc.scale.study import Study

        if parallel.processes() > 1 and ray is not None:
            raise UsageError("give --ray or use torchrun, not both")
        if parallel.rank() > 0:
            _follow()
            return
        if plot is not None:
            file_format = plots.file_format(plot)
            check_free(plot, force)
        stored = _stored(folder, resume, bool(specs))
        given = Given(
            specs or (),
            arguments,
            None if task is None else task.value,
            data,
            sizes,
            depth,
            seeds,
            own_seeds,
            steps,
            minutes,
            lr,
            experts,
            auxiliary,
            threads,
            None if device is None else device.value,
        )
        wanted = settings(given, stored)
        _check_device(options.Device(wanted.device), ray)
        study = Study(wanted, folder)
        with study.prepared(stored):
            _train(study, count, ray)
        found = results.load(folder)
        write_file(folder / REPORT, report.markdown(found), force=True)
        if plot is not None:
            write_file(plot, figures.scaling(found, file_format), force)
        if as_json:
            print_json(report.to_json(found))
        else:
            show(report.table(found), no_color)
        if study.failures:
            raise typer.Exit(FAILED)


def _train(study: Study, count: int | None, ray: str | None) -> None:
    from einc.scale.cluster import Cluster
    from einc.scale.parallel import Together, processes
    from einc.scale.training import perform
    from einc.scale.workers import Pool

    if processes() > 1:
        with Together(perform) as together, progress() as tell:
            study.go_on(together.run, 1, tell, _say)
    elif ray is None:
        places = count or (cores() if study.settings.device == "cpu" else 1)
        with Pool(perform, places) as pool, progress() as tell:
            study.go_on(pool.run, places, tell, _say)
    else:
        cluster = Cluster(perform, ray, study.settings.threads, count)
        with cluster, progress() as tell:
            study.go_on(cluster.run, cluster.places, tell, _say)
    for name, failure in study.failures:
        _say(f"failed: {name}: {failure.error}")


def _check_device(device: options.Device, ray: str | None) -> None:
    from einc.scale.parallel import processes

    if device is options.Device.cuda and (ray is not None or processes() > 1):
        raise UsageError("--device cuda is for jobs of this machine, one process each")
    asked.check_device(device)


def _follow() -> None:
    """Does the jobs of the process that has the study, beside it."""
    from einc.scale.parallel import follow
    from einc.scale.training import perform

    follow(perform)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _stored(folder: Path, resume: bool, named: bool) -> Settings | None:
    """The study that goes on; raises `UsageError` where there is one unasked for."""
    from einc.scale.study import load

    stored = load(folder)
    if stored is not None and not resume:
        raise UsageError(f"`{folder}` holds a study; --resume goes on with it")
    if stored is None and not named:
        raise UsageError(
            f"there is no study in `{folder}`: name one SPEC at least"
            if resume
            else "name one SPEC at least"
        )
    return stored


def _workers(count: int | None) -> int | None:
    if count is not None and not 1 <= count <= MOST_WORKERS:
        raise UsageError(f"--workers goes from 1 to {MOST_WORKERS}: not {count}")
    return count


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _widths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"widths are numbers such as 64,128,256: not `{text}`"
        ) from None


def _seeds_of(texts: list[str] | None) -> dict[str, int] | None:
    """Numbers by contestant; a name may have an equals sign itself."""
    found: dict[str, int] = {}
    for text in texts or ():
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or len(number) > 6:
            raise UsageError(f"--seeds-of takes NAME=N, not `{text}`")
        found[name] = int(number)
    return found or None
