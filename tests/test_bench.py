"""`einc bench`: that it measures what it says, and says what it measured.

No test looks at a time: clocks are faked where times matter.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import terminal
import torch
from terminal import Ended
from torch import nn

from einc import asked, bench_report, calibration, compiler, library, predict
from einc.analysis.profile import Profile
from einc.calibration import Calibration, Machine
from einc.errors import InternalError, UsageError
from einc.nn import bench, calibrate, contestants, machine, overheads, timing
from einc.nn.bench import Row
from einc.nn.timing import Spread, take_turns

CEILINGS = Machine(
    "cpu",
    "a processor",
    threads=2,
    torch="2",
    allocator="glibc's default",
    matmul={"float32": 1e9, "bfloat16": 4e9},
    copy=1e6,
    launch=1e-6,
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hardly any measuring, and no calibration that is stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hasten(monkeypatch)


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few rounds as there can be, and rates that mean nothing."""
    monkeypatch.setattr(timing, "SHORT", 0.0)
    monkeypatch.setattr(timing, "ENOUGH", 0.0)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(machine, "SIZES", {"cpu": (32,)})
    monkeypatch.setattr(machine, "COPIED", 1 << 10)
    monkeypatch.setattr(machine, "BUDGET", 0.0)
    monkeypatch.setattr(calibrate, "SIDES", (1, 8))
    monkeypatch.setattr(calibrate, "ELEMENTS", 1 << 16)
    monkeypatch.setattr(overheads, "FRESH", (256, 512))
    monkeypatch.setattr(calibrate, "INTERLEAVED", ((2, 4, 4, 8),))
    monkeypatch.setattr(overheads, "ROUNDS", 1)
    monkeypatch.setattr(overheads, "SHORT", 0.0)


def call(*arguments: str) -> Ended:
    """Runs the command in this process."""
    return terminal.call("bench", *arguments, cwd=Path.cwd())


def report(spec: str, d_in: int, d_out: int, tokens: int) -> Profile:
    """Of a structure of the library, or of a body."""
    if spec in library.NAMES:
        return compiler.analyze(library.structure(spec), d_in, d_out, tokens)
    return compiler.analyze(asked.structure(None, spec, None, ""), d_in, d_out, tokens)


# Clocks


