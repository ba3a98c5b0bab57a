"""A study: its folder, the jobs that it is made of, and their order.

In: `Settings`, a folder, and a `Runner`. Out: `study.json`, and a file for each job that is
done. A job with a file is never done again, so a study that was stopped goes on where it
was. Nothing is analysed here.

A study goes through three stages: where minutes were given, a few steps of every
contestant at every width say how many steps fit; the learning rate is tuned for each
contestant at the smallest width; then all runs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from einc import __version__
from einc.errors import UsageError
from einc.scale import budget, compute, job, layers, tasks, tuning
from einc.scale.contestants import Contestant
from einc.scale.job import Job, Result, Stage
from einc.scale.settings import Settings
from einc.scale.tasks import Task
from einc.scale.workers import Failure, Runner

SCHEMA = "einc.scale/1"
NAME = "study.json"
LOCK = ".lock"
TIMED = 8
"""Steps of a job that is timed."""
MOST_PARAMETERS = 1 << 30
OVERHEAD = 200_000_000
"""What a step takes beside its FLOPs, in FLOPs: to weigh jobs for the progress."""

Tell = Callable[[str, int, int], None]
"""A text, how much is done, and of how much."""
Done = Callable[[int], None]
Say = Callable[[str], None]


def load(folder: Path) -> Settings | None:
    """The settings of the study in a folder, if one is there.

    Raises `UsageError` for a damaged file.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != SCHEMA:
            raise ValueError
        settings = Settings.from_json(found)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ):
        raise UsageError(f"`{path}` is not the description of a study") from None

    if found.get("torch") != torch.__version__:
        raise UsageError(
            f"the study was begun with torch {found.get('torch')}, and this is "
            f"{torch.__version__}: numbers of both are not to be compared"
        )
    return settings


