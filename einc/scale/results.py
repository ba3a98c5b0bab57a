"""The files of a study, read.

In: the folder of a study. Out: `Results`: what was asked for, the runs that there are,
and what is missing. Nothing is judged here.

What is read of `study.json` (anything else in it is shown as it is):

    {"schema": "einc.scale/1",
     "contestants": [
       {"name": "btt", "text": "structure btt ...", "kind": "structure",
        "omega": "0", "psi": "1", "nu": "1/2", "routed": false}, ...],
     "widths": [64, 128],
     "seeds": {"btt": 5, "dense": 5}}

`kind` is "structure", "dense", "ffn_moe" or "moe_everywhere"; exponents are rationals as
strings, or null where there are none; of the seeds of a contestant, 0 up to their
number, each is run at each width.

What is read of each `jobs/NAME.json` with `"stage": "run"` (any other stage is passed
over):

    {"schema": "einc.scale-job/1", "stage": "run",
     "contestant": "btt", "width": 64, "seed": 0,
     "lr": 0.003, "status": "finished",
     "parameters": {"total": 123, "active": 100},
     "log": {"step": [10, 20], "flops": [100, 200], "loss": [3.1, 2.9]},
     "seconds": 12.3}

`status` is "finished" or "diverged"; the log of a diverged run ends, or has a null or no
finite number, where the loss was not finite any more, and may be empty. FLOPs are of
training, from the start up to that step. `jobs/NAME.failed.json` of a job that raised
has its text in "error", and counts only while there is no `NAME.json`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from einc.errors import UsageError

STUDY_SCHEMA = "einc.scale/1"
JOB_SCHEMA = "einc.scale-job/1"
MOST = 10**30
"""FLOPs, parameters, steps: what is more is damage."""

Kind = Literal["structure", "dense", "ffn_moe", "moe_everywhere"]


@dataclass(frozen=True)
class Contestant:
    """What stands in for the linear layers, and the exponents of its structure."""

    name: str
    text: str
    kind: Kind
    omega: Fraction | None
    psi: Fraction | None
    nu: Fraction | None
    routed: bool


@dataclass(frozen=True)
class Run:
    """One model trained: parameters of the whole model, and losses over its steps.

    `steps`, `flops` (of training so far) and `losses` are of one length; `diverged`
    says that the loss was not finite after the last of them.
    """

    contestant: str
    width: int
    seed: int
    lr: float
    parameters_total: int
    parameters_active: int
    steps: tuple[int, ...]
    flops: tuple[int, ...]
    losses: tuple[float, ...]
    diverged: bool
    seconds: float

    @property
    def best(self) -> float:
        """The lowest loss."""
        return min(self.losses)


@dataclass(frozen=True)
class Failure:
    """A job that raised, and what it said."""

    name: str
    error: str


@dataclass(frozen=True, eq=False)
class Results:
    """A study as far as it has come; `study` is the whole of `study.json`.

    Equal to itself alone, so that what is concluded from it can be kept.
    """

    study: Mapping[str, Any]
    contestants: tuple[Contestant, ...]
    runs: tuple[Run, ...]
    failures: tuple[Failure, ...]

    @property
    def missing(self) -> list[tuple[str, int, int]]:
        """Contestant, width and seed of what was asked for and has no result."""
        there = {(run.contestant, run.width, run.seed) for run in self.runs}
        return [
            (contestant.name, width, seed)
            for contestant in self.contestants
            for width in self.study["widths"]
            for seed in range(self.study["seeds"][contestant.name])
            if (contestant.name, width, seed) not in there
        ]


def load(folder: Path) -> Results:
    """What a study has found so far.

    Raises `UsageError` where `folder` holds no study, or a file of it is damaged.
    """
    study_path = folder / "study.json"
    study = _document(study_path, STUDY_SCHEMA)
    try:
        contestants = tuple(_contestant(one) for one in study["contestants"])
        _check_asked(study, contestants)
    except _DAMAGE as error:
        raise _damaged(study_path, error) from None
    names = {contestant.name for contestant in contestants}
    runs: dict[tuple[str, int, int], Run] = {}
    failures = []
    for path in sorted((folder / "jobs").glob("*.json")):
        if path.name.endswith(".failed.json"):
            name = path.name.removesuffix(".failed.json")
            if not path.with_name(f"{name}.json").exists():
                text = _document(path, None).get("error", "it does not say why")
                failures.append(Failure(name, str(text)))
            continue
        document = _document(path, JOB_SCHEMA)
        try:
            if document["stage"] != "run":
                continue
            run = _run(document)
            if run.contestant not in names:
                raise ValueError(f"the study has no contestant {run.contestant!r}")
            key = run.contestant, run.width, run.seed
            if key in runs:
                raise ValueError("another file has the same contestant, width and seed")
            runs[key] = run
        except _DAMAGE as error:
            raise _damaged(path, error) from None
    return Results(
        study, contestants, tuple(runs[key] for key in sorted(runs)), tuple(failures)
    )


_DAMAGE = (LookupError, TypeError, ValueError, OverflowError, ArithmeticError)


def _document(path: Path, schema: str | None) -> dict[str, Any]:
    """A JSON object, of a schema unless None."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"`{path}` is damaged: it is not JSON") from None
    if not isinstance(found, dict):
        raise UsageError(f"`{path}` is damaged: it is not an object")
    if schema is not None and found.get("schema") != schema:
        raise UsageError(f"`{path}` is damaged: it is not of schema {schema}")
    return found