class Clock:
    """Time that passes only in calls."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def calls(self, *seconds: float) -> Any:
        """A call that takes so long each time; the last goes on for ever."""

        def lasting() -> Iterator[float]:
            yield from seconds
            while True:
                yield seconds[-1]

        durations = lasting()

        def run() -> None:
            self.now += next(durations)

        return run


def test_each_round_times_every_call_once():
    clock = Clock()
    order = []
    slow, fast = clock.calls(0.5, 0.25, 0.125, 0.5), clock.calls(0.25)

    def told(name: str, run: Any) -> Any:
        return lambda: (order.append(name), run())

    found = take_turns({"slow": told("s", slow), "fast": told("f", fast)}, clock)
    # The first of each warms up, and the first of each turn has what is left of others.
    assert found == {"slow": (0.125, *6 * [0.5]), "fast": 7 * (0.25,)}
    assert "".join(order) == "sf" + 7 * "ssff"


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(2.0, 3), (1.0, 7), (1 / 16, 8), (1 / 64, 22)]
)
def test_slow_calls_have_fewer_rounds_and_fast_ones_more(seconds: float, rounds: int):
    clock = Clock()
    assert take_turns({"a": clock.calls(seconds)}, clock) == {"a": rounds * (seconds,)}


def test_short_calls_are_repeated_and_stand_with_their_mean():
    clock = Clock()
    count = 0
    tick = clock.calls(2**-12)

    def run() -> None:
        nonlocal count
        count += 1
        tick()

    found = take_turns({"a": run}, clock, alone=0.0)
    assert found == {"a": 25 * (2**-12,)}
    assert count == 11 + 25 * 9  # 9 of them take over 2 ms


def test_what_a_call_finds_is_what_it_left():
    clock = Clock()
    # It takes long at first in each of two turns, of which the ends are timed.
    turn = (*4 * [2**-7], *17 * [2**-10], *3 * [2**-10])
    run = clock.calls(*11 * [2**-10], *turn, *turn)
    assert take_turns({"a": run}, clock, rounds=2) == {"a": 2 * (2**-10,)}


def test_the_device_has_ended_before_the_clock_is_read():
    clock = Clock()
    late = clock.calls(0.5)
    assert timing.seconds(lambda: None, 2, clock, wait=late) == 0.25


def row(tokens: int, module: float, dense: float, kind: Any = "forward") -> Row:
    times = {"module": (module,) * 3, "dense": (dense,) * 3}
    return Row(tokens, "float32", kind, times, 0.25, {"bytes": 1.0, "launches": 2.0})


def test_medians_quartiles_and_ratios():
    times = {"module": (1.0, 2.0, 4.0, 8.0, 8.0), "dense": (4.0, 4.0, 4.0, 4.0, 2.0)}
    found = Row(1, "float32", "forward", times, 0.25, {"bytes": 1.0, "launches": 2.0})
    assert found.seconds["module"] == Spread(4.0, 2.0, 8.0)
    assert found.seconds["dense"] == Spread(4.0, 4.0, 4.0)
    # Of the ratios 1/4, 1/2, 1, 2, 4 of the rounds, not of medians.
    assert found.ratios["module"] == Spread(1.0, 0.5, 2.0)
    assert (found.ideal, found.times_ideal(), found.bound) == (1.0, 4.0, "launches")
    nothing = Row(1, "float32", "forward", times, 0.0, {"bytes": 1.0})
    assert (nothing.ideal, nothing.times_ideal()) == (0.0, None)


def test_from_how_many_tokens_on():
    """The words are those of `times`."""
    rows = [row(n, 1.0, 2.0 if n > 1 else 1.0) for n in (256, 1, 16)]
    (told,) = bench_report.sentences("btt", rows)
    assert told == "float32, forward: btt is faster than nn.Linear from 16 tokens on"


def test_a_sentence_for_each_pass():
    rows = [row(1, 1.0, 2.0), row(1, 2.0, 1.0, "training")]
    told = bench_report.sentences("btt", rows)
    assert [t.partition(":")[0] for t in told] == [
        "float32, forward",
        "float32, training",
    ]


def test_unsteady_times_are_told():
    times = {"module": (1.0, 1.0, 2.0, 3.0, 3.0), "dense": (2.0,) * 5}
    unsteady = Row(1, "float32", "forward", times, 0.25, {"bytes": 1.0})
    rows = [unsteady, row(1, 1.0, 2.0, "training")]
    told = bench_report.sentences("btt", rows)[-1]
    assert told.startswith("unsteady: in 1 of 2 measurements")
    assert len(bench_report.sentences("btt", rows[1:])) == 1


# What is timed

PREDICTED = predict.Row(
    5,
    "float32",
    "forward",
    predict.Seconds({"bytes": 2.0}),
    predict.Seconds({"bytes": 3.0}),
)
TIED = "y[o] = x[i] * U[i, r] * U[o, r]  r = 4"
NORMALIZED = "y[o] = x[i] * U[i, r] * V[r, o]  r = 4  normalize U"
SUMMED = "y[o] = x[i, k] * A[i] * B[o, l]  k = 4  l = 3"
DIAGONAL = "y[i] = x[i] * D[i]"


@pytest.mark.usefixtures("quick")
def test_a_kernel_is_beside_plain_operations():
    """Which alone are predicted; both compute the same, forward and backward."""
    reports = {n: report("monarch", 64, 64, n) for n in (5, 300)}
    passes = ("forward", "training")
    found = bench.rows(reports, ("float32",), passes, CEILINGS, kernels="native")
    for each in found:
        names = ["module", "plain", "dense", "einsum", "opt_einsum"]
        assert list(each.times) == names
        assert each.predicted_seconds == {}
        predicted = replace(each, predicted=PREDICTED).predicted_seconds
        assert set(predicted) == {"plain", "dense"}
        assert predicted["plain"] == PREDICTED.seconds["module"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("shape", [(64, 64), (61, 97)])
@pytest.mark.parametrize(
    "spec", ["monarch", "blast", "skip_low_rank", "low_rank_plus_block", TIED, SUMMED]
)
def test_contestants_agree(spec: str, shape: tuple[int, int]):
    reports = {n: report(spec, *shape, n) for n in (1, 5)}
    dtypes, passes = ("float32", "bfloat16"), ("forward", "training")
    rows = list(bench.rows(reports, dtypes, passes, CEILINGS))
    assert {(r.tokens, r.dtype, r.kind) for r in rows} == {
        (n, dtype, kind) for n in (1, 5) for dtype in dtypes for kind in passes
    }
    for one in rows:
        assert set(one.times) == {"module", "dense", "einsum", "opt_einsum"}
        assert not one.left_out


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("d", [8, 13])
@pytest.mark.parametrize("spec", ["monarch", "skip_low_rank", TIED])
def test_the_fields_outputs_are_those_of_the_module(spec: str, d: int):
    found = contestants.field(report(spec, d, 11, 3), 3, torch.float64, "cpu", False)
    x = torch.randn(3, d, dtype=torch.float64)
    results = [one.layer(x) for one in found.contestants.values()]
    assert len(results) == 4
    for result in results:
        torch.testing.assert_close(result, results[0])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("spec", "reason"),
    [("btt_moe", "experts"), ("dense_moe", "experts"), (NORMALIZED, "normalizes")],
)
def test_what_is_in_no_einsum_is_left_out(spec: str, reason: str):
    reports = {9: report(spec, 64, 64, 9)}
    (one,) = bench.rows(reports, ["bfloat16"], ["training"], CEILINGS)
    assert set(one.times) == {"module", "dense"}
    assert len(one.left_out) == 1 and reason in one.left_out[0]
    assert one.left_out[0] in bench_report.sentences("s", [one])


def test_an_einsum_that_would_fill_the_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(contestants, "LARGEST", 1 << 6)
    plain = report("dense", 64, 64, 8).figures
    wide = report("y[o] = x[i] * U[i, r] * V[r, o]  r = 500", 64, 64, 2).figures
    assert plain is not None and wide is not None
    # What is no larger than y always is there.
    assert contestants.why_no_einsum(plain.binding, 8) is None
    told = contestants.why_no_einsum(wide.binding, 2)
    assert told is not None and "for 2 tokens" in told and "1,000 elements" in told


@pytest.mark.usefixtures("quick")
def test_routed_tokens_take_different_experts():
    layer = contestants.generated(report("btt_moe", 64, 64, 32))
    _, chosen = layer.route(torch.randn(32, 64))
    assert len(chosen.unique()) > layer.top


@pytest.mark.usefixtures("quick")
def test_a_contestant_that_disagrees_is_a_defect(monkeypatch: pytest.MonkeyPatch):
    def wrong(equation: str, shapes: Any) -> Any:
        return lambda *tensors: 2 * torch.einsum(equation, *tensors)

    monkeypatch.setattr(contestants, "_by_torch", wrong)
    reports = {4: report("monarch", 64, 64, 4)}
    with pytest.raises(InternalError, match="einsum is"):
        list(bench.rows(reports, ["float32"], ["forward"], CEILINGS))


def test_a_clock_is_all_that_times_come_from():
    class Ticking:
        now = 0.0

        def __call__(self) -> float:
            self.now += 2**-6
            return self.now

    reports = {4: report("monarch", 64, 64, 4)}
    rows = bench.rows(reports, ["float32"], ["training"], CEILINGS, clock=Ticking())
    (one,) = rows
    for name in one.times:
        assert one.seconds[name] == Spread(2**-6, 2**-6, 2**-6)
        assert one.ratios[name] == Spread(1.0, 1.0, 1.0)
    assert one.ideal == 0.25 * 2**-6 and one.times_ideal() == 4.0


# Ceilings


def test_what_the_ceilings_ask_for():
    dense = report("dense", 64, 32, 8)
    found = bench.needs(dense, 8, "float32", "forward", CEILINGS)
    moved = 4 * (8 * 64 + 64 * 32 + 8 * 32)
    expected = {
        "arithmetic": 2 * 64 * 32 * 8 / 1e9,
        "bytes": moved / 1e6,
        "launches": 2 * 1e-6,
    }
    assert found == pytest.approx(expected)
    trained = bench.needs(dense, 8, "bfloat16", "training", CEILINGS)
    changes = {"arithmetic": 3 / 4, "bytes": 3 / 2, "launches": 3}
    assert trained == pytest.approx({n: changes[n] * expected[n] for n in expected})
    assert bench.share(dense) == 1.0


def test_operations():
    assert bench.operations(report("monarch", 64, 64, 8), 8) == 3
    assert bench.operations(report("low_rank_plus_block", 64, 64, 8), 8) == 5
    moe = report("btt_moe", 64, 64, 8)
    assert bench.operations(moe, 1) == 2 * 2 + 1
    assert bench.operations(moe, 100) == 8 * 2 + 1
    assert bench.share(moe) == (2 * 2 * 8 + 8) / 64


@pytest.mark.usefixtures("quick")
def test_ceilings_are_measured():
    found = machine.machine("cpu", ["float32", "bfloat16"])
    assert found.matmul.keys() == {"float32", "bfloat16"}
    assert min(*found.matmul.values(), found.copy, found.launch) > 0
    assert found.processor and found.threads == torch.get_num_threads()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"MALLOC_ARENA_MAX": "1", "HOME": "/"}, "MALLOC_ARENA_MAX=1"),
        (
            {"LD_PRELOAD": "a.so", "GLIBC_TUNABLES": "b"},
            "GLIBC_TUNABLES=b LD_PRELOAD=a.so",
        ),
        ({"LD_PRELOAD": "", "PATH": "/bin"}, "default"),
    ],
)
def test_the_allocator(environment: dict[str, str], told: str):
    assert machine.allocator(environment).endswith(told)


# Predictions


@pytest.fixture(scope="module")
def calibrated() -> Calibration:
    """Of this machine, in as little time as there can be."""
    with pytest.MonkeyPatch.context() as changed:
        hasten(changed)
        return calibrate.calibrate("cpu", ["float32", "bfloat16"])


def test_a_calibration_is_measured(calibrated: Calibration):
    assert calibrated.machine.threads == torch.get_num_threads()
    assert calibrated.rates.keys() == {"float32", "bfloat16"}
    for rates in calibrated.rates.values():
        for table in rates.products.values():
            assert set(product((1, 64), (1, 8), (1, 8), (1, 8))) == set(table.rates)
        assert rates.copy.rates and rates.transpose.rates
    assert Calibration.from_json(calibrated.to_json()) == calibrated


def test_products_are_measured_in_their_layouts(monkeypatch: pytest.MonkeyPatch):
    seen = set()

    def least(calls: Any, device: str) -> dict[Any, float]:
        for (b, m, k, n), call in calls.items():
            left, right = call.args
            assert (left.shape[-2:], right.shape[-2:]) == ((m, k), (k, n))
            assert call.keywords["out"].shape[-2:] == (m, n)
            assert b == 1 or left.shape[0] == right.shape[0] == b
            if min(m, k, n) > 1:
                both = (t.stride()[-1] == 1 for t in (left, right))
                seen.add("".join("n" if last else "t" for last in both))
        return dict.fromkeys(calls, 0.5)

    monkeypatch.setattr(calibrate, "least_of_each", least)
    monkeypatch.setattr(calibrate, "SIDES", (1, 8))
    made = calibrate._Bench("cpu", torch.bfloat16)
    for layouts in ("nn", "nt", "tn", "tt"):
        seen.clear()
        table = made._products(layouts)
        assert seen == {layouts}
        assert table.rates[64, 8, 1, 8] == 2 * 64 * 8 * 8 / 0.5


@pytest.mark.usefixtures("quick")
def test_calibrating():
    ended = call("--calibrate")
    path = calibration.place("cpu")
    assert (ended.status, ended.err) == (0, f"kept in {path}\n")
    assert "ceilings: matrix products" in ended.out and "in bfloat16" in ended.out
    kept = calibration.load("cpu")
    ended = call("--calibrate", "--json")
    assert ended.status == 0
    # Measured anew, and kept instead.
    assert calibration.load("cpu").to_json() == ended.json != kept.to_json()


@pytest.mark.usefixtures("quick")
def test_a_prediction_stands_beside_the_measurement(calibrated: Calibration):
    ended = call(*FAST, "--json")
    assert [one["predicted"] for one in ended.json["rows"]] == 4 * [None]
    assert "`einc bench --calibrate` measures one" in ended.json["sentences"][-1]
    assert "predicted  " not in call(*FAST).out
    calibration.save(calibrated)
    ended = call(*FAST, "--json")
    assert ended.status == 0
    for one in ended.json["rows"]:
        tokens, kind = one["tokens"], one["pass"]
        profile = report("monarch", 64, 64, tokens)
        expected = predict.predicted(profile, tokens, "float32", kind, calibrated)
        assert one["predicted"] == expected.seconds
    table = call(*FAST).out.splitlines()
    assert sum("  predicted  " in line for line in table) == 2


@pytest.mark.usefixtures("quick")
def test_a_calibration_of_another_setting(calibrated: Calibration):
    other = replace(calibrated.machine, threads=77)
    calibration.save(replace(calibrated, machine=other))
    (*_, told) = call(*FAST, "--json").json["sentences"]
    assert told.startswith("the calibration was made otherwise: threads: ")
    assert told.endswith(", not 77")


@pytest.mark.usefixtures("quick")
def test_a_damaged_calibration_is_as_good_as_none():
    path = calibration.place("cpu")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    ended = call(*FAST)
    assert ended.status == 0 and "nothing is predicted" in ended.out
    assert ended.err.startswith("note: no predictions: ")
    assert "`einc bench --calibrate` measures anew" in ended.err


# torch.compile


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler found\nand much more")


@pytest.mark.usefixtures("quick")
def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda layer, **options: Failing())
    reports = {4: report("monarch", 64, 64, 4)}
    with pytest.raises(UsageError, match=r"fails here: no compiler found$"):
        list(bench.rows(reports, ["float32"], ["forward"], CEILINGS, compiled=True))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@pytest.mark.usefixtures("quick")
def test_the_compiled_module():
    reports = {4: report("low_rank", 64, 64, 4)}
    kinds: list[bench.Pass] = ["forward", "training"]
    for one in bench.rows(reports, ["float32"], kinds, CEILINGS, compiled=True):
        assert list(one.times)[:3] == ["module", "compiled", "dense"]
        assert "low_rank, compiled," in bench_report.sentences("low_rank", [one])[1]


# The command

FAST = ("monarch", "--in", "64", "--tokens", "2", "--tokens", "1")


@pytest.mark.usefixtures("quick")
def test_json():
    both = ("--dtype", "float32", "--dtype", "bfloat16")
    ended = call(*FAST, "--out", "32", *both, "--json")
    assert (ended.status, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert list(found) == [
        "schema",
        "structure",
        "arguments",
        "features",
        "machine",
        "rows",
        "sentences",
        "warnings",
    ]
    assert (found["schema"], found["structure"]) == ("einc.bench/1", "monarch")
    assert found["features"]["in"] == 64 and found["features"]["out"] == 32
    assert found["machine"]["threads"] == torch.get_num_threads()
    faster = [s for s in found["sentences"] if " faster than nn.Linear " in s]
    assert len(faster) == 4
    rows = found["rows"]
    assert [(r["dtype"], r["tokens"], r["pass"]) for r in rows] == [
        (dtype, tokens, kind)
        for dtype in ("float32", "bfloat16")
        for tokens in (1, 2)
        for kind in ("forward", "training")
    ]
    for one in rows:
        names = {"module", "dense", "einsum", "opt_einsum"}
        assert set(one["seconds"]) == set(one["ratio"]) == names
        for spread in one["seconds"].values():
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        assert one["ratio"]["dense"] == 1
        assert one["ideal"] > 0 and one["times_ideal"] > 0
        assert one["bound"] in one["needs"]


@pytest.mark.usefixtures("quick")
def test_the_table():
    ended = call(*FAST, "--pass", "forward")
    assert (ended.status, ended.err) == (0, "")
    assert "float32, forward\n" in ended.out and "training" not in ended.out
    for told in ("monarch", "nn.Linear", "torch.einsum", "opt_einsum", "quartiles"):
        assert told in ended.out
    assert "allocator: " in ended.out and "GFLOP/s in float32" in ended.out
    assert "faster than nn.Linear" in ended.out


@pytest.mark.usefixtures("quick")
def test_no_flops_have_no_ideal():
    given = ("-e", DIAGONAL, "--in", "8", "--tokens", "2", "--pass", "forward")
    (one,) = json.loads(call(*given, "--json").out)["rows"]
    assert (one["ideal"], one["times_ideal"]) == (0, None)
    assert call(*given).status == 0


def test_what_has_no_value_is_not_explained():
    from einc.report import text

    profile = report("monarch", 64, 64, 1)
    one = row(1, 1e-5, 3e-5)
    found = text(bench_report.shown(profile, CEILINGS, [one]))
    assert "predicted" not in found and "x ideal: " in found
    # 8,192 FLOPs in 30 us.
    assert "(nn.Linear at best 0.273)" in found
    diagonal = replace(one, share=0.0)
    assert "x ideal" not in text(bench_report.shown(profile, CEILINGS, [diagonal]))


def test_narrow_terminals_are_spared_the_quartiles(calibrated: Calibration):
    from einc.report import text

    profile = report("monarch", 64, 64, 1)
    rows = [
        replace(
            row(n, 1.0, 2.0, kind),
            predicted=predict.predicted(profile, n, "float32", kind, calibrated),
        )
        for n in (1, 2048)
        for kind in ("forward", "training")
    ]
    found = text(bench_report.shown(profile, CEILINGS, rows, spread=False))
    lines = [line for line in found.splitlines() if "module" in line]
    assert len(lines) == 4 and max(map(len, lines)) <= 80


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("end", ["svg", "png", "pdf"])
def test_the_picture(tmp_path: Path, end: str):
    file = tmp_path / f"times.{end}"
    ended = call(*FAST, "--plot", str(file))
    assert (ended.status, ended.err) == (0, "")
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[end]
    assert file.read_bytes().startswith(start)


def test_equal_times_are_equal_pictures():
    profile = report("monarch", 64, 64, 1)
    rows = [row(n, 1.0, 2.0) for n in (1, 16)]
    first = bench_report.picture(profile, rows, "svg")
    assert first == bench_report.picture(profile, rows, "svg")
    assert first != bench_report.picture(profile, rows[:1], "svg")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("monarch", 2, "give --in"),
        ("", 2, "name one SPEC"),
        ("monarch --calibrate", 2, "name no SPEC"),
        ("monarch --in 64 --tokens 0", 2, "tokens must be"),
        ("monarch --in 64 --dtype float16", 2, "--dtype"),
        ("monarch --in 64 --pass backward", 2, "--pass"),
        ("monarch --in 64 --device tpu", 2, "--device"),
        ("monarch --in 64 --plot a.txt", 2, "a.txt"),
        ("monarch --in 64 --plot there.svg", 2, "--force"),
        ("btt -D rank=64 --in 64 -W error", 1, "error[W103]"),
    ],
)
def test_what_cannot_be_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    status: int,
    message: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.svg").write_text("kept")
    given = arguments if "--plot" in arguments else f"{arguments} --plot a.svg"
    ended = call(*given.split())
    assert (ended.status, ended.out) == (status, "")
    assert message in ended.err
    assert [p.name for p in tmp_path.iterdir()] == ["there.svg"]
    assert (tmp_path / "there.svg").read_text() == "kept"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_no_cuda():
    ended = call(*FAST, "--device", "cuda")
    assert (ended.status, ended.out) == (2, "")
    assert "no CUDA device" in ended.err


@pytest.mark.usefixtures("quick")
def test_an_interrupt_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch):
    def interrupted(*given: Any, **options: Any) -> Iterator[Row]:
        yield row(1, 1.0, 2.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "rows", interrupted)
    ended = call(*FAST, "--json")
    assert ended.status == 130
    assert len(json.loads(ended.out)["rows"]) == 1


@pytest.mark.usefixtures("quick")
def test_more_tokens_than_fit(monkeypatch: pytest.MonkeyPatch):
    def refused(*given: Any, **options: Any) -> Iterator[Row]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(bench, "rows", refused)
    ended = call(*FAST)
    assert (ended.status, ended.out) == (2, "")
    assert "fewer tokens" in ended.err


# Layers of the user's own

OWN = """
import torch
from helper import Plain
from torch import nn


