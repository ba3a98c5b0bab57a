"""The search: what it finds keeps the limits, is best, and can be used.

Results are compared with all structures of small spaces, and across seeds, stops and
resumptions; found files are read back, analysed and run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal import COMMAND, ROOT, call, environment, in_terminal
from terminal import einc as command

import einc
from einc import compiler
from einc.errors import UsageError
from einc.search import request
from einc.search.candidates import Candidate
from einc.search.found import Judged
from einc.search.pool import Pool, front
from einc.search.run import Result, search
from einc.search.state import NAME, State
from einc.search.walk import Settings, Walk
from einc.search.wishes import Objective, objective


def asked(
    *objectives: str, d: int | None = None, factors: int = 2, **options: object
) -> Settings:
    """A search with the limits of the command line."""
    counts = {name: options.pop(name, None) for name in request.COUNTS}
    exponents = {name: options.pop(name, []) for name in ("omega", "psi", "nu")}
    return replace(
        request.settings(
            d, d, exponents, counts, objectives, factors, False, None, False, 4096, 0
        ),
        **options,
    )


def texts(result: Result) -> list[str]:
    return [found.text for found in result.found]


# What is worth a look


@given(st.data(), st.integers(1, 3), st.booleans())
@settings(deadline=None)
def test_pools_do_not_depend_on_order(
    data: st.DataObject, objectives: int, slack: bool
):
    small = st.integers(0, 3)
    size = data.draw(st.integers(1, 30))
    rows = np.array(
        data.draw(
            st.lists(
                st.lists(small, min_size=4, max_size=4), min_size=size, max_size=size
            )
        ),
        np.int8,
    )
    rows = np.unique(rows, axis=0)
    scores = np.array(
        data.draw(
            st.lists(
                st.lists(small, min_size=objectives, max_size=objectives),
                min_size=len(rows),
                max_size=len(rows),
            )
        ),
        np.float64,
    )

    def pooled(order: list[int]) -> list[list[list[int]]]:
        pool = Pool(
            np.zeros((0, 4), np.int8),
            np.zeros((0, objectives)),
            5,
            np.full(objectives, 0.5) if slack else None,
        )
        for start in range(0, len(order), 7):
            some = order[start : start + 7]
            pool.add(rows[some], scores[some])
        return [group.tolist() for group in pool.best()]

    order = data.draw(st.permutations(range(len(rows))))
    assert pooled(list(order)) == pooled(list(range(len(rows))))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=20))
def test_a_front_is_what_nothing_betters(points: list[tuple[int, int]]):
    scores = np.array(points, np.float64).reshape(-1, 2)
    expected = {
        p
        for p in points
        if not any(
            q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in points
        )
    }
    kept = [points[i] for i in front(scores)]
    assert len(kept) == len(set(kept)) and set(kept) == expected


# What is found


def test_monarch_is_the_cheapest_of_two_factors():
    result = search(asked(d=256))
    best = result.found[0].figures
    assert (best["flops"], best["rank"], best["nu"]) == (
        2 * 2 * 256 * 16,
        256,
        Fraction(1, 2),
    )
    assert result.finished and result.classes == 58


def test_what_is_found_keeps_the_limits_and_nothing_on_the_grid_is_better():
    wanted = asked("params", d=256, flops="0.3x", psi=[">=1/2"], parts=4)
    result = search(wanted)
    limit = 0.3 * 2 * 256 * 256
    for found in result.found:
        figures = found.figures
        assert figures["flops"] <= limit and figures["psi"] >= Fraction(1, 2)
        assert figures["omega"] == 0 and figures["nu"] <= 1
    best = 0
    walk = Walk.of(wanted, wanted_space := list(wanted.spaces())[1])
    for beginning in wanted_space.beginnings():
        walk.step(beginning)
    for row in walk.pool.rows:
        candidate = Candidate.of(walk.forms, [Fraction(int(n), 4) for n in row])
        figures = compiler.analyze(candidate.structure("s"), 256, 256).figures
        assert figures is not None
        if 2 * figures.work.matrix <= limit:
            best = max(best, figures.parameters.total)
    assert result.found[0].figures["params"] >= best > 0


def test_objectives_are_ordered_and_best_is_first():
    result = search(asked("flops", "intermediate", "params:min", d=256), top=30)
    keys = [
        (f.figures["flops"], f.figures["intermediate"], f.figures["params"])
        for f in result.found
    ]
    assert keys == sorted(keys) and len(keys) > 5
    hypergraphs = [found.candidate.hypergraph for found in result.found]
    assert len(hypergraphs) == len(set(hypergraphs))


def test_a_front_has_all_trades():
    wanted = asked("params", "flops", d=256, flops="0.3x", pareto=True)
    result = search(wanted, top=100)
    points = [(f.figures["flops"], -f.figures["params"]) for f in result.found]
    assert len(points) > 4
    for one in result.looked:
        point = one.figures["flops"], -one.figures["params"]
        assert any(p[0] <= point[0] and p[1] <= point[1] for p in points)
    for p in points:
        assert not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)


def test_refined_sizes_are_better_than_those_of_the_grid():
    """On a grid of halves three factors come near no third."""
    coarse = asked("flops", d=512, factors=3, parts=2)
    result = search(coarse)
    least = 3 * 2 * 512 * 8
    assert result.found[0].figures["flops"] == least


def test_features_that_are_no_powers_of_two():
    result = search(asked("params", d=1000, flops="0.2x"), top=5)
    assert result.found
    for found in result.found:
        assert found.figures["flops"] <= 0.2 * 2 * 1000 * 1000
        assert found.profile.figures.binding.d_in == 1000


@pytest.mark.parametrize(
    ("d", "flops"),
    [(5120, "0.25x"), (1152, "0.25x"), (320, "0.4x"), (96, "0.5x"), (64, "0.37x")],
)
def test_a_limit_that_integer_sizes_break_costs_little(d: int, flops: str):
    """What comes nearest to a limit by estimates is past it: what is found instead is
    hardly worse than what the library has."""
    wanted = asked("params", d=d, flops=flops)
    found = search(wanted).found[0].figures["params"]
    known = [one for one in request.compared(wanted, None) if one.profile.figures]
    limit = float(flops[:-1]) * 2 * d * d
    kept = [
        one.figures["params"]
        for one in known
        if one.figures["flops"] <= limit and one.figures["psi"] == 1
    ]
    assert kept and found >= 0.95 * max(kept)
    assert found >= 0.6 * limit / 2


def test_disguises_are_not_found():
    """A bond as large as a factor's rest makes a smaller structure of two factors."""
    result = search(asked("params", d=256, flops="0.5x", factors=3), top=200)
    for found in result.found:
        assert found.figures["params"] * 2 <= found.figures["flops"]
        assert not [w for w in found.profile.warnings if w.code == "W103"]


