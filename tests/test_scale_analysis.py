"""What `einc scale` concludes, on studies whose truth is known.

In a made study all contestants follow one law of loss, and each needs its own share of
the compute that dense layers need; noise makes that share another one in each seed.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einc.errors import UsageError
from einc.report import text
from einc.scale import figures, report, told
from einc.scale.claims import Claim, claims
from einc.scale.fits import Fit, fit, fit_shared
from einc.scale.frontier import Curve, Frontier, by_flops, by_parameters
from einc.scale.multiplier import (
    Bound,
    Estimate,
    Multiplier,
    Untold,
    compared,
    judged,
    t_quantile,
)
from einc.scale.results import Results, load
from einc.scale.summaries import Summary, summaries

WIDTHS = (64, 128, 256)
STEPS = tuple(round(10 * 1.3**i) for i in range(20))


@dataclass(frozen=True)
class Made:
    """A contestant that needs `1 / speed` of dense layers' compute at equal loss."""

    speed: float = 1.0
    seeds: int = 5
    noise: float = 0.0
    kind: str = "structure"
    omega: str | None = "0"
    psi: str | None = "1"
    routed: bool = False
    size: float = 1.0
    worse: float = 1.0
    diverges: frozenset[tuple[int, int]] = field(default_factory=frozenset)


DENSE = Made(kind="dense")
FFN_MOE = Made(kind="ffn_moe", omega=None, psi=None, routed=True)


def law(width: int, flops: float) -> float:
    """Loss over dense layers' compute: each width is best in the middle of its run."""
    best_at = 4.5e12 * width**2
    away = math.log(flops / best_at)
    return 1.5 + 2 * (flops / 1e16) ** -0.2 * (1 + 0.01 * away**2)


def make(
    folder: Path, contestants: Mapping[str, Made], widths: Iterable[int] = WIDTHS
) -> Path:
    """Writes a study."""
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    study = {
        "schema": "einc.scale/1",
        "task": {"name": "made"},
        "contestants": [
            {
                "name": name,
                "text": "",
                "kind": made.kind,
                "omega": made.omega,
                "psi": made.psi,
                "nu": None,
                "routed": made.routed,
            }
            for name, made in contestants.items()
        ],
        "widths": list(widths),
        "seeds": {name: made.seeds for name, made in contestants.items()},
    }
    (folder / "study.json").write_text(json.dumps(study))
    random = np.random.default_rng(1)
    for name, made in contestants.items():
        for seed in range(made.seeds):
            luck = math.exp(made.noise * random.standard_normal())
            for width in widths:
                job = _job(name, made, width, seed, luck)
                path = folder / "jobs" / f"{name}-{width}-{seed}.json"
                path.write_text(json.dumps(job))
    return folder


