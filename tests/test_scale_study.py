"""Studies: what is asked for, which jobs that is, and what happens when one stops."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from einc.errors import SpecError, UsageError
from einc.scale import budget, contestants, tuning
from einc.scale.contestants import Contestant, check_names, named
from einc.scale.job import Job, Result
from einc.scale.settings import Given, Settings, settings
from einc.scale.study import Study, load
from einc.scale.tasks import Source
from einc.scale.workers import Failure, Pool

SMALL = Given(["btt"], task="regression", widths=(8, 16), depth=1, seeds=2, steps=40)
TUNED = {"dense": -7, "ffn_moe": -6, "btt": -10}
"""The exponents of the best rates, in what `result` makes up."""


def result(one: Job) -> Result:
    exponent = math.log2(one.lr)
    loss = 1.0 + abs(exponent - TUNED[one.contestant.name])
    return {
        "status": "finished",
        "parameters": {"total": 10 * one.width, "active": one.width},
        "flops_per_step": one.width,
        "log": {"step": [one.steps], "flops": [one.width * one.steps], "loss": [loss]},
        "seconds": 0.01 * one.steps * one.width + 1.0,
        "seconds_per_step": 0.01 * one.width,
        "seconds_per_loss": 0.1,
    }


class Runner:
    """Does jobs at once, remembers them, and stops after `limit` of them."""

    def __init__(self, limit: int = 10_000, fails: str = "") -> None:
        self.limit, self.fails, self.done = limit, fails, list[Job]()

    def __call__(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Failure]]:
        for one in jobs:
            if len(self.done) == self.limit:
                raise KeyboardInterrupt
            self.done.append(one)
            if self.fails and one.name == self.fails:
                yield one, Failure("ValueError: as asked", "the whole story")
            else:
                yield one, result(one)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.done]


def go_on(folder: Path, runner: Runner, asked: Given = SMALL) -> Study:
    before = load(folder)
    study = Study(settings(asked, before), folder)
    with study.prepared(before):
        study.go_on(runner, 2, lambda *_: None, lambda _: None)
    return study


def kept(folder: Path) -> dict[str, Any]:
    return {p.name: json.loads(p.read_text()) for p in (folder / "jobs").iterdir()}


# Stages


def test_the_best_rate_goes_to_all_widths_and_seeds(tmp_path: Path) -> None:
    runner = Runner()
    go_on(tmp_path, runner)
    runs = [one for one in runner.done if one.stage == "run"]
    assert len(runs) == len(set(runs)) == 3 * 2 * 2
    for one in runs:
        assert one.lr == 2.0 ** TUNED[one.contestant.name]
        assert (one.steps, one.base_width) == (40, 8)
    tuned = [one for one in runner.done if one.stage == "tune"]
    assert {(one.width, one.seed, one.steps) for one in tuned} == {(8, 0, 20)}
    tried = {
        name: sorted(math.log2(o.lr) for o in tuned if o.contestant.name == name)
        for name in TUNED
    }
    assert tried["dense"] == [-8, -7, -6]
    assert tried["ffn_moe"] == [-8, -7, -6, -5]
    assert tried["btt"] == [-11, -10, -9, -8, -7, -6]
    assert json.loads((tmp_path / "study.json").read_text())["rates"] == {
        name: 2.0**exponent for name, exponent in TUNED.items()
    }
    files = kept(tmp_path)
    assert len(files) == len(runner.done)
    assert files["btt-16-1.json"] == {
        "schema": "einc.scale-job/1",
        "contestant": "btt",
        "width": 16,
        "seed": 1,
        "stage": "run",
        "lr": 2.0**-10,
        "digest": next(one for one in runs if one.name == "btt-16-1").digest,
        **result(next(one for one in runs if one.name == "btt-16-1")),
    }


def test_a_given_rate_is_not_tuned(tmp_path: Path) -> None:
    runner = Runner()
    go_on(tmp_path, runner, replace(SMALL, lr=0.01, seeds_of={"btt": 1}))
    assert {one.stage for one in runner.done} == {"run"}
    assert {one.lr for one in runner.done} == {0.01}
    assert len(runner.done) == 2 * (2 + 2 + 1)


@pytest.mark.parametrize("limit", [0, 5, 13, 20])
def test_what_was_stopped_goes_on(tmp_path: Path, limit: int) -> None:
    whole = Runner()
    go_on(tmp_path / "whole", whole)
    first, second, third = Runner(limit), Runner(), Runner()
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path / "parts", first)
    go_on(tmp_path / "parts", second, Given())
    assert len(first.done) == limit
    assert sorted(first.names + second.names) == sorted(whole.names)
    assert kept(tmp_path / "parts") == kept(tmp_path / "whole")
    go_on(tmp_path / "parts", third, SMALL)
    assert third.done == []


def test_a_failed_job_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    name = "btt-16-1"
    whole, first, second = Runner(), Runner(fails=name), Runner()
    go_on(tmp_path / "whole", whole)
    study = go_on(tmp_path / "parts", first)
    assert study.failures == [
        (name, Failure("ValueError: as asked", "the whole story"))
    ]
    files = kept(tmp_path / "parts")
    assert f"{name}.json" not in files
    assert files[f"{name}.failed.json"]["error"] == "ValueError: as asked"
    assert sorted(first.names) == sorted(whole.names)
    assert go_on(tmp_path / "parts", second).failures == []
    assert second.names == [name]
    assert kept(tmp_path / "parts") == kept(tmp_path / "whole")


def test_rates_stay_as_they_were_found(tmp_path: Path) -> None:
    """Also where the job of a better one had failed: runs have been done with them."""
    go_on(tmp_path, Runner(fails="dense-8-tune-0.00781"))
    rates = json.loads((tmp_path / "study.json").read_text())["rates"]
    assert rates["dense"] != 2.0 ** TUNED["dense"]
    again = Runner()
    go_on(tmp_path, again)
    assert again.done == []
    assert json.loads((tmp_path / "study.json").read_text())["rates"] == rates


def test_no_rate_no_run(tmp_path: Path) -> None:
    class Bad(Runner):
        def __call__(
            self, jobs: Iterable[Job]
        ) -> Iterator[tuple[Job, Result | Failure]]:
            for one, outcome in super().__call__(jobs):
                is_btt = one.contestant.name == "btt"
                yield one, Failure("always") if is_btt else outcome

    runner = Bad()
    study = go_on(tmp_path, runner)
    assert {one.contestant.name for one in runner.done if one.stage == "run"} == {
        "dense",
        "ffn_moe",
    }
    assert all(name.startswith("btt-8-tune") for name, _ in study.failures)


def test_as_many_steps_as_fit(tmp_path: Path) -> None:
    asked = replace(SMALL, steps=None, minutes=30.0)
    first, second = Runner(limit=8), Runner()
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path, first, asked)
    timed = [one for one in first.done if one.stage == "time"]
    assert len(timed) == len(set(timed)) == 3 * 2
    found = load(tmp_path)
    assert found is not None and found.steps is not None
    # Runs: 3 contestants, 2 seeds, widths 8 and 16, at 0.01 * width seconds a step, and
    # 0.9 + 20 * 0.1 beside; 4 of half a run at width 8 to tune each.
    fixed = 3 * (4 + 4) * 2.9
    a_step = 3 * (2 * (0.08 + 0.16) + 4 * 0.08 / 2)
    assert found.steps == pytest.approx((2 * 60 * 30 - fixed) / a_step, abs=5)
    go_on(tmp_path, second, Given())
    assert {one.stage for one in second.done} == {"tune", "run"}
    steps = {one.steps for one in second.done if one.stage == "run"}
    assert steps == {found.steps}


def test_too_few_minutes(tmp_path: Path) -> None:
    asked = replace(SMALL, steps=None, minutes=0.2)
    with pytest.raises(UsageError, match=r"take about \d+\.\d minutes more"):
        go_on(tmp_path, Runner(), asked)


@given(
    st.lists(st.tuples(st.floats(1e-3, 1), st.floats(0, 5)), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(0, 5),
    st.floats(101, 10_000),
    st.integers(1, 4),
)
def test_steps_fill_the_time(
    times: list[tuple[float, float]], seeds: int, rates: int, share: float, workers: int
) -> None:
    """The sum over all jobs, one by one, is what there is, less a step's worth."""
    base = Job(Contestant("a"), 8, 0, "time", 1.0, 8, 8, 1, 0.0, 1, Source("text"))
    timed = {
        replace(base, width=8 * (i + 1)): {
            "seconds": once + 8 * step + 0.5,
            "seconds_per_step": step,
            "seconds_per_loss": 0.5,
        }
        for i, (step, once) in enumerate(times)
    }

    def takes(steps: float) -> float:
        total = 0.0
        for i, (step, once) in enumerate(times):
            total += seeds * (once + 20 * 0.5 + steps * step)
            if i == 0:
                total += rates * (once + 20 * 0.5 + steps / 2 * step)
        return total / workers

    seconds = takes(share)
    found = budget.steps(timed, {"a": seeds}, rates, seconds, workers)
    assert takes(found) <= seconds * (1 + 1e-9) < takes(found + 1.001)