def test_indices_of_both_sides():
    without = search(asked("nu", factors=1))
    assert [f.figures["nu"] for f in without.found] == [1]
    with_both = search(asked("nu", factors=1, both=True))
    assert min(f.figures["nu"] for f in with_both.found) < Fraction(1, 4)


def test_least_of_all_hypergraphs():
    result = search(asked("nu", factors=3, parts=3))
    assert [least.extreme.value for least in result.least if least.extreme] == [
        1,
        Fraction(1, 2),
        Fraction(1, 3),
    ]
    assert result.found[0].figures["nu"] == Fraction(1, 3)


# Seeds, stops and resumptions


def test_the_seed_changes_nothing():
    wanted = asked("params", "flops", d=256, factors=3, flops="0.3x", parts=3)
    assert texts(search(wanted)) == texts(search(replace(wanted, seed=7)))
    pareto = replace(wanted, pareto=True)
    assert texts(search(pareto)) == texts(search(replace(pareto, seed=7)))


@pytest.mark.parametrize("pareto", [False, True])
def test_a_stopped_search_has_something_and_goes_on(tmp_path: Path, pareto: bool):
    limits = {"flops": "0.3x", "parts": 3}
    wanted = asked("params", "flops", d=256, factors=3, pareto=pareto, **limits)
    whole = search(wanted)

    def stop(what: str, done: int, of: int) -> None:
        if what == "searching" and done == 12:
            raise KeyboardInterrupt

    stopped = search(wanted, state=State(tmp_path), progress=stop)
    assert not stopped.finished and stopped.classes < whole.classes
    seen: list[tuple[int, int]] = []

    def watch(what: str, done: int, of: int) -> None:
        if what == "searching":
            seen.append((done, of))

    resumed = search(wanted, state=State(tmp_path), progress=watch)
    assert texts(resumed) == texts(whole)
    assert resumed.classes == whole.classes and resumed.structures == whole.structures
    assert len(seen) == seen[0][1] and len(seen) < 45
    again: list[str] = []
    search(wanted, state=State(tmp_path), progress=lambda what, *_: again.append(what))
    assert "searching" not in again