def same(layer):
    return Plain(layer)


def reversed_(layer):
    made = Plain(layer)
    made.flip = True
    return made, torch.arange(layer.out_features).flip(0)


def frozen(layer):
    return Plain(layer).requires_grad_(False)


def other(layer):
    return nn.Linear(layer.in_features, layer.out_features)


def narrow(layer):
    return nn.Linear(layer.in_features, 1)


def raising(layer):
    raise KeyError("no such\\nfactor")


def failing(layer):
    return nn.Linear(1, 1)


def none(layer):
    return None


def module(layer):
    return layer


number = 3
"""
HELPER = """
from torch import nn


class Plain(nn.Module):
    flip = False

    def __init__(self, layer):
        super().__init__()
        self.weight = nn.Parameter(layer.to_dense().detach().clone())
        self.bias = nn.Parameter(layer.bias.detach().clone())

    def forward(self, x):
        y = nn.functional.linear(x, self.weight, self.bias)
        return y.flip(-1) if self.flip else y
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "broken.py").write_text("import helper\n1 / 0\n")
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.mark.usefixtures("quick")
def test_a_layer_of_the_users_own_takes_part(own: Path):
    names = ("same", "reversed_")
    beside = [part for name in names for part in ("--beside", f"{own}:{name}")]
    plot = ("--plot", str(own.parent / "a.svg"))
    ended = call(*FAST, "--dtype", "bfloat16", *beside, "--json", *plot)
    assert (ended.status, ended.err) == (0, "")
    for one in json.loads(ended.out)["rows"]:
        assert list(one["seconds"])[-2:] == [*names]
    assert "reversed_" in (own.parent / "a.svg").read_text()
    table = call(*FAST, *beside).out
    assert len([line for line in table.splitlines() if " reversed_ " in line]) == 4