@given(st.dictionaries(st.integers(-20, 5), st.floats(0, 10)), st.integers(-14, -2))
def test_tuning_ends_at_a_minimum(noise: dict[int, float], valley: int) -> None:
    def loss(exponent: int) -> float:
        return abs(exponent - valley) + noise.get(exponent, 0.0)

    losses: dict[int, float] = {}
    rounds = 0
    while missing := tuning.wanted(losses):
        assert not set(missing) & set(losses)
        losses |= {exponent: loss(exponent) for exponent in missing}
        rounds += 1
    found = tuning.best(losses)
    assert rounds <= 14 and tuning.LOWEST <= found <= tuning.HIGHEST
    assert losses[found] == min(losses.values())
    if not noise:
        assert found == valley


# What is asked for


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (12,)}, "a multiple of 8: not 12"),
        ({"widths": (16_384,)}, "--widths goes from 8 to 8192"),
        ({"widths": ()}, "there are 1 to 32 widths"),
        ({"depth": 0}, "--depth goes from 1 to 64: not 0"),
        ({"seeds": 0}, "--seeds goes from 1"),
        ({"steps": 0}, "--steps goes from 1"),
        ({"minutes": 5.0}, "not both"),
        ({"minutes": math.nan, "steps": None}, "--minutes goes from"),
        ({"lr": 0.0}, "--lr goes from"),
        ({"lr": math.inf}, "--lr goes from"),
        ({"experts": 1}, "--experts goes from 2"),
        ({"threads": 0}, "--threads goes from 1"),
        ({"auxiliary": -1.0}, "--auxiliary goes from 0"),
        ({"seeds_of": {"btt": 0}}, "--seeds-of btt goes from"),
        ({"seeds_of": {"monarch": 2}}, "there is no contestant `monarch`"),
        ({"task": "vision"}, "the task is one of"),
        ({"data": "a.txt"}, "takes no --data"),
        ({"specs": ["btt", "btt"]}, "two contestants are called `btt`"),
        ({"specs": ["btt(rank)"]}, "cannot read"),
        ({"specs": ["btt(rank=1, rank=2)"]}, "arguments are written"),
        ({"specs": ["btt(rank=x)"]}, "must be an integer"),
        ({"arguments": {"alpha": Fraction(1)}}, "no structure here has a parameter"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(replace(SMALL, **change))


def test_models_too_large_are_refused_before_any_file(tmp_path: Path) -> None:
    asked = replace(SMALL, widths=(8, 8192), depth=64)
    with pytest.raises(UsageError, match="parameters, and"):
        go_on(tmp_path / "new", Runner(), asked)
    assert not (tmp_path / "new").exists()


def test_a_structure_that_fits_no_width(tmp_path: Path) -> None:
    path = tmp_path / "fixed.ein"
    path.write_text("structure fixed { y[o] = x[i] * W[i, o]  i = 4  o = 8 }")
    with pytest.raises(SpecError):
        go_on(tmp_path / "new", Runner(), replace(SMALL, specs=[str(path)]))


def test_names_and_arguments() -> None:
    specs = ["btt", "btt(rank=3)", "low_rank(rank=1/2)", "btt_moe", "dense"]
    found = named(specs, {"rank": Fraction(2)}, 4)
    assert [one.name for one in found] == [
        "btt(rank=2)",
        "btt(rank=3)",
        "low_rank(rank=1/2)",
        "btt_moe",
    ]
    ranks = [one.structure.arguments.get("rank") for one in found if one.structure]
    assert ranks[:3] == ["2", "3", "1/2"]
    assert dict(found[3].arguments) == {"experts": "4"}
    check_names(found)


def test_names_that_files_do_not_tell_apart() -> None:
    for one, other in (("s(y_z=2)", "s_y(z=2)"), ("btt", "BTT")):
        with pytest.raises(UsageError, match="two contestants are called"):
            check_names([Contestant(one), Contestant(other)])
    long = Contestant("s" * 260 + "a"), Contestant("s" * 260 + "b")
    check_names(long)
    assert all(len(contestants.safe(one.name)) < 200 for one in long)


def test_settings_survive_json() -> None:
    found = settings(replace(SMALL, specs=["btt(rank=2)", "btt_moe"], minutes=None))
    assert Settings.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (8, 24)}, "the study has the widths 8, 16, not 8, 24"),
        ({"depth": 2}, "the study has the depth 1, not 2"),
        ({"steps": 50}, "the study has the steps 40, not 50"),
        ({"specs": ["btt", "monarch"]}, "the contestants dense, ffn_moe, btt, not"),
        ({"lr": 0.1}, "the study has the lr"),
        ({"task": "text", "specs": ()}, "another task"),
        ({"experts": 4, "specs": ()}, "the study has the experts 8, not 4"),
    ],
)
def test_a_study_keeps_its_settings(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path, Runner(0))
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(UsageError, match=message):
        go_on(tmp_path, Runner(), replace(SMALL, **change))
    assert (tmp_path / "study.json").read_bytes() == before