def test_a_search_that_is_stopped_late_has_what_it_looked_at():
    wanted = asked("params", "flops", d=256, factors=3, flops="0.3x")

    def stop(what: str, done: int, of: int) -> None:
        if what == "looking closer" and done == 40:
            raise KeyboardInterrupt

    stopped = search(wanted, progress=stop)
    assert not stopped.finished and 20 <= len(stopped.looked) <= 90 and stopped.found


def test_another_search_is_not_resumed(tmp_path: Path):
    search(asked(d=64), state=State(tmp_path))
    with pytest.raises(UsageError, match="other options"):
        search(asked(d=128), state=State(tmp_path))
    whole = (tmp_path / NAME).read_bytes()
    texts = [
        b"",
        b"\xff",
        b"{}",
        b"[1]",
        b'{"schema": "einc.search-state/2"}',
        b"[" * 10**5,
    ]
    texts.append(whole.replace(b'"rows": [[', b'"rows": [[999, ', 1))
    assert texts[-1] != whole
    for text in texts:
        (tmp_path / NAME).write_bytes(text)
        with pytest.raises(UsageError, match="not the state"):
            search(asked(d=64), state=State(tmp_path))


def test_a_damaged_state_is_refused(tmp_path: Path):
    search(asked(d=64), state=State(tmp_path))
    whole = (tmp_path / NAME).read_text()
    rows = json.loads(whole)["walks"][1]["rows"]
    for change in (
        {"rows": []},
        {"rows": [[-1] * len(rows[0]), *rows[1:]]},
        {"rows": [[100] * len(rows[0]), *rows[1:]]},
        {"structures": -5},
        {"classes": 1},
        {"done": []},
    ):
        state = json.loads(whole)
        assert state["walks"][1] != state["walks"][1] | change
        state["walks"][1] |= change
        _is_refused(tmp_path, state)
    for times in ([], {"x": -1.0}):
        _is_refused(tmp_path, json.loads(whole) | {"times": times})
    (tmp_path / NAME).write_text(json.dumps(json.loads(whole), indent=1))
    assert search(asked(d=64), state=State(tmp_path)).found


def _is_refused(folder: Path, state: object) -> None:
    (folder / NAME).write_text(json.dumps(state))
    with pytest.raises(UsageError, match="not the state"):
        search(asked(d=64), state=State(folder))


def test_where_a_state_cannot_be_kept_nothing_is_searched(tmp_path: Path):
    (tmp_path / NAME).with_suffix(".new").mkdir()
    (tmp_path / "file").touch()
    # In /proc no folder can be made, and Linux says that it is not there.
    folders = (tmp_path, tmp_path / "file", Path("/proc/einc"))
    searched: list[str] = []
    for folder, message in zip(folders, ("write", "make", "make"), strict=True):
        with pytest.raises(UsageError, match=f"cannot {message}"):
            search(
                asked(d=64),
                state=State(folder),
                progress=lambda what, *_: searched.append(what),
            )
    assert searched == []


def test_measured_times_are_kept(tmp_path: Path):
    wanted = asked("time", "params", d=256)
    calls: list[str] = []

    def measure(profile: object) -> float:
        calls.append("")
        return 1.0 / len(calls)

    first = search(wanted, 5, State(tmp_path), measure)
    assert len(calls) == 5
    assert [f.time for f in first.found] == [1 / n for n in (5, 4, 3, 2, 1)]
    second = search(wanted, 5, State(tmp_path), measure)
    assert len(calls) == 5 and texts(second) == texts(first)


