"""What a study is asked for: all that its numbers depend on, within bounds.

In: options as they were given, and the settings of the study that goes on, if one does.
Out: `Settings`, and their JSON, which is the greater part of `study.json`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

from einc import compiler
from einc.errors import UsageError
from einc.scale.contestants import (
    DENSE,
    FFN_MOE,
    MOE_EVERYWHERE,
    TOP,
    Contestant,
    baselines,
    check_names,
    named,
)
from einc.scale.tasks import KINDS, Source, sealed

WIDTHS = (32, 64, 128, 256)
DEVICE, DEVICES = "cpu", ("cpu", "cuda")
DEPTH, SEEDS, EXPERTS, AUXILIARY, THREADS, MINUTES = 3, 3, 8, 0.01, 1, 30.0
MULTIPLE = 8
"""What a width is a multiple of."""
BOUNDS: Mapping[str, tuple[float, float]] = {
    "widths": (MULTIPLE, 8192),
    "depth": (1, 64),
    "seeds": (1, 1000),
    "steps": (1, 10_000_000),
    "minutes": (0.1, 100_000),
    "lr": (1e-9, 10),
    "experts": (TOP, 256),
    "auxiliary": (0, 100),
    "threads": (1, 256),
}
MOST_WIDTHS = 32


@dataclass(frozen=True)
class Given:
    """The options of a command, None or empty where they were left out."""

    specs: Sequence[str] = ()
    arguments: Mapping[str, Fraction] | None = None
    task: str | None = None
    data: str | None = None
    widths: Sequence[int] | None = None
    depth: int | None = None
    seeds: int | None = None
    seeds_of: Mapping[str, int] | None = None
    steps: int | None = None
    minutes: float | None = None
    lr: float | None = None
    experts: int | None = None
    auxiliary: float | None = None
    threads: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class Settings:
    """A study. `seeds` is how many runs there are of each contestant and width.

    `steps` is None until as many as fit into `minutes` were chosen; `lr` None where
    rates are tuned, and `rates` has those that were found, by contestant.
    """

    source: Source
    contestants: tuple[Contestant, ...]
    widths: tuple[int, ...]
    depth: int
    seeds: Mapping[str, int]
    steps: int | None
    minutes: float | None
    lr: float | None
    experts: int
    auxiliary: float
    threads: int
    device: str
    rates: Mapping[str, float]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Settings:
        """Raises LookupError, TypeError, ValueError or ArithmeticError where it is none."""
        found = cls(
            Source.from_json(value["task"]),
            tuple(Contestant.from_json(one) for one in value["contestants"]),
            tuple(map(_integer, value["widths"])),
            _integer(value["depth"]),
            {name: _integer(seeds) for name, seeds in value["seeds"].items()},
            None if value["steps"] is None else _integer(value["steps"]),
            None if value["minutes"] is None else float(value["minutes"]),
            None if value["lr"] is None else float(value["lr"]),
            _integer(value["experts"]),
            float(value["auxiliary"]),
            _integer(value["threads"]),
            value.get("device", DEVICE),
            {name: float(rate) for name, rate in value["rates"].items()},
        )
        _check_whole(found)
        return found

    def to_json(self) -> dict[str, Any]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        found["task"] = found.pop("source").to_json()
        found["contestants"] = [described(one) for one in self.contestants]
        found["widths"] = list(self.widths)
        found |= {"seeds": dict(self.seeds), "rates": dict(self.rates)}
        return found


def described(contestant: Contestant) -> dict[str, Any]:
    """A contestant's JSON, with what its structure's analysis says."""
    structure, name = contestant.structure, contestant.name
    is_baseline = name in (DENSE, FFN_MOE, MOE_EVERYWHERE)
    found: dict[str, Any] = {
        **contestant.to_json(),
        "kind": name if is_baseline else "structure",
        "routed": bool(contestant.experts),
        "omega": None,
        "psi": None,
        "nu": None,
    }
    if name == DENSE:
        return found | {"omega": "0", "psi": "1", "nu": "1"}
    if structure is not None and not is_baseline:
        found["routed"] = structure.route is not None
        exponents = compiler.analyze(structure).exponents
        if exponents is not None:
            found |= {
                key: None if value is None else str(value)
                for key, value in vars(exponents.best).items()
            }
    return found


def settings(given: Given, stored: Settings | None = None) -> Settings:
    """The study that is asked for; what was left out is as in `stored`, or usual.

    Raises `UsageError` for what is out of bounds, cannot be read, or is not as in
    `stored`, and `SpecError` for faults of a structure.
    """
    _check_bounds(given)
    found = _made(given, stored)
    check_names(found.contestants)
    if stored is not None:
        _check_same(found, stored)
    return found


def _made(given: Given, stored: Settings | None) -> Settings:
    def chosen(name: str, usual: Any) -> Any:
        value = getattr(given, name)
        if value is not None:
            return value
        return usual if stored is None else getattr(stored, name)

    same = (None, stored.source.kind) if stored is not None else ()
    if stored is not None and given.task in same and given.data is None:
        source = stored.source
    else:
        kind = given.task or ("text" if stored is None else stored.source.kind)
        source = _source(kind, given.data or "")
    experts = chosen("experts", EXPERTS)
    if stored is not None and not given.specs:
        if given.arguments:
            raise UsageError("-D is for the SPECs that stand beside it")
        contestants = stored.contestants
    else:
        contestants = (
            *baselines(experts, source.has_attention),
            *named(given.specs, given.arguments or {}, experts),
        )
    minutes, steps = given.minutes, given.steps
    if minutes is None and steps is None:
        minutes = MINUTES if stored is None else stored.minutes
    if stored is not None and steps is None and minutes == stored.minutes:
        steps = stored.steps
    return Settings(
        source,
        contestants,
        tuple(sorted(set(chosen("widths", WIDTHS)))),
        chosen("depth", DEPTH),
        _seeds(given, contestants, stored),
        steps,
        minutes,
        chosen("lr", None),
        experts,
        chosen("auxiliary", AUXILIARY),
        chosen("threads", THREADS),
        chosen("device", DEVICE),
        {} if stored is None else stored.rates,
    )


def _source(kind: str, file: str) -> Source:
    if kind not in KINDS:
        raise UsageError(f"the task is one of {', '.join(KINDS)}, not `{kind}`")
    if file and kind != "text":
        raise UsageError(f"the task `{kind}` takes no --data: that is for `text`")
    found = sealed(Source(kind, file))
    return replace(found, file=os.path.abspath(file)) if file else found


def _seeds(
    given: Given, contestants: Sequence[Contestant], stored: Settings | None
) -> dict[str, int]:
    own = given.seeds_of or {}
    names = [contestant.name for contestant in contestants]
    for name in own:
        if name not in names:
            raise UsageError(
                f"--seeds-of: there is no contestant `{name}`, but {', '.join(names)}"
            )
    usual = SEEDS if given.seeds is None else given.seeds
    before = stored.seeds if stored is not None and given.seeds is None else {}
    return {name: own.get(name, before.get(name, usual)) for name in names}


def _check_bounds(given: Given) -> None:
    if given.steps is not None and given.minutes is not None:
        raise UsageError("give --steps or --minutes, not both")
    if given.widths is not None and not 1 <= len(given.widths) <= MOST_WIDTHS:
        raise UsageError(f"there are 1 to {MOST_WIDTHS} widths in a study")
    for name, (least, most) in BOUNDS.items():
        value = getattr(given, name)
        for one in [] if value is None else value if name == "widths" else [value]:
            if not (math.isfinite(one) and least <= one <= most):
                raise UsageError(f"--{name} goes from {least:g} to {most:g}: not {one}")
    for width in given.widths or ():
        if width % MULTIPLE:
            raise UsageError(f"a width is a multiple of {MULTIPLE}: not {width}")
    for name, one in (given.seeds_of or {}).items():
        least, most = BOUNDS["seeds"]
        if not least <= one <= most:
            raise UsageError(f"--seeds-of {name} goes from {least} to {most}")


def _check_whole(found: Settings) -> None:
    """Raises ValueError where a study would not have made them."""
    given = Given(
        widths=found.widths,
        depth=found.depth,
        seeds_of=found.seeds,
        lr=found.lr,
        experts=found.experts,
        auxiliary=found.auxiliary,
        threads=found.threads,
    )
    try:
        _check_bounds(given)
        _check_bounds(Given(steps=found.steps))
        _check_bounds(Given(minutes=found.minutes))
        check_names(found.contestants)
    except UsageError as error:
        raise ValueError(str(error)) from None
    names = {one.name for one in found.contestants}
    fits = [
        found.seeds.keys() == names,
        found.rates.keys() <= names,
        all(0 < rate < math.inf for rate in found.rates.values()),
        found.steps is not None or found.minutes is not None,
        found.source.kind in KINDS,
        found.device in DEVICES,
    ]
    if not all(fits):
        raise ValueError("no settings of a study")
    for one in found.contestants:
        _ = one.structure


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    return value


def _check_same(found: Settings, stored: Settings) -> None:
    # Until the steps are chosen, nothing depends on how long they take.
    is_open = stored.steps is None
    for field in fields(stored):
        old, new = getattr(stored, field.name), getattr(found, field.name)
        if old == new or (is_open and field.name in ("minutes", "steps", "seeds")):
            continue
        if field.name == "steps" and found.minutes != stored.minutes:
            continue  # which is what was asked
        if field.name == "contestants":
            old, new = ([one.name for one in value] for value in (old, new))
            if old == new:
                raise UsageError(
                    "the study's structures are not what they were: use another folder"
                )
        if field.name == "source":
            raise UsageError(
                "the study has another task or other data: use another folder"
            )
        raise UsageError(
            f"the study has the {field.name} {_told(old)}, not {_told(new)}: use "
            "another folder, or leave that option out"
        )


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