def test_what_is_left_out_is_as_it_was(tmp_path: Path) -> None:
    """Also beside options of the same kind that are given."""
    own = tmp_path / "own.txt"
    own.write_text("some text of my own, " * 5000)
    asked = replace(SMALL, task="text", data=str(own), seeds=5)
    stored = settings(replace(asked, steps=None, minutes=1.0))
    found = settings(Given(seeds_of={"btt": 7}, task="text", minutes=2.0), stored)
    assert found.seeds == stored.seeds | {"btt": 7} and stored.seeds["btt"] == 5
    assert found.source == stored.source


def test_a_changed_structure_is_another_study(tmp_path: Path) -> None:
    path = tmp_path / "own.ein"
    path.write_text("structure own { y[o] = x[i] * W[i, o] }")
    asked = replace(SMALL, specs=[str(path)])
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path / "study", Runner(0), asked)
    path.write_text("structure own { y[o] = x[i] * U[i, r] * V[r, o]  r = 2 }")
    with pytest.raises(UsageError, match="structures are not what they were"):
        go_on(tmp_path / "study", Runner(0), asked)


def test_until_the_steps_are_chosen_time_and_seeds_may_change(tmp_path: Path) -> None:
    timed = replace(SMALL, steps=None, minutes=0.1)
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path, Runner(3), timed)
    more = replace(timed, minutes=60.0, seeds=1)
    again = Runner()
    go_on(tmp_path, again, more)
    assert again.done and len([one for one in again.done if one.stage == "time"]) == 3
    with pytest.raises(UsageError, match=r"the minutes 60\.0, not 30\.0"):
        go_on(tmp_path, Runner(), replace(more, minutes=30.0))