def _damaged(path: Path, error: Exception) -> UsageError:
    what = f"no {error}" if isinstance(error, LookupError) else str(error)
    return UsageError(f"`{path}` is damaged: {what}")


def _check_asked(study: Mapping[str, Any], contestants: tuple[Contestant, ...]) -> None:
    names = [contestant.name for contestant in contestants]
    if len(set(names)) < len(names):
        raise ValueError("two contestants have the same name")
    for width in study["widths"]:
        _count(width)
    for name in names:
        _count(study["seeds"][name])


def _contestant(found: Mapping[str, Any]) -> Contestant:
    kind = found["kind"]
    if kind not in get_args(Kind):
        raise ValueError(f"no kind of contestant {kind!r}")
    omega, psi, nu = (
        None if found[name] is None else Fraction(found[name])
        for name in ("omega", "psi", "nu")
    )
    routed = bool(found["routed"])
    return Contestant(
        str(found["name"]), str(found["text"]), kind, omega, psi, nu, routed
    )


def _run(found: Mapping[str, Any]) -> Run:
    diverged = {"finished": False, "diverged": True}[found["status"]]
    log, parameters = found["log"], found["parameters"]
    rows = list(zip(log["step"], log["flops"], log["loss"], strict=True))
    if diverged:
        rows = _finite(rows)
    elif not rows or len(_finite(rows)) < len(rows):
        raise ValueError("a finished run needs losses, all of them finite")
    steps = tuple(_count(step) for step, _, _ in rows)
    flops = tuple(_count(flops) for _, flops, _ in rows)
    for values in (steps, flops):
        if any(a >= b for a, b in itertools.pairwise(values)):
            raise ValueError("steps and FLOPs have to ascend")
    losses = tuple(float(loss) for _, _, loss in rows)
    if any(loss <= 0 for loss in losses):
        raise ValueError("losses have to be positive")
    total, active = _count(parameters["total"]), _count(parameters["active"])
    if active > total:
        raise ValueError("more parameters are active than there are")
    return Run(
        contestant=str(found["contestant"]),
        width=_count(found["width"]),
        seed=_count(found["seed"], least=0),
        lr=float(found["lr"]),
        parameters_total=total,
        parameters_active=active,
        steps=steps,
        flops=flops,
        losses=losses,
        diverged=diverged,
        seconds=float(found["seconds"]),
    )


def _finite(rows: list[tuple[Any, Any, Any]]) -> list[tuple[Any, Any, Any]]:
    """The rows before the first whose loss is not finite."""
    for i, (_, _, loss) in enumerate(rows):
        if loss is None or not math.isfinite(loss):
            return rows[:i]
    return rows


def _count(value: Any, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= MOST:
        raise ValueError(f"{value!r} is not an integer from {least} to {MOST:g}")
    return value