def _job(name: str, made: Made, width: int, seed: int, luck: float) -> dict[str, Any]:
    step = 10**10 * width**2
    losses = [made.worse * law(width, step * n * luck) for n in STEPS]
    total = round(width**2 * made.size)
    flops = round(step / made.speed)
    diverged = (width, seed) in made.diverges
    return {
        "schema": "einc.scale-job/1",
        "stage": "run",
        "contestant": name,
        "width": width,
        "seed": seed,
        "lr": 0.003,
        "status": "diverged" if diverged else "finished",
        "parameters": {"total": total, "active": total // (4 if made.routed else 1)},
        "flops_per_step": flops,
        "log": {
            "step": list(STEPS),
            "flops": [flops * n for n in STEPS],
            "loss": [*losses[:5], *[None] * (len(STEPS) - 5)] if diverged else losses,
        },
        "seconds": 1.0,
    }


Study = Callable[..., Results]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Makes a study of contestants given by name, and reads it."""

    def made(widths: Iterable[int] = WIDTHS, **contestants: Made) -> Results:
        return load(make(tmp_path, contestants, widths))

    return made


def summary(results: Results, name: str) -> Summary:
    return next(one for one in summaries(results) if one.contestant.name == name)


def change(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


# Files


def test_runs_are_read(study: Study):
    results = study(dense=DENSE, btt=Made(size=0.5))
    assert len(results.runs) == 2 * 3 * 5
    run = results.runs[0]
    assert (run.contestant, run.width, run.seed, run.lr) == ("btt", 64, 0, 0.003)
    assert (run.parameters_total, run.parameters_active) == (2048, 2048)
    assert run.steps == STEPS
    assert run.flops[0] == 10**11 * 64**2
    assert not run.diverged and not results.missing and not results.failures


def test_other_stages_are_passed_over(study: Study, tmp_path: Path):
    study(dense=DENSE)
    change(tmp_path / "jobs/dense-64-0.json", stage="tune", status="whatever")
    assert load(tmp_path).missing == [("dense", 64, 0)]


def test_failures_count_until_there_is_a_result(study: Study, tmp_path: Path):
    study(dense=DENSE)
    failed = {"schema": "einc.scale-job/1", "error": "Traceback\nOSError: full"}
    for name in ("dense-64-0", "dense-64-1"):
        (tmp_path / f"jobs/{name}.failed.json").write_text(json.dumps(failed))
    (tmp_path / "jobs/dense-64-1.json").unlink()
    results = load(tmp_path)
    assert [one.name for one in results.failures] == ["dense-64-1"]
    lines = told.left_out(results, summaries(results))
    assert lines[0] == "failed: dense-64-1: OSError: full"
    assert lines[1] == "without a result: dense, width 64, seed 1"
    assert lines[2].startswith("not used: seed 1 of dense")


@pytest.mark.parametrize("cut", [[], [3.0, None], [3.0, math.nan], [3.0, math.inf]])
def test_diverged_runs_end_where_the_loss_does(
    study: Study, tmp_path: Path, cut: list[float]
):
    study(dense=DENSE)
    log = {"step": [1, 2][: len(cut)], "flops": [5, 9][: len(cut)], "loss": cut}
    change(tmp_path / "jobs/dense-64-0.json", status="diverged", log=log)
    run = load(tmp_path).runs[0]
    assert run.diverged
    assert run.losses == tuple(cut[:1])


DAMAGE = {
    "a schema": {"schema": "einc.scale-job/0"},
    "a status": {"status": "good"},
    "a width": {"width": "64"},
    "a width of none": {"width": 0},
    "a seed": {"seed": -1},
    "a rate": {"lr": None},
    "a stranger": {"contestant": "nobody"},
    "twice": {"seed": 1},
    "parameters": {"parameters": {"total": 10}},
    "active parameters": {"parameters": {"total": 10, "active": 11}},
    "no log": {"log": None},
    "no losses": {"log": {"step": [], "flops": [], "loss": []}},
    "lengths": {"log": {"step": [1], "flops": [1], "loss": [1.0, 2.0]}},
    "a loss": {"log": {"step": [1], "flops": [1], "loss": [math.nan]}},
    "no number": {"log": {"step": [1], "flops": [1], "loss": ["1"]}},
    "a loss below zero": {"log": {"step": [1], "flops": [1], "loss": [-1.0]}},
    "steps": {"log": {"step": [2, 1], "flops": [1, 2], "loss": [2.0, 1.0]}},
    "FLOPs": {"log": {"step": [1, 2], "flops": [1, 1.5], "loss": [2.0, 1.0]}},
}


@pytest.mark.parametrize("changes", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_job_is_named(study: Study, tmp_path: Path, changes: dict[str, Any]):
    study(dense=DENSE)
    change(tmp_path / "jobs/dense-64-0.json", **changes)
    with pytest.raises(UsageError, match=r"dense-64-[01]\.json` is damaged: ."):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\0", "[" * 100_000])
@pytest.mark.parametrize("name", ["study.json", "jobs/dense-64-0.json"])
def test_a_file_that_is_no_document(
    study: Study, tmp_path: Path, name: str, content: str
):
    study(dense=DENSE)
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match="is damaged"):
        load(tmp_path)


CONTESTANT = {"name": "a", "text": "", "omega": None, "psi": None, "nu": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"contestants": [CONTESTANT]},
        {"contestants": [{**CONTESTANT, "kind": "other", "routed": False}]},
        {"contestants": 2 * [{**CONTESTANT, "kind": "dense", "routed": False}]},
        {"widths": ["64"]},
        {"widths": None},
        {"seeds": {}},
        {"seeds": {"dense": 0.5}},
    ],
)
def test_a_damaged_study_is_named(
    study: Study, tmp_path: Path, changes: dict[str, Any]
):
    study(dense=DENSE)
    change(tmp_path / "study.json", **changes)
    with pytest.raises(UsageError, match=r"study\.json` is damaged: ."):
        load(tmp_path)


def test_no_study(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path)


# Frontiers


@st.composite
def frontiers(draw: st.DrawFn) -> Frontier:
    curves = []
    for width in range(draw(st.integers(1, 4))):
        costs = draw(st.sets(st.integers(1, 1000), min_size=1, max_size=8))
        losses = [draw(st.floats(0.1, 10)) for _ in costs]
        curves.append(Curve.of(width, sorted(costs), losses))
    return Frontier(tuple(curves))


@given(frontiers())
def test_no_logged_point_is_below_the_envelope(frontier: Frontier):
    """And the envelope holds a logged point, or one between two of one run."""
    for curve in frontier.curves:
        assert (frontier.loss(curve.costs) <= curve.losses).all()
        assert (frontier.cost(curve.losses) <= curve.costs * (1 + 1e-9))[
            curve.losses <= frontier.highest
        ].all()
    costs = np.geomspace(frontier.cheapest, frontier.spent, 50)[1:-1]
    # A single point is rounded to beside itself.
    costs = np.clip(costs, frontier.cheapest, frontier.spent)
    losses = frontier.loss(costs)
    assert (np.diff(losses) <= 1e-12).all()
    assert (frontier.lowest <= losses).all() and (losses <= frontier.highest).all()
    for cost, loss in zip(costs, losses, strict=True):
        one_run = [Frontier((curve,)) for curve in frontier.curves]
        reached = [
            float(one.loss(min(cost, one.spent)))
            for one in one_run
            if one.cheapest <= cost
        ]
        assert loss == pytest.approx(min(reached))


@given(frontiers(), st.floats(0.05, 12))
def test_the_cost_of_a_loss_is_where_the_envelope_reaches_it(
    frontier: Frontier, loss: float
):
    cost = float(frontier.cost(loss))
    if not frontier.lowest <= loss <= frontier.highest:
        assert math.isnan(cost)
        return
    ends = frontier.cheapest, frontier.spent
    assert float(frontier.loss(np.clip(cost * (1 + 1e-9), *ends))) <= loss + 1e-6
    if cost * (1 - 1e-6) > frontier.cheapest:
        assert float(frontier.loss(cost * (1 - 1e-6))) >= loss - 1e-9


def test_costs_are_interpolated_in_their_logarithm():
    frontier = Frontier((Curve.of(8, [1, 100], [3.0, 1.0]),))
    assert float(frontier.cost(2.0)) == pytest.approx(10)
    assert float(frontier.loss(10.0)) == pytest.approx(2)
    assert np.isnan(frontier.loss(np.array([0.9, 101.0]))).all()
    assert np.isnan(frontier.cost(np.array([0.9, 3.1]))).all()


def test_a_frontier_is_of_the_best_width():
    small = Curve.of(8, [1, 10, 100], [3.0, 2.0, 1.9])
    large = Curve.of(16, [10, 100, 1000], [2.5, 1.5, 1.0])
    frontier = Frontier((small, large))
    costs, losses = frontier.points()
    assert costs.tolist() == [1, 10, 100, 1000]
    assert losses.tolist() == [3.0, 2.0, 1.5, 1.0]
    assert frontier.widths(np.array([2.5, 2.1, 1.5])).tolist() == [8, 8, 16]
    # Between 10 and 100 FLOPs the lines cross.
    assert float(frontier.loss(30.0)) == pytest.approx(
        min(2.0 - 0.1 * math.log10(3), 2.5 - math.log10(3))
    )


def test_where_the_best_width_is_inside_of_those_trained():
    curves = [
        Curve.of(width, [cost, 10 * cost], [loss, loss - 1.5])
        for width, cost, loss in ((8, 1, 4.0), (16, 10, 3.0), (32, 100, 2.0))
    ]
    one = Frontier(tuple(curves))
    # Each begins where the one before it ends, which is better up to there.
    losses = np.array([3.5, 3.1, 2.9, 2.1, 1.9, 0.6])
    assert one.widths(losses).tolist() == [8, 8, 8, 16, 16, 32]
    assert one.is_inside(losses).tolist() == [False] * 3 + [True] * 2 + [False]


def test_the_beginning_of_a_run_is_left_out(study: Study):
    results = study(dense=DENSE)
    for curve in by_flops(results, "dense")[0].curves:
        assert curve.costs[0] >= 0.1 * curve.costs[-1] > 0.1 * curve.costs[0]
        assert curve.costs[-1] == STEPS[-1] * 10**10 * curve.width**2


def test_a_seed_without_all_widths_has_no_frontier(study: Study, tmp_path: Path):
    study(dense=DENSE)
    (tmp_path / "jobs/dense-128-3.json").unlink()
    assert list(by_flops(load(tmp_path), "dense")) == [0, 1, 2, 4]
    # Where no seed has it, the others are compared as they are.
    for path in tmp_path.glob("jobs/dense-128-*.json"):
        path.unlink()
    assert list(by_flops(load(tmp_path), "dense")) == [0, 1, 2, 3, 4]


def test_a_diverged_run_adds_nothing_to_its_frontier(study: Study):
    results = study(dense=DENSE, btt=Made(diverges=frozenset([(256, 2)])))
    of = by_flops(results, "btt")
    assert [curve.width for curve in of[2].curves] == [64, 128]
    assert list(of) == [0, 1, 2, 3, 4]
    assert "diverged: btt, width 256, seed 2" in told.left_out(results, [])[0]


# Fits


@settings(max_examples=60, deadline=None)
@given(
    E=st.floats(0, 5), A=st.floats(0.1, 5), b=st.floats(0.05, 1.5), k=st.integers(0, 20)
)
def test_an_exact_law_is_found(E: float, A: float, b: float, k: int):
    unit = 10.0**k
    costs = np.geomspace(0.1, 1e3, 12) * unit
    losses = E + A * (costs / unit) ** -b
    found = fit(costs, losses, unit)
    assert found is not None and found.determined
    wanted = E, A, b
    assert (found.E, found.A, found.b) == pytest.approx(wanted, rel=1e-2, abs=2e-2)
    assert found(costs) == pytest.approx(losses, rel=1e-4)
    assert found.error < 1e-4


def test_a_noisy_law_is_found_within_its_noise():
    random = np.random.default_rng(0)
    costs = np.geomspace(1e-2, 1e3, 200)
    exact = 2 + 1.5 * costs**-0.3
    found = []
    for _ in range(20):
        noisy = exact * np.exp(0.01 * random.standard_normal(200))
        one = fit(costs, noisy, 1.0)
        assert one is not None and one.error == pytest.approx(0.01, rel=0.2)
        found.append((one.E, one.A, one.b))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / 20**0.5
    assert (np.abs(mean - [2, 1.5, 0.3]) < 4 * error + 1e-3).all()
    assert (error < 0.02).all()


def test_no_other_parameters_fit_better():
    """Against a fine grid, on losses that follow no law."""
    costs = np.geomspace(1, 1e3, 10)
    losses = np.array([5, 4, 3.9, 3, 2.4, 2.3, 2.2, 1.5, 1.45, 1.4])
    found = fit(costs, losses, 1.0)
    assert found is not None
    for E in np.linspace(0, 1.4, 60):
        for b in np.geomspace(0.01, 4, 120):
            powers = costs**-b / losses
            A = powers @ (1 - E / losses) / (powers @ powers)
            error = np.sqrt(np.mean((E / losses + A * powers - 1) ** 2))
            assert found.error <= error + 1e-9


def test_a_shared_E_is_found_and_shared():
    costs = np.geomspace(1, 1e4, 15)
    laws = [(1.0, 0.2), (3.0, 0.3), (0.5, 0.6)]
    points = [(costs, 2 + A * costs**-b) for A, b in laws]
    found = fit_shared([*points, (costs[:3], points[0][1][:3])], 1.0)
    assert found[3] is None
    for one, (A, b) in zip(found[:3], laws, strict=True):
        assert one is not None
        assert (one.E, one.A, one.b) == pytest.approx((2, A, b), rel=1e-3)


def test_a_shared_E_is_a_compromise():
    costs = np.geomspace(1, 1e4, 15)
    points = [(costs, E + costs**-0.5) for E in (1.0, 1.2)]
    first, second = fit_shared(points, 1.0)
    assert first is not None and second is not None
    assert first.E == second.E
    assert 1 < first.E <= 1.2
    assert max(first.error, second.error) > 1e-3


def test_three_points_are_no_fit():
    costs = np.array([1.0, 2.0, 4.0])
    assert fit(costs, 1 / costs, 1.0) is None


def test_an_undetermined_exponent_is_known():
    costs = np.geomspace(1, 10, 6)
    found = fit(costs, 1 + np.exp(-10 * costs), 1.0)
    assert found is not None and not found.determined
    assert Fit(1, 1, 0.3, 1.0, 0).determined


# Multipliers


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0, 3.7])
def test_an_exact_multiplier_is_found(study: Study, speed: float):
    results = study(dense=DENSE, btt=Made(speed))
    found = summary(results, "btt").compute["dense"]
    assert isinstance(found, Multiplier)
    for one in (found.mean, found.at_lowest):
        assert (one.mean, one.low, one.high) == pytest.approx((speed,) * 3, rel=1e-3)
    frontier = by_flops(results, "dense")[0]
    assert found.losses == pytest.approx((frontier.lowest, frontier.highest))
    # The ends of the range are of the widths 64 and 256.
    assert 0.2 < found.inside < 0.5


def test_the_mean_is_uniform_in_the_logarithm_of_the_cost():
    losses = [3.0, 2.9, 1.0]
    dense = Frontier((Curve.of(8, [1, 1e4, 1e6], losses),))
    other = Frontier((Curve.of(8, [1, 1e2, 1e4], losses),))
    found = compared({0: other}, {0: dense})
    # Down to 2.9, where both have three decades of five in the mean, the multiplier
    # rises from 1 to 100, and there it stays.
    assert isinstance(found, Multiplier)
    assert math.log10(found.mean.mean) == pytest.approx(1 * 3 / 5 + 2 * 2 / 5)
    assert found.at_lowest.mean == pytest.approx(100)
    assert found.losses == (1.0, 3.0)


@given(st.lists(frontiers(), min_size=2, max_size=6))
def test_the_inverse_comparison_is_the_inverse(found: list[Frontier]):
    half = len(found) // 2
    one = dict(enumerate(found[:half]))
    other = dict(enumerate(found[half : 2 * half]))
    there, back = compared(one, other), compared(other, one)
    assert type(there) is type(back)
    if isinstance(there, Multiplier) and isinstance(back, Multiplier):
        assert there.losses == back.losses
        for a, b in ((there.mean, back.mean), (there.at_lowest, back.at_lowest)):
            ends = 1 / b.mean, 1 / b.high, 1 / b.low
            assert (a.mean, a.low, a.high) == pytest.approx(ends, rel=1e-6)
    if isinstance(there, Bound) and isinstance(back, Bound):
        assert {there.side, back.side} == {"at least", "at most"}
        assert there.factor == pytest.approx(1 / back.factor)


@given(st.lists(frontiers(), min_size=2, max_size=6))
def test_a_multiplier_is_one_of_those_at_the_losses_it_is_of(found: list[Frontier]):
    half = len(found) // 2
    one, other = found[:half], found[half : 2 * half]
    comparison = compared(dict(enumerate(one)), dict(enumerate(other)))
    if not isinstance(comparison, Multiplier):
        return
    low, high = comparison.losses
    losses = np.linspace(low, high, 999)
    ratios = np.array(
        [b.cost(losses) / a.cost(losses) for a, b in zip(one, other, strict=True)]
    )
    assert np.isfinite(ratios).all()
    # Where a frontier jumps the grid may miss an extreme.
    assert ratios.min() / 2 < comparison.mean.mean < 2 * ratios.max()
    ends = ratios[:, 0].min(), ratios[:, 0].max()
    assert ends[0] * 0.999 < comparison.at_lowest.mean < ends[1] * 1.001


@pytest.mark.parametrize("together", [False, True])
def test_the_interval_covers_the_truth_as_often_as_it_says(together: bool):
    """Whether the seeds of both contestants have the same luck or not."""
    random = np.random.default_rng(3)
    costs = np.geomspace(1e3, 1e6, 12)
    losses = 1 + (costs / 1e3) ** -0.2

    def frontier(speed: float, luck: float) -> Frontier:
        shifted = costs / speed * math.exp(luck)
        return Frontier((Curve.of(8, shifted.tolist(), losses.tolist()),))

    covered = 0
    for _ in range(400):
        common = 0.3 * random.standard_normal(5) * together
        own, other = 0.1 * random.standard_normal((2, 5)) + common
        found = compared(
            {seed: frontier(2.0, luck) for seed, luck in enumerate(own)},
            {seed: frontier(1.0, luck) for seed, luck in enumerate(other)},
        )
        assert isinstance(found, Multiplier)
        covered += found.mean.low <= 2 <= found.mean.high
    # 380 are expected; the standard deviation is 4.4.
    assert 362 <= covered <= 398


def test_few_seeds_have_extremes_and_no_verdict(study: Study):
    results = study(dense=DENSE, btt=Made(2.0, seeds=3, noise=0.1))
    found = summary(results, "btt").compute["dense"]
    assert isinstance(found, Multiplier)
    assert found.mean.seeds == 3 and not found.mean.is_interval
    assert 1 < found.mean.low < found.mean.mean < found.mean.high
    assert found.verdict == "cannot be told"
    sentence = told.sentence("btt", "dense", found)
    assert "in 3 seeds: no interval)" in sentence and "95%" not in sentence


def test_frontiers_without_a_common_loss_give_a_bound(study: Study):
    results = study(dense=Made(kind="dense", worse=3.0), btt=Made(speed=10.0))
    found = summary(results, "btt").compute["dense"]
    assert isinstance(found, Bound) and found.side == "at least"
    dense, btt = by_flops(results, "dense")[0], by_flops(results, "btt")[0]
    assert dense.lowest > btt.highest
    assert found.factor == pytest.approx(dense.spent / btt.cheapest)
    assert found.loss == pytest.approx(btt.highest)
    assert found.verdict == "win"
    inverse = summary(study(dense=DENSE, btt=Made(0.1, worse=3.0)), "btt")
    back = inverse.compute["dense"]
    assert isinstance(back, Bound) and back.side == "at most"
    assert back.verdict == "loss"
    share = 1 / found.factor
    assert told.sentence("btt", "dense", found) == (
        f"btt needs at most {told.digits(share)}x of dense's compute for a loss of "
        f"{told.digits(found.loss)}, which dense does not reach (5 seeds)"
    )


def test_a_bound_is_of_a_loss_that_all_seeds_ahead_reach():
    """Each seed's own first loss would promise more than is known of the others'."""
    ahead = {
        0: Frontier((Curve.of(8, [1, 100], [2.0, 1.0]),)),
        1: Frontier((Curve.of(8, [1, 100], [1.5, 0.5]),)),
    }
    behind = {seed: Frontier((Curve.of(8, [1, 1000], [5.0, 3.0]),)) for seed in ahead}
    assert compared(ahead, behind) == Bound("at least", pytest.approx(100), 1.5, 2)
    assert compared(behind, ahead) == Bound("at most", pytest.approx(0.01), 1.5, 2)


def test_one_loss_in_common_is_enough():
    point = Frontier((Curve.of(8, [10], [2.0]),))
    line = Frontier((Curve.of(8, [1, 100], [3.0, 1.0]),))
    for one, other, factor in ((point, line, 1.0), (line, point, 1.0)):
        found = compared({0: one}, {0: other})
        assert isinstance(found, Multiplier) and found.losses == (2.0, 2.0)
        assert found.mean.mean == pytest.approx(factor)
    dearer = Frontier((Curve.of(8, [40], [2.0]),))
    found = compared({0: dearer}, {0: line})
    assert isinstance(found, Multiplier)
    assert found.mean.mean == pytest.approx(1 / 4)


def test_a_bound_counts_what_was_spent_in_vain():
    ahead = {0: Frontier((Curve.of(8, [1], [1.0]),))}
    behind = {0: Frontier((Curve.of(8, [10, 20, 70], [3.0, 2.0, 2.5]),))}
    assert compared(ahead, behind) == Bound("at least", 70, 1.0, 1)


def test_seeds_that_disagree_say_nothing():
    def at(loss: float) -> Frontier:
        return Frontier((Curve.of(8, [1, 2], [loss, loss - 1]),))

    found = compared({0: at(9), 1: at(2)}, {0: at(5), 1: at(6)})
    assert isinstance(found, Untold) and "no loss" in found.reason
    assert isinstance(compared({}, {0: at(1)}), Untold)
    assert isinstance(compared({0: at(1)}, {}), Untold)
    assert isinstance(compared({0: at(1)}, {1: at(1)}), Untold)


def test_only_seeds_of_both_are_compared(study: Study):
    results = study(dense=Made(kind="dense", seeds=7), btt=Made(2.0, seeds=5))
    found = summary(results, "btt").compute["dense"]
    assert isinstance(found, Multiplier) and found.mean.seeds == 5


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.95, 1.05, "match"),
        (1.02, 1.08, "match"),
        (1.02, 1.3, "win"),
        (1.5, 2.0, "win"),
        (0.5, 0.95, "loss"),
        (0.8, 1.05, "cannot be told"),
        (0.95, 1.4, "cannot be told"),
    ],
)
def test_verdicts(low: float, high: float, verdict: str):
    middle = (low * high) ** 0.5
    assert judged(Estimate(middle, low, high, 5)) == verdict
    assert judged(Estimate(middle, low, high, 4)) == "cannot be told"


def test_a_verdict_that_depends_on_the_loss_is_none():
    win, loss = Estimate(2, 1.9, 2.1, 5), Estimate(0.5, 0.4, 0.6, 5)
    assert Multiplier(win, win, (1, 2), 1.0).verdict == "win"
    assert Multiplier(win, loss, (1, 2), 1.0).verdict == "cannot be told"


def test_estimates():
    found = Estimate.of([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * (2.5 / 5) ** 0.5
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert Estimate.of([4.0]) == Estimate(4.0, 4.0, 4.0, 1)
    ratio = Estimate.of_logarithms([math.log(2), math.log(8)])
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((4, 2, 8))


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(4, 2.776445), (7, 2.364624), (30, 2.042272)]
)
def test_t_quantiles(freedom: int, quantile: float):
    assert t_quantile(freedom) == pytest.approx(quantile, rel=1e-6)


def test_parameters_are_compared_for_routed_contestants(study: Study):
    results = study(dense=DENSE, moe=Made(routed=True, size=4.0), ffn_moe=FFN_MOE)
    found = summary(results, "moe")
    assert summary(results, "dense").size == {}
    assert set(found.size) == {"dense", "ffn_moe"}
    against = found.size["dense"]
    assert isinstance(against, Multiplier)
    assert against.mean.mean == pytest.approx(0.25)
    assert against.verdict == "loss"
    frontier = by_parameters(results, "moe")[0]
    assert frontier.cheapest == 4 * 64**2 and frontier.spent == 4 * 256**2


# Claims


def standings(results: Results) -> list[str]:
    return [claim.standing for claim in claims(summaries(results))]


def about(claim: Claim) -> set[tuple[str, str]]:
    return {(finding.contestant, finding.baseline) for finding in claim.findings}


def test_claims_are_about_structures_by_their_exponents(study: Study):
    results = study(
        dense=DENSE,
        ffn_moe=FFN_MOE,
        moe_everywhere=Made(kind="moe_everywhere", routed=True),
        low_rank=Made(),
        btt=Made(0.5, omega="1/2"),
        full=Made(0.5, psi="1/2"),
        fixed=Made(omega=None, psi=None),
        routed=Made(2.0, routed=True),
        routed_low=Made(2.0, psi="1/2", routed=True),
    )
    first, second, third, fourth = claims(summaries(results))
    assert about(first) == {("low_rank", "dense")}
    assert about(second) == {("btt", "dense"), ("full", "dense")}
    assert about(third) == {("routed", "dense")}
    assert about(fourth) == {("routed", "ffn_moe"), ("routed", "moe_everywhere")}
    assert standings(results) == 4 * ["holds"]


def test_claims_that_do_not_hold(study: Study):
    results = study(
        dense=DENSE,
        ffn_moe=Made(3.0, kind="ffn_moe", omega=None, psi=None, routed=True),
        slow=Made(0.5),
        fast=Made(2.0),
        shared=Made(1.0, omega="1/2"),
        routed=Made(1.0, routed=True),
    )
    first, *_ = claims(summaries(results))
    assert {f.contestant: f.standing for f in first.findings} == {
        "slow": "does not hold",
        "fast": "holds",
    }
    assert standings(results) == 4 * ["does not hold"]


def test_claims_that_cannot_be_told(study: Study):
    noisy = Made(1.0, noise=1.0)
    results = study(dense=DENSE, a=noisy, b=Made(0.5, omega="1/2", seeds=2))
    assert standings(results) == 4 * ["cannot be told"]
    third = claims(summaries(results))[2]
    assert told.findings(third) == ["no contestant of this study is of this kind"]


def test_one_seed_that_cannot_be_told_is_not_held_against_others(study: Study):
    results = study(dense=DENSE, a=Made(), b=Made(seeds=2))
    assert standings(results)[0] == "cannot be told"


# Reports


FULL = {
    "dense": DENSE,
    "ffn_moe": FFN_MOE,
    "btt": Made(1.7, noise=0.1),
    "kronecker": Made(0.5, omega="1/2", noise=0.1),
    "btt_moe": Made(3.0, routed=True, size=2.0, noise=0.1),
}


def everything(results: Results) -> tuple[str, str, dict[str, Any]]:
    """All three reports, and that figures are drawn."""
    document = report.to_json(results)
    assert json.loads(json.dumps(document, allow_nan=False)) is not None
    assert figures.scaling(results, "svg").startswith(b"<?xml")
    shown, written = text(report.table(results)), report.markdown(results)
    for words in (shown, written):
        assert not re.search(r"\b(nan|inf)\b", words)
    return shown, written, document


def test_a_report_has_all_parts(study: Study):
    shown, written, document = everything(study(**FULL))
    for name in FULL:
        assert f"| {name} |" in written
        assert f"\n{name} " in f"\n{shown}"
    titles = [line[3:] for line in written.splitlines() if line.startswith("## ")]
    assert titles == [
        "Configuration",
        "Contestants",
        "Compute at equal loss",
        "Total parameters at equal loss",
        "Scaling laws",
        "Claims",
        "What these runs cannot say",
        "Left out",
    ]
    assert '| task | {"name": "made"} |' in written
    assert "Nothing: every job has finished." in written
    assert document["schema"] == "einc.scale-report/1"
    assert [claim["standing"] for claim in document["claims"]] == 4 * ["holds"]
    btt = next(one for one in document["contestants"] if one["name"] == "btt")
    found = btt["compute_multiplier"]["dense"]
    assert found["mean"]["low"] < 1.7 < found["mean"]["high"]
    assert found["verdict"] == "win"
    assert btt["parameters"]["64"] == {"total": 4096, "active": 4096}
    assert btt["fit_shared_E"]["E"]["mean"] == pytest.approx(1.5, abs=0.15)
    assert btt["fit_shared_E"]["b"]["mean"] == pytest.approx(0.2, abs=0.03)


def test_a_sentence_has_the_figures(study: Study):
    results = study(dense=DENSE, btt=Made(2.0))
    low, high = (
        told.digits(getattr(by_flops(results, "dense")[0], end))
        for end in ("lowest", "highest")
    )
    share = "0.500x (0.500x to 0.500x, 95%)"
    sentence = (
        f"btt needs {share} of dense's compute at equal loss over {low} to {high}, "
        f"and {share} at the lowest"
    )
    assert told.findings(claims(summaries(results))[0]) == [f"holds: {sentence}"]
    assert f"- {sentence}" in report.markdown(results)
    assert f"  holds: {sentence}" in text(report.table(results)).splitlines()


def test_a_sentence_has_the_inverse_of_the_interval():
    found = Estimate(2.0, 1.6, 2.5, 5)
    comparison = Multiplier(found, found, (1, 2), 1.0)
    assert told.sentence("btt", "dense", comparison).startswith(
        "btt needs 0.500x (0.400x to 0.625x, 95%) of dense's compute"
    )


def test_tables_of_markdown_are_tables(study: Study):
    lines = report.markdown(study(**{"dense": DENSE, "a|b": Made()})).splitlines()
    rows = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert any("ab" in row for row in rows)
    for above, row in itertools.pairwise(lines):
        if above.startswith("|") and row.startswith("|"):
            counts = [line.replace("\\|", "").count("|") for line in (above, row)]
            assert counts[0] == counts[1]


def test_one_seed(study: Study):
    one = {name: Made(1.0, seeds=1, kind=kind) for name, kind in (("dense", "dense"),)}
    shown, written, document = everything(study(**one, btt=Made(2.0, seeds=1)))
    assert "btt needs 0.500x (one seed: no interval) of dense's compute" in written
    assert document["claims"][0]["standing"] == "cannot be told"
    assert "no interval and no verdict: dense, btt" in written
    assert "2.00x" in shown and "2.00x [" not in shown


def test_one_width(study: Study):
    results = study(widths=(64,), dense=DENSE, btt=Made(2.0), m=Made(routed=True))
    _, written, _ = everything(results)
    found = summary(results, "btt").compute["dense"]
    assert isinstance(found, Multiplier)
    assert found.mean.mean == pytest.approx(2, rel=1e-3)
    assert "widest over this share of the range: btt against dense 0%" in written
    # One size a contestant, of one loss.
    of_size = summary(results, "m").size["dense"]
    assert isinstance(of_size, Multiplier)
    assert of_size.mean == of_size.at_lowest and of_size.mean.mean == 1.0


def test_a_missing_baseline(study: Study):
    _, written, document = everything(study(btt=Made(), m=Made(routed=True)))
    assert "btt against dense: nothing, since the study has no dense" in written
    assert [claim["standing"] for claim in document["claims"]] == 4 * ["cannot be told"]


def test_a_baseline_without_runs(study: Study, tmp_path: Path):
    study(dense=DENSE, btt=Made())
    for path in tmp_path.glob("jobs/dense-*.json"):
        path.unlink()
    _, written, _ = everything(load(tmp_path))
    assert "btt against dense: nothing, since the baseline has no finished runs" in (
        written
    )
    assert "without a result: dense, width 64, seed 0, 1, 2, 3, 4" in written


def test_a_study_before_its_first_run(study: Study, tmp_path: Path):
    study(dense=DENSE, btt=Made())
    for path in tmp_path.glob("jobs/*.json"):
        path.unlink()
    _, written, _ = everything(load(tmp_path))
    assert "No frontier has enough points for a fit." in written


def test_diverged_runs_are_told(study: Study):
    all_widths = frozenset((width, 1) for width in WIDTHS)
    made = Made(2.0, diverges=frozenset([(256, 0)]) | all_widths)
    shown, written, document = everything(study(dense=DENSE, btt=made))
    line = "diverged: btt, width 256, seed 0, after 29 steps, at rate 0.003"
    assert line in shown and f"- {line}" in written and line in document["left_out"]
    assert any("not used: seed 1 of btt" in told for told in document["left_out"])


# Figures


def test_equal_studies_are_equal_files(study: Study, tmp_path: Path):
    first = study(**FULL)
    again = load(tmp_path)
    for file_format in ("svg", "png", "pdf"):
        drawn = figures.scaling(first, file_format)
        assert drawn == figures.scaling(again, file_format)


def test_contestants_are_told_apart_without_colour():
    looks = [(look["linestyle"], look["marker"]) for look in figures._looks()]
    assert len(looks) == len(set(looks)) >= 40


def test_a_figure_has_every_run_and_every_frontier(
    study: Study, monkeypatch: pytest.MonkeyPatch
):
    drawn = []
    monkeypatch.setattr(figures.plots, "saved", lambda figure, _: drawn.append(figure))
    results = study(**FULL)
    figures.scaling(results, "svg")
    flops, parameters = drawn[0].axes
    assert [t.get_text() for t in flops.get_legend().get_texts()] == list(FULL)
    thin = [line for line in flops.lines if line.get_linewidth() < 1]
    assert len(thin) == len(results.runs)
    frontier = next(line for line in flops.lines if line.get_label() == "dense")
    costs, losses = frontier.get_data()
    assert losses == pytest.approx(by_flops(results, "dense")[0].loss(costs))
    assert len(parameters.containers) == len(FULL)