def test_a_result_of_other_settings_is_refused(tmp_path: Path) -> None:
    go_on(tmp_path, Runner())
    (tmp_path / "study.json").unlink()
    with pytest.raises(
        UsageError, match=r"dense-8-0\.json` is not the result of its job"
    ):
        go_on(tmp_path, Runner(), replace(SMALL, specs=["btt"], lr=0.5, depth=5))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = Study(settings(SMALL), tmp_path)
    second = Study(settings(replace(SMALL, depth=4)), tmp_path)
    with first.prepared():
        with pytest.raises(UsageError, match="another process is at work"):
            second.prepared().__enter__()
        before = load(tmp_path)
    with pytest.raises(UsageError, match="another process began a study"):
        second.prepared().__enter__()
    assert load(tmp_path) == before


def test_another_torch_is_another_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on(tmp_path, Runner())
    monkeypatch.setattr("torch.__version__", "1.0")
    with pytest.raises(UsageError, match="begun with torch 2"):
        load(tmp_path)


DAMAGE: list[dict[str, Any]] = [
    {"depth": "x"},
    {"depth": 0},
    {"widths": "abc"},
    {"widths": [8.5]},
    {"widths": []},
    {"seeds": {}},
    {"seeds": {"dense": "x"}},
    {"steps": None, "minutes": None},
    {"steps": -5},
    {"task": {"kind": "foo", "file": "", "sha256": ""}},
    {"device": "tpu"},
    {"experts": -1},
    {"lr": math.nan},
    {"threads": 0},
    {"rates": {"dense": -1}},
    {"contestants": []},
]


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_damaged_settings(tmp_path: Path, damage: dict[str, Any]) -> None:
    go_on(tmp_path, Runner())
    study = tmp_path / "study.json"
    study.write_text(json.dumps(json.loads(study.read_text()) | damage))
    with pytest.raises(UsageError, match="not the description of a study"):
        load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"text": "structure a { y[o] = x[i] * W[i, o] } " * 2},
        {"arguments": {"r": "1/0"}},
    ],
    ids=str,
)
def test_damaged_structures(tmp_path: Path, damage: dict[str, Any]) -> None:
    go_on(tmp_path, Runner())
    study = tmp_path / "study.json"
    found = json.loads(study.read_text())
    found["contestants"][-1] |= damage
    study.write_text(json.dumps(found))
    with pytest.raises((UsageError, SpecError)):
        load(tmp_path)