# As a user


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--out 4", "give --in too"),
        ("--in 0", "features must be from 1"),
        ("--factors 5", "--factors is from 1 to 4"),
        ("--factors 3 --both", "--both is for at most 2 factors"),
        ("--grid 7", "--grid is from 1 to 6 for 3 factors"),
        ("--factors 2 --grid 25", "--grid is from 1 to 24 for 2 factors"),
        ("--grid 0", "--grid is from 1"),
        ("--factors 1 --grid 25", "--grid is from 1 to 24 for 1 factor, not 25"),
        ("--in 64 --max-flops x", "`0.25x` of dense, not `x`"),
        ("--in 64 --resume /dev/null/x", "cannot make `/dev/null/x`"),
        ("--psi =one", "--psi is a number such as"),
        ("--psi =1/0", "--psi is a number such as"),
        ("--max-flops 0.5x", "a limit on flops needs features"),
        ("--in 64 --max-flops lots", "--max-flops is a number such as"),
        ("--objective speed", "an objective is one of omega, psi, nu"),
        ("--objective params:least", "an objective is one of omega, psi, nu"),
        ("--objective params", "`params` needs features"),
        ("--in 64 --objective time", "`time` needs --measure"),
        ("--measure", "measuring needs features"),
        ("--in 64 --objective flops --plot a.svg", "a plot needs two objectives"),
        ("--in 64 --plot a.txt", "pictures end in one of"),
        ("--in 64 --tokens 0", "tokens must be from 1"),
        ("--tokens 0", "tokens must be from 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments: str, message: str):
    ended = call("search", *arguments.split())
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err


def test_json_is_that_of_a_taxonomy():
    ended = command("search", "--in", "64", "--factors", "2", "--top", "3", "--json")
    assert (ended.status, ended.err) == (0, "")
    document = ended.json
    assert document["schema"] == "einc.taxonomy/1"
    assert len(document["rows"]) == 3
    assert [row["structure"] for row in document["compared"]] == list(request.COMPARED)
    assert document["search"]["finished"] and document["search"]["hypergraphs"] == 58
    assert document["search"]["least"][1]["value"] == "1/2"
    for row in document["rows"]:
        again = einc.parse(row["source"]).analyze(64, 64).to_json()
        assert {key: row[key] for key in again} == json.loads(json.dumps(again))
    least = einc.parse(document["search"]["least"][1]["source"])
    assert str(least.analyze().exponents.best.nu) == "1/2"


def test_what_is_saved_is_a_structure_like_any(tmp_path: Path):
    arguments = ("search", "--in", "256", "--factors", "2", "--max-flops", "0.25x")
    folder = tmp_path / "found"
    ended = call(*arguments, "--top", "3", "--save", str(folder))
    assert ended.status == 0
    files = sorted(folder.glob("*.ein"))
    assert [f.name for f in files] == ["found_1.ein", "found_2.ein", "found_3.ein"]
    assert call("fmt", "--check", *map(str, files)).status == 0
    text = files[0].read_text()
    assert "# found by einc search --in 256 --out 256 --factors 2" in text
    shown = call("analyze", str(files[0]), "--in", "256", "--json").json
    assert f"{shown['params']['total']:,} parameters" in text
    assert f"{shown['flops']['forward']:,} FLOPs" in text
    module = einc.load(str(files[0])).module_class(256, 256)()
    x = torch.randn(3, 256)
    torch.testing.assert_close(module(x), x @ module.to_dense().T + module.bias)
    # The command in the file finds it again.
    line = next(i for i in text.splitlines() if "found by" in i)
    words = line.removeprefix("# found by einc ").replace("'", "").split()
    again = call(*words, "--top", "1", "--json").json["rows"][0]
    assert again["equations"] == shown["equations"] and again["sizes"] == shown["sizes"]
    refused = call(*arguments, "--save", str(folder))
    assert refused.status == 2 and "--force" in refused.err
    (folder / "found_mine.ein").write_text("mine")
    (folder / "found_99.ein").write_text("of an earlier search")
    assert call(*arguments, "--save", str(folder), "--force").status == 0
    assert (folder / "found_mine.ein").exists() and all(f.exists() for f in files)
    assert not (folder / "found_99.ein").exists()


def test_what_an_earlier_search_saved_is_replaced(tmp_path: Path):
    def names(top: int) -> set[str]:
        options = "--in 64 --factors 2 --force --top".split()
        ended = call("search", *options, str(top), "--save", str(tmp_path))
        assert ended.status == 0
        return {path.name for path in tmp_path.iterdir()}

    own = {"found_x.ein", "found_02.ein", "found_2.ein.old", "my_found_2.ein"}
    for name in own:
        (tmp_path / name).write_text("kept")
    assert names(3) - own == {"found_1.ein", "found_2.ein", "found_3.ein"}
    assert names(1) == {"found_1.ein", *own}
    (tmp_path / "found_7.ein").mkdir()
    refused = call("search", "--in", "64", "--force", "--save", str(tmp_path))
    assert refused.status == 2 and "it is not a file" in refused.err


def test_times_are_measured_and_the_front_is_drawn(tmp_path: Path):
    plot = tmp_path / "front.svg"
    ended = call(
        *"search --in 64 --factors 2 --max-flops 0.9x --tokens 32 --measure".split(),
        *"--objective time --objective params --pareto --top 4 --json".split(),
        *("--plot", str(plot)),
    )
    assert ended.status == 0, ended.err
    document = ended.json
    assert all(row["time"] > 0 for row in document["rows"] + document["compared"])
    times = [row["time"] for row in document["rows"]]
    params = [row["params"]["total"] for row in document["rows"]]
    assert times == sorted(times) and params == sorted(params)
    text = plot.read_text()
    assert "forward time" in text and "monarch" in text


def test_tables_say_how_far_the_search_came():
    ended = command("search", "--in", "64", "--factors", "2", "--top", "2")
    assert "found_2" in ended.out and "monarch" in ended.out
    assert "58 hypergraphs" in ended.out
    assert "smallest nu with 2 factors: 1/2, over all hypergraphs" in ended.out
    none = command("search", "--in", "64", "--factors", "2", "--nu", "<=1/4")
    assert none.status == 0 and "nothing found under these limits" in none.out


def test_ctrl_c_gives_what_there_is(tmp_path: Path):
    process = subprocess.Popen(
        (*COMMAND, *"search --factors 4 --grid 5 --json --top 2 --resume".split(), "."),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    limit = time.monotonic() + 60
    while not _begun(tmp_path / NAME) and time.monotonic() < limit:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    document = json.loads(out)
    assert not document["search"]["finished"] and document["rows"]


def _begun(state: Path) -> bool:
    if not state.exists():
        return False
    return any(walk["done"] for walk in json.loads(state.read_text())["walks"])


def test_ctrl_c_while_the_library_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The last of what is measured, after all that was searched for."""

    def interrupted(settings: object, measure: object) -> Iterator[Judged]:
        yield Judged(einc.load("btt").analyze(64, 64))
        raise KeyboardInterrupt

    monkeypatch.setattr(request, "compared", interrupted)
    options = "search --in 64 --factors 2 --top 2".split()
    plot = tmp_path / "front.svg"
    objectives = "--objective flops --objective params".split()
    ended = call(*options, *objectives, "--json", "--plot", str(plot))
    assert ended.status == 130
    assert "btt" in plot.read_text()
    document = ended.json
    assert len(document["rows"]) == 2 and not document["search"]["finished"]
    assert "stopped before the end" in call(*options).out
    assert [row["structure"] for row in document["compared"]] == ["btt"]


def test_ranks_of_the_library_are_certified_too():
    document = call(*"search --in 7 --factors 2 --top 3 --json".split()).json
    ranks = {row["structure"]: row["rank"] for row in document["compared"]}
    assert ranks["monarch"]["status"] == "proved"
    for key in ("status", "generic", "bound"):
        assert document["rows"][0]["rank"][key] == ranks["monarch"][key]


def test_what_does_not_take_the_features_is_not_compared(tmp_path: Path):
    plot = tmp_path / "front.svg"
    objectives = "--objective flops --objective params".split()
    options = "search --in 2000000 --factors 2 --top 1 --json".split()
    ended = call(*options, *objectives, "--plot", str(plot))
    assert ended.status == 0 and ended.json["rows"]
    assert "monarch" in plot.read_text()
    names = [row["structure"] for row in ended.json["compared"]]
    assert "dense" not in names and "monarch" in names


@pytest.mark.parametrize("pareto", [False, True])
def test_limits_that_leave_nothing(pareto: bool):
    wanted = asked("time", "params", d=64, nu=["<=1/4"], pareto=pareto)
    assert search(wanted, measure=lambda profile: 1.0).found == []


def test_structures_without_matrix_products_have_a_place_in_a_front():
    figures = ("flops", "params-per-flop", "time")
    wanted = asked(*figures, d=64, pareto=True, both=True)
    result = search(wanted, 9, measure=lambda profile: 1.0)
    assert 0 in {one.figures["flops"] for one in result.looked}


def test_objectives_are_read():
    assert objective("params") == Objective("params", True)
    assert objective("params:min") == Objective("params", False)
    assert objective("flops:max") == Objective("flops", True)


def test_nothing_of_torch_is_needed():
    text = "import sys\nfrom einc.search.run import search\nassert 'torch' not in sys.modules"
    subprocess.run((COMMAND[0], "-c", text), check=True, cwd=ROOT, env=dict(os.environ))


def test_a_terminal_shows_how_far_it_is():
    shown = in_terminal(
        "search", "--in", "64", "--factors", "2", "--top", "1", columns=120
    )
    assert "searching" in shown and "(Ctrl-C stops it)" in shown
    assert "found_1" in shown