@pytest.mark.usefixtures("quick")
def test_a_layer_that_trains_less_is_told(own: Path):
    """It has fewer gradients to compute."""
    told = "trains 0 parameters, and the module 1,088"
    given = (*FAST, "--pass", "forward")
    ended = call(*given, "--beside", f"{own}:frozen", "--beside", f"{own}:same")
    assert ended.out.count(told) == 1 and f"frozen {told}" in ended.out


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own.py:other", "other is"),
        ("own.py:narrow", "narrow gives [1, 1], not [1, 64]"),
        ("own.py:raising", "raising raises KeyError: 'no such"),
        ("own.py:failing", "failing fails here: mat1 and mat2"),
        ("own.py:none", "none returns no nn.Module, but NoneType"),
        ("own.py:module", "'module' already"),
        ("own.py:number", "no function 'number'"),
        ("own.py:absent", "no function 'absent'"),
        ("own.py", "FILE.py:NAME"),
        ("own.py:", "FILE.py:NAME"),
        ("nowhere.py:same", "no Python file 'nowhere.py'"),
        ("broken.py:same", "broken.py raises ZeroDivisionError: division by zero"),
    ],
)
def test_a_layer_of_the_users_own_that_is_none(
    own: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
):
    monkeypatch.chdir(own.parent)
    ended = call(*FAST, "--beside", name)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err and "Traceback" not in ended.err
    assert call(*FAST, "--beside", "own.py:same", "--beside", "own.py:same").status == 2