@pytest.mark.parametrize("key", ["status", "log", "seconds", "digest"])
def test_results_without_a_part(tmp_path: Path, key: str) -> None:
    go_on(tmp_path, Runner())
    done = tmp_path / "jobs" / "btt-8-0.json"
    found = json.loads(done.read_text())
    del found[key]
    done.write_text(json.dumps(found))
    with pytest.raises(UsageError, match="remove it"):
        go_on(tmp_path, Runner())


def test_damaged_files(tmp_path: Path) -> None:
    go_on(tmp_path, Runner())
    done = tmp_path / "jobs" / "btt-8-0.json"
    whole = done.read_text()
    huge = json.loads(whole)
    huge["log"]["loss"][0] = 10**400
    wrong = json.dumps(huge), whole.replace("einc.scale-job/1", "x")
    for damage in (whole[:50], "[]", "{}", *wrong):
        done.write_text(damage)
        with pytest.raises(UsageError, match="remove it"):
            go_on(tmp_path, Runner())
    study = tmp_path / "study.json"
    whole = study.read_text()
    for damage in (whole[:100], "[]", "{}", whole.replace("einc.scale/1", "x")):
        study.write_text(damage)
        with pytest.raises(UsageError, match="not the description of a study"):
            load(tmp_path)


def test_names_of_files_are_their_own() -> None:
    base = Job(Contestant("a"), 8, 0, "run", 1.0, 8, 8, 1, 0.0, 1, Source("text"))
    different = [
        replace(base, contestant=Contestant(name), **change)
        for name in ("btt", "btt(rank=2)", "btt(rank=1/2)", "btt(rank=12)")
        for change in (
            {},
            {"width": 80},
            {"seed": 1},
            {"stage": "time"},
            {"stage": "tune"},
            {"stage": "tune", "lr": 0.5},
        )
    ]
    names = [one.name for one in different]
    assert len(set(names)) == len(names)
    assert all(contestants.safe(name) == name and "/" not in name for name in names)


# Processes


def work(one: Job) -> Result:
    match one.seed:
        case 1:
            raise ValueError("as asked")
        case 2:
            os._exit(3)
    time.sleep(0.01)
    return {"process": os.getpid(), "name": one.name}


def test_a_pool_does_every_job_whatever_happens() -> None:
    base = Job(Contestant("a"), 8, 0, "run", 1.0, 8, 8, 1, 0.0, 1, Source("text"))
    jobs = [replace(base, seed=seed) for seed in (2, 1, 0, 3, 4, 5)]
    with Pool(work, 2) as pool:
        found = dict(pool.run(jobs))
        again = dict(pool.run(jobs[2:]))
    assert set(found) == set(jobs)
    assert found[jobs[0]] == Failure("its process ended: status 3")
    failure = found[jobs[1]]
    assert isinstance(failure, Failure)
    assert failure.error == "ValueError: as asked" and "in work" in failure.story
    processes = set()
    for one in jobs[2:]:
        for outcome in (found[one], again[one]):
            assert isinstance(outcome, dict) and outcome["name"] == one.name
            processes.add(outcome["process"])
    assert os.getpid() not in processes and len(processes) <= 2