@dataclass
class Study:
    """A study in its folder. `failures`, by the job's name, are of this process."""

    settings: Settings
    folder: Path
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    _timed: dict[Job, Result] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)

    @contextmanager
    def prepared(self, before: Settings | None = None) -> Iterator[None]:
        """Reads the data, analyses every model, takes the folder and writes `study.json`.

        Raises `UsageError` for a model too large, a folder that cannot be written,
        where another process is at work or the study is not the one `before` any more,
        and `SpecError` where a structure does not fit a width.
        """
        _ = self._flops
        lock = FileLock(self.folder / LOCK, timeout=0)
        try:
            (self.folder / job.FOLDER).mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"another process is at work on the study in `{self.folder}`"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot make `{self.folder}`: {error.strerror}") from None
        try:
            if load(self.folder) != before:
                raise UsageError(
                    f"another process began a study in `{self.folder}`: --resume goes "
                    "on with it"
                )
            self._write()
            yield
        finally:
            lock.release()

    def go_on(self, run: Runner, workers: int, tell: Tell, say: Say) -> None:
        """Does what there is to do, `workers` jobs at a time by assumption."""
        self._timed = self._time(run, tell)
        if self.settings.steps is None:
            self._choose_steps(workers)
            say(f"{self._steps:,} steps a run")
        tuning_weight = sum(map(self._weight, self._usual_tuning()))
        every = {one.name: 0.0 for one in self.settings.contestants}
        of = tuning_weight + sum(map(self._weight, self._runs(every)))

        def told(done: int) -> None:
            tell("training", done, of)

        rates = self._rates(run, lambda done: told(min(done, tuning_weight)))
        self.settings = replace(self.settings, rates=rates)
        self._write()
        self._do(self._runs(rates), run, lambda done: told(tuning_weight + done))

    # Stages

    def _time(self, run: Runner, tell: Tell) -> dict[Job, Result]:
        """What a few steps of each model take; nothing where steps were given."""
        if self.settings.minutes is None:
            return {}
        jobs = [
            self._job(one, width, 0, "time", tuning.rate(tuning.GRID[0]), TIMED)
            for one in self.settings.contestants
            for width in self.settings.widths
        ]
        of = sum(map(self._weight, jobs))
        return self._do(jobs, run, lambda done: tell("timing steps", done, of))

    def _choose_steps(self, workers: int) -> None:
        assert self.settings.minutes is not None
        left = 60 * self.settings.minutes - (time.monotonic() - self._begun)
        rates = 0 if self.settings.lr is not None else tuning.USUAL
        steps = budget.steps(self._timed, self.settings.seeds, rates, left, workers)
        self.settings = replace(self.settings, steps=steps)
        self._write()

    def _rates(self, run: Runner, tell: Done) -> dict[str, float]:
        """The learning rates; a contestant without a finite loss at any has none.

        What was found once stays, whatever becomes of jobs that failed then.
        """
        if self.settings.lr is not None:
            return {one.name: self.settings.lr for one in self.settings.contestants}
        losses: dict[str, dict[int, float]] = {name: {} for name in self._untuned}
        before = 0
        while jobs := self._tuning_jobs(losses):
            found = self._do(list(jobs), run, lambda done: tell(before + done))  # noqa: B023
            before += sum(map(self._weight, jobs))
            for one, (name, exponent) in jobs.items():
                losses[name][exponent] = _last_loss(found.get(one))
        return dict(self.settings.rates) | {
            name: tuning.rate(tuning.best(by_exponent))
            for name, by_exponent in losses.items()
            if math.isfinite(min(by_exponent.values()))
        }

    def _do(self, jobs: list[Job], run: Runner, tell: Done) -> dict[Job, Result]:
        """The results of jobs: of those that have a file, and of those done now."""
        found: dict[Job, Result] = {}
        for one in jobs:
            result = job.read(self.folder, one)
            if result is not None:
                found[one] = result
        missing = [one for one in jobs if one not in found]
        # The long ones of a seed first: the last to end are short.
        missing.sort(key=lambda one: (one.seed, -self._weight(one)))
        done = sum(map(self._weight, found))
        tell(done)
        for one, outcome in run(missing):
            if isinstance(outcome, Failure):
                job.write_failure(self.folder, one, outcome.error, outcome.story)
                self.failures.append((one.name, outcome))
            else:
                job.write(self.folder, one, outcome)
                found[one] = outcome
            done += self._weight(one)
            tell(done)
        return found

    # What it is made of

    @property
    def _steps(self) -> int:
        assert self.settings.steps is not None
        return self.settings.steps

    @cached_property
    def _task(self) -> Task:
        return tasks.load(self.settings.source)

    def _job(
        self,
        contestant: Contestant,
        width: int,
        seed: int,
        stage: Stage,
        lr: float,
        steps: int,
    ) -> Job:
        wanted = self.settings
        return Job(
            contestant,
            width,
            seed,
            stage,
            lr,
            steps,
            base_width=wanted.widths[0],
            depth=wanted.depth,
            auxiliary=wanted.auxiliary,
            threads=wanted.threads,
            device=wanted.device,
            source=wanted.source,
        )

    @property
    def _untuned(self) -> list[str]:
        """The contestants whose rate is to be found."""
        if self.settings.lr is not None:
            return []
        names = [one.name for one in self.settings.contestants]
        return [name for name in names if name not in self.settings.rates]

    def _runs(self, rates: Mapping[str, float]) -> list[Job]:
        """All runs of contestants with a rate."""
        return [
            self._job(one, width, seed, "run", rates[one.name], self._steps)
            for one in self.settings.contestants
            if one.name in rates
            for width in self.settings.widths
            for seed in range(self.settings.seeds[one.name])
        ]

    def _tuning_jobs(
        self, losses: Mapping[str, Mapping[int, float]]
    ) -> dict[Job, tuple[str, int]]:
        """Those to do next, with contestant and exponent."""
        steps, width = budget.tuning_steps(self._steps), self.settings.widths[0]
        return {
            self._job(one, width, 0, "tune", tuning.rate(exponent), steps): (
                one.name,
                exponent,
            )
            for one in self.settings.contestants
            if one.name in losses
            for exponent in tuning.wanted(losses[one.name])
        }

    def _usual_tuning(self) -> list[Job]:
        """As many jobs as tuning takes as a rule."""
        first = self._tuning_jobs({name: {} for name in self._untuned})
        return [*first, *(list(first)[:: len(tuning.GRID)])]

    @cached_property
    def _flops(self) -> dict[tuple[str, int], int]:
        """Training FLOPs of a step, by contestant and width."""
        task, found = self._task, {}
        for one in self.settings.contestants:
            for width in self.settings.widths:
                with layers.without_values():
                    model = task.model(one, width, self.settings.depth)
                total = sum(p.numel() for p in model.parameters())
                if total > MOST_PARAMETERS:
                    raise UsageError(
                        f"{one.name} at width {width} has {total:,} parameters, and "
                        f"{MOST_PARAMETERS:,} are the most"
                    )
                found[one.name, width] = compute.flops_per_step(
                    model, one, task.tokens, task.context
                )
        return found

    def _weight(self, one: Job) -> int:
        """About how long a job takes: microseconds where that was timed."""
        name, width = one.contestant.name, one.width
        for timed, result in self._timed.items():
            if (timed.contestant.name, timed.width) == (name, width):
                load = budget.of_run(timed, result)
                return int(1e6 * (load.fixed + one.steps * load.per_step))
        return one.steps * (self._flops[name, width] + OVERHEAD)

    def _write(self) -> None:
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "einc": __version__,
            "torch": torch.__version__,
            **self.settings.to_json(),
            "tokens_per_step": self._task.tokens,
            "context": self._task.context,
        }
        job.put(self.folder / NAME, document)


def _last_loss(result: Result | None) -> float:
    if result is None or result["status"] != "finished":
        return math.inf
    return float(result["log"]["loss"][-1])
